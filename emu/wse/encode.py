"""A fabric program in numbers: instructions with their cycles, tables over the PEs, and its checks.

What may be refused without running is refused here: a route that leaves the wafer or meets a
router that does not listen, a task that nobody declares, SRAM that overflows.
"""

import dataclasses
from typing import Any

import numpy as np

from emu.datasheet import Device
from emu.errors import EmulationError, LimitExceeded, OutOfMemory
from emu.wse import ops
from emu.wse.program import DIRECTIONS, OPPOSITE, RAMP, THREADS, Color, FabricProgram, Task
from emu.wse.timing import Timing, price

VECTOR, CODE, STAMP, ACTIVATE, BLOCK, UNBLOCK, SWITCH, PAUSE = range(8)
NONE = -1
KINDS = {
    ops.Vector: VECTOR, ops.Map: VECTOR, ops.Control: VECTOR, ops.Code: CODE, ops.Load: CODE,
    ops.Stamp: STAMP, ops.Activate: ACTIVATE, ops.Block: BLOCK, ops.Unblock: UNBLOCK,
    ops.Switch: SWITCH, ops.Pause: PAUSE,
}  # fmt: skip


class FabricError(EmulationError):
    """A fabric program that the wafer cannot run as written."""


@dataclasses.dataclass(frozen=True)
class Instruction:
    """One operation of a task, priced.

    Attributes:
      op: the operation.
      kind: VECTOR (on the datapath), CODE, STAMP, ACTIVATE, BLOCK, UNBLOCK, SWITCH or PAUSE.
      time: its cycles.
      thread: 0 is the main thread.
      inward, outward: color index of its fabric source and destination, or NONE.
      target: task index of ACTIVATE, BLOCK, UNBLOCK; stamp index of STAMP; color of SWITCH.
      activate, unblock: task index, or NONE, when it completes.
      control: `ops.LOCAL` for data, else the reach of the control wavelet it sends.
      last: ends its task, or this run of it.
      where: the line that declared the task.
    """

    op: ops.Op
    kind: int
    time: Timing
    thread: int
    inward: int
    outward: int
    target: int
    activate: int
    unblock: int
    control: int
    last: bool
    where: str


@dataclasses.dataclass(frozen=True)
class Encoded:
    """A checked program on a device.

    Attributes:
      program, device: what was encoded.
      instructions: of all tasks, each task's in a row.
      entry: `int32[tasks, height, width]`, a task's first instruction on each PE, or NONE.
      started, blocked: `int32[height, width]`, tasks as bits at the first cycle.
      stamps: names of the stamps, in the order of their indices.
      straight: every PE runs one fixed sequence of synchronous operations on static routes.
    """

    program: FabricProgram
    device: Device
    instructions: tuple[Instruction, ...]
    entry: np.ndarray
    started: np.ndarray
    blocked: np.ndarray
    stamps: tuple[str, ...]
    straight: bool


def encode(program: FabricProgram, device: Device) -> Encoded:
    """Checks a program against a device and prices its instructions.

    Raises:
      FabricError: routes, tasks or colors that do not go together; names the PE and the color.
      LimitExceeded: more than the hardware has.
      OutOfMemory: buffers and code that overflow a PE's SRAM.
    """
    _check_size(program, device)
    _check_memory(program, device)
    for name, color in program.colors.items():
        _check_route(name, color)
    names = {name: i for i, name in enumerate(program.tasks)}
    stamps: dict[str, int] = {}
    made: list[Instruction] = []
    entry = np.full((max(1, len(names)), *program.shape), NONE, np.int32)
    started = np.zeros(program.shape, np.int32)
    blocked = np.zeros(program.shape, np.int32)
    for name, declared in program.tasks.items():
        for task in declared:
            entry[names[name]][task.place] = len(made)
            started[task.place] |= task.start << names[name]
            blocked[task.place] |= task.blocked << names[name]
            made += _instructions(program, device, name, task, names, stamps)
    return Encoded(program, device, tuple(made), entry, started, blocked, tuple(stamps),
                   _straight(program, made))  # fmt: skip


