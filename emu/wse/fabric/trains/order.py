"""What a program's values depend on of the times of a stepped run: who was first where.

A main thread's dispatches tell the order of its operations and tasks; the end of a microthread's
operation tells what could know of it. Two operations of a PE that move words of one color at once
would share them out by the cycle, which no kernel means: that is an error.
"""

import numpy as np

from emu.wse.fabric.arrays import PEs
from emu.wse.fabric.directions import several
from emu.wse.fabric.encoding.encode import Encoded
from emu.wse.fabric.encoding.instructions import ACTIVATE, CODE, NONE, STAMP, VECTOR
from emu.wse.fabric.errors import FabricError
from emu.wse.fabric.events import DONE, Dispatches, Operations
from emu.wse.fabric.program import is_static

FAR = np.iinfo(np.int64).max


def with_ends(
    encoded: Encoded,
    order: Dispatches,
    issues: np.ndarray,
    watch: PEs,
) -> Dispatches:
    """The order of a stepped run with the ends of what microthreads did.

    Args:
      encoded: the program.
      order: each dispatch.
      issues: `int8[steps, watched]`, the thread that each watched PE's datapath served.
      watch: the flat PEs watched, all that `order` tells of.

    Returns:
      `order` with a row (cycle after the last issue, PE, `DONE - thread`) for each, sorted.

    Raises:
      FabricError: two operations of a PE moved words of one color at once.
    """
    thread = _threads(encoded, order)
    # Without microthreads dispatches tell it all, and operations never overlap.
    if not (thread > 0).any():
        return order
    ends: list[Dispatches] = []
    operations: list[Operations] = []
    for number in np.unique(thread).tolist():
        if number == NONE:
            continue
        own = order[thread == number]
        served = issues == number
        # Of one thread, operations follow one another: its issues up to its next dispatch are its
        # last one's.
        of_thread = _issued(own, served, watch)
        operations.append(of_thread)
        if number:
            ends.append(_ends(of_thread, number))
    _check_apart(encoded, Operations.joined(operations))
    # An end is seen before what is dispatched in its cycle.
    both = Dispatches.joined([*ends, order])
    by_time = np.argsort(both.cycle, kind="stable")
    return both[by_time]


def fixed_order(encoded: Encoded) -> Dispatches | None:
    """The order of a program in which each PE does one task after another, whatever the times.

    Such a program starts one task on a PE, and what a task does last activates the next one: an
    `Activate`, or the end of what a microthread does. On static routes its values then need no log
    of a run. Cycles are stand-ins: 0, 1, 2, ... on each PE.

    Returns:
      As `with_ends`, or None: what a PE does next may be a matter of time.
    """
    if not _is_fixed(encoded):
        return None
    entry = encoded.entry.reshape(len(encoded.entry), -1)
    started = encoded.started.reshape(-1)
    ways = np.concatenate([entry, started[None]]).T
    # Thousands of PEs have a few sequences between them.
    distinct, of_pe = np.unique(ways, axis=0, return_inverse=True)
    by_way = np.argsort(of_pe.reshape(-1), kind="stable")
    counts = np.bincount(of_pe.reshape(-1), minlength=len(distinct))
    pes_of = np.split(by_way, np.cumsum(counts)[:-1])
    parts = [Dispatches.empty()]
    for way, pes in zip(distinct, pes_of, strict=True):
        codes = _chained(encoded, way[:-1], int(way[-1]))
        if codes is None:
            return None
        times = len(pes)
        parts.append(
            Dispatches(
                cycle=np.tile(np.arange(len(codes)), times),
                pe=np.repeat(pes, len(codes)),
                code=np.tile(np.array(codes, np.int64), times),
            )
        )
    return Dispatches.joined(parts)


def _is_fixed(encoded: Encoded) -> bool:
    """Whether no PE has two tasks that could be ready at once."""
    program = encoded.program
    if not all(is_static(color) for color in program.colors.values()):
        return False
    if several(encoded.started).any() or encoded.blocked.any():
        return False
    for declared in program.tasks.values():
        if any(task.color is not None for task in declared):
            return False
    for instruction in encoded.instructions:
        if instruction.kind not in (VECTOR, CODE, STAMP, ACTIVATE):
            return False
        if instruction.unblock != NONE or instruction.control:
            return False
        activates = instruction.kind == ACTIVATE or instruction.activate != NONE
        beside = instruction.thread != 0
        # What goes on beside its task would end at some time within it.
        if (activates or beside) and not (instruction.last and activates):
            return False
    return True