def _straight(program: FabricProgram, made: list[Instruction]) -> bool:
    tasks = [t for declared in program.tasks.values() for t in declared]
    plain = all(t.start and not t.blocked and t.color is None for t in tasks)
    static = all(len(c.receive) == 1 and not (c.receive & (c.receive - 1)).any()
                 for c in program.colors.values())  # fmt: skip
    kinds = all(i.kind in (VECTOR, CODE, STAMP) and i.thread == 0 and not i.control for i in made)
    return plain and static and kinds and all(i.activate == i.unblock == NONE for i in made)


# --- instructions ---


def _instructions(
    program: FabricProgram, device: Device, name: str, task: Task, names: dict[str, int],
    stamps: dict[str, int],
) -> list[Instruction]:  # fmt: skip
    code = task.code
    made = [_instruction(program, device, op, name, task, names, stamps) for op in code]
    if PAUSE in (made[0].kind, made[-1].kind):
        raise FabricError(f"task '{name}' starts or ends with Pause, must have an operation before "
                          "and after", task.where)  # fmt: skip
    made[-1] = dataclasses.replace(made[-1], last=True)
    return [dataclasses.replace(i, last=True) if i.kind == PAUSE else i for i in made]


def _instruction(
    program: FabricProgram, device: Device, op: ops.Op, name: str, task: Task,
    names: dict[str, int], stamps: dict[str, int],
) -> Instruction:  # fmt: skip
    def index(kept: dict[str, Any], key: str | None, what: str) -> int:
        if key is None:
            return NONE
        if key not in kept:
            raise FabricError(f"task '{name}': no {what} '{key}', has "
                              f"{', '.join(kept) or 'none'}", task.where)  # fmt: skip
        found = kept[key]
        return found.index if isinstance(found, Color) else found

    inward = outward = target = activate = unblock = NONE
    thread = control = 0
    match op:
        case ops.Vector():
            inward = index(program.colors, op.inward and op.inward.color, "color")
            outward = index(program.colors, op.outward and op.outward.color, "color")
            activate = index(names, op.activate, "task")
            unblock = index(names, op.unblock, "task")
            thread = op.thread or 0
        case ops.Control():
            outward, control = index(program.colors, op.color, "color"), op.reach
        case ops.Activate() | ops.Block() | ops.Unblock():
            target = index(names, op.task, "task")
        case ops.Stamp():
            target = stamps.setdefault(op.name, len(stamps))
        case ops.Switch():
            target = index(program.colors, op.color, "color")
    if not 0 <= thread < THREADS:
        raise LimitExceeded(f"task '{name}': thread {thread}, a PE has 1 to {THREADS - 1}",
                            task.where)  # fmt: skip
    if thread == 0 and (activate, unblock) != (NONE, NONE):
        raise FabricError(f"task '{name}': a synchronous operation activates or unblocks a task; "
                          "give it a thread, or use Activate after it", task.where)  # fmt: skip
    for held in _held(op):
        lacking = task.place & ~program.held[held]
        if lacking.any():
            y, x = np.argwhere(lacking)[0]
            raise FabricError(f"task '{name}': PE (x={x}, y={y}) does not hold buffer '{held}'",
                              task.where)  # fmt: skip
    return Instruction(op, KINDS[type(op)], price(op, device), thread, inward, outward, target,
                       activate, unblock, control, False, task.where)  # fmt: skip


def _held(op: ops.Op) -> list[str]:
    """Buffers that an operation touches."""
    match op:
        case ops.Vector():
            memory = (op.dst, *op.sources)
        case ops.Map():
            memory = (op.dst, op.weights, op.x)
        case ops.Code():
            memory = (op.dst, *op.sources)
        case _:
            memory = ()
    return [m.buffer for m in memory if isinstance(m, ops.Memory)]


# --- checks ---


def _check_size(program: FabricProgram, device: Device) -> None:
    for what, actual, allowed in (
        ("width", program.width, device.grid_width), ("height", program.height, device.grid_height),
        ("colors", len(program.colors), device.colors),
    ):  # fmt: skip
        if actual > allowed:
            raise LimitExceeded(f"fabric program: {what} is {actual}, {device.name} has {allowed}")
    for name, c in program.colors.items():
        for queue, depths in ((c.input_queue, device.input_queue_words),
                              (c.output_queue, device.output_queue_words)):  # fmt: skip
            if not 0 <= queue < len(depths):
                raise LimitExceeded(f"color '{name}': queue {queue}, {device.name} has 0 to "
                                    f"{len(depths) - 1}")  # fmt: skip


def _check_memory(program: FabricProgram, device: Device) -> None:
    code = device.code_bytes if program.code_bytes is None else program.code_bytes
    used = program.used_bytes() + int(code)
    limit = device.capacity_bytes["sram"]
    if limit is not None and used.max() > limit:
        y, x = np.unravel_index(used.argmax(), used.shape)
        raise OutOfMemory(
            f"PE (x={x}, y={y}): {used.max()} bytes of code and buffers, its SRAM has {limit}"
        )


def neighbour(x: np.ndarray, side: int, fill: Any = 0) -> np.ndarray:
    """`[..., height, width]`: each PE's neighbour's entry on a side; `fill` beyond the edge."""
    out = np.full_like(x, fill)
    here: list[Any] = [slice(None), slice(None)]
    there: list[Any] = [slice(None), slice(None)]
    axis, ahead = (1, side == 1) if side in (1, 3) else (0, side == 2)
    here[axis], there[axis] = (slice(None, -1), slice(1, None))[:: 1 if ahead else -1]
    out[(..., *here)] = x[(..., *there)]
    return out


def _check_circle(name: str, color: Color, at: int) -> None:
    """Where routers merge streams a wavelet could come round again, and would for ever.

    Routers that receive from one direction cannot: nothing enters a circle of them.
    """
    receive, send = color.receive[at], color.send[at]
    if not (receive & (receive - 1)).any():
        return
    hears = [
        (receive >> side & 1 & neighbour(send, side) >> OPPOSITE[side]).astype(bool)
        for side in range(RAMP)
    ]
    left = np.logical_or.reduce(hears)
    while True:  # a router that no router in question sends to is not on a circle
        fed = sum(a & neighbour(left, side, False) for side, a in enumerate(hears))
        kept = left & (np.asarray(fed) > 0)
        if (kept == left).all():
            break
        left = kept
    if left.any():
        y, x = np.argwhere(left)[0]
        raise FabricError(f"color '{name}': its route turns in a circle, which feeds PE "
                          f"(x={x}, y={y})")  # fmt: skip


def _check_route(name: str, color: Color) -> None:
    """Every wavelet sent to a neighbour must be received there, in some position of its switch."""
    for at in range(len(color.receive)):
        _check_circle(name, color, at)
    listens = np.bitwise_or.reduce(color.receive, axis=0)
    for side in range(RAMP):
        sends = (color.send >> side & 1).any(axis=0)
        off = sends & ~neighbour(np.ones_like(sends), side, False)
        if off.any():
            y, x = np.argwhere(off)[0]
            raise FabricError(f"color '{name}': PE (x={x}, y={y}) sends {DIRECTIONS[side]}, off "
                              "the edge of the program's rectangle")  # fmt: skip
        heard = neighbour(listens, side) >> OPPOSITE[side] & 1
        deaf = sends & (heard == 0)
        if deaf.any():
            y, x = np.argwhere(deaf)[0]
            raise FabricError(
                f"color '{name}': PE (x={x}, y={y}) sends {DIRECTIONS[side]}, where the router "
                f"does not receive from {DIRECTIONS[OPPOSITE[side]]}"
            )
    silent = (color.receive != 0) & (color.send == 0)
    if silent.any():
        _, y, x = np.argwhere(silent)[0]
        raise FabricError(f"color '{name}': PE (x={x}, y={y}) receives and sends nowhere")


__all__ = ["Encoded", "FabricError", "Instruction", "NONE", "encode", "neighbour"]