def _chained(encoded: Encoded, entry: np.ndarray, started: int) -> list[int] | None:
    """The codes of a PE that has tasks at these entries; None if they go round in a circle."""
    codes: list[int] = []
    task = started.bit_length() - 1
    for _ in range(len(entry) + 1):
        if task == NONE:
            return codes
        number = int(entry[task])
        while True:
            instruction = encoded.instructions[number]
            codes.append(number)
            number += 1
            if instruction.last:
                break
        task = instruction.activate
        if instruction.kind == ACTIVATE:
            task = instruction.target
        elif instruction.thread:
            codes.append(DONE - instruction.thread)
    return None


def _threads(encoded: Encoded, order: Dispatches) -> np.ndarray:
    """The thread that each dispatch gives an operation to; NONE of what is not for a datapath."""
    thread_of = []
    for instruction in encoded.instructions:
        on_datapath = instruction.kind == VECTOR
        thread_of.append(instruction.thread if on_datapath else NONE)
    # The last entry is that of the starts of data tasks, whose codes are below zero.
    thread_of.append(NONE)
    code = np.maximum(order.code, NONE)
    return np.array(thread_of)[code]


def _issued(own: Dispatches, served: np.ndarray, watch: PEs) -> Operations:
    """First and last issue of each operation of one thread, sorted by PE and cycle.

    PE and cycle are made one number, `PE * cycles + cycle`, so that one search over all PEs finds
    each operation's issues: those from its own dispatch up to the next one's.
    """
    own = own[np.lexsort((own.cycle, own.pe))]
    cycles = len(served) + 1
    step, column = np.nonzero(served)
    pe = watch[column].astype(np.int64)
    issue = np.sort(pe * cycles + step)
    # In a run of 100 steps, `cycles` is 101: PE 3's dispatch in cycle 7 is 310, and issues of it in
    # cycles 11 to 14 are 314 to 317. Each PE has numbers of its own, so one sorted array holds all
    # of them.
    begun = own.pe * cycles + own.cycle
    next_begun = np.append(begun[1:], FAR)
    first = issue[np.searchsorted(issue, begun)]
    last = issue[np.searchsorted(issue, next_begun) - 1]
    return Operations(
        pe=own.pe,
        code=own.code,
        dispatched=own.cycle,
        first=first % cycles,
        last=last % cycles,
    )


def _ends(operations: Operations, thread: int) -> Dispatches:
    """The ends of a microthread's operations, each in the cycle after its last issue."""
    code = np.full(len(operations), DONE - thread)
    return Dispatches(cycle=operations.last + 1, pe=operations.pe, code=code)


def _check_apart(encoded: Encoded, operations: Operations) -> None:
    """Operations that move one color at a PE must do so one after another, as dispatched."""
    instructions = encoded.instructions
    inward = np.array([instruction.inward for instruction in instructions])
    outward = np.array([instruction.outward for instruction in instructions])
    _check_side(encoded, operations, inward, "take")
    _check_side(encoded, operations, outward, "send")


def _check_side(
    encoded: Encoded,
    operations: Operations,
    color_of: np.ndarray,
    does: str,
) -> None:
    """The same of what they take, or of what they send; `color_of` each instruction."""
    color = color_of[operations.code]
    moving = operations[color != NONE]
    color = color[color != NONE]
    # By color and PE, then in the order of dispatch: an operation that overlaps any earlier one
    # shows at a neighbour, as operations that passed this test end in order.
    sort = np.lexsort((moving.dispatched, moving.pe, color))
    moving = moving[sort]
    color = color[sort]
    earlier = moving[:-1]
    later = moving[1:]
    same_color = color[1:] == color[:-1]
    same_pe = later.pe == earlier.pe
    overlap = earlier.last >= later.first
    mixed = np.flatnonzero(same_color & same_pe & overlap)
    if not len(mixed):
        return
    found = int(mixed[0])
    name = list(encoded.program.colors)[color[found]]
    at = encoded.program.coordinates(later.pe[found])
    raise FabricError(
        f"PE {at}: two threads {does} words of color '{name}' at once, in "
        f"cycle {later.first[found]}; let one wait for the other, or give each a color",
        encoded.instructions[later.code[found]].where,
    )


__all__ = ["fixed_order", "with_ends"]
