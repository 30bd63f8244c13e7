"""The operations of tasks as priced instructions, with names resolved to numbers."""

import dataclasses
from collections.abc import Iterable

import numpy as np

from emu.datasheet import Device
from emu.errors import LimitExceeded
from emu.wse.fabric import ops
from emu.wse.fabric.encoding.timing import Timing, price
from emu.wse.fabric.errors import FabricError, first_of
from emu.wse.fabric.program import FabricProgram, Task

VECTOR, CODE, STAMP, ACTIVATE, BLOCK, UNBLOCK, SWITCH, PAUSE = range(8)
NONE = -1
MOST_ISSUES = 2**31 - 1
DOES = {ACTIVATE: "activates", BLOCK: "blocks", UNBLOCK: "unblocks"}
KINDS = {
    ops.Vector: VECTOR,
    # A hardware loop and a control wavelet hold the datapath as any vector operation does; their
    # prices and colors are what tells them apart.
    ops.Map: VECTOR,
    ops.Control: VECTOR,
    ops.Code: CODE,
    ops.Load: CODE,
    ops.Stamp: STAMP,
    ops.Activate: ACTIVATE,
    ops.Block: BLOCK,
    ops.Unblock: UNBLOCK,
    ops.Switch: SWITCH,
    ops.Pause: PAUSE,
}


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
      control: `ops.DATA` if it sends data, else whose routers its control wavelet turns.
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
class Names:
    """What names of a program stand for.

    Attributes:
      program, device: whose.
      tasks, stamps: name to index; stamps are numbered as they are met.
      found: what `places` has worked out, by task.
      priced: instructions of operations met so far, by task, line and the operation's identity:
        thousands of sequences of a program may share theirs.
    """

    program: FabricProgram
    device: Device
    tasks: dict[str, int]
    stamps: dict[str, int]
    found: dict[int, tuple[np.ndarray, np.ndarray]]
    priced: "dict[tuple[str, str, int], Instruction]"

    def color(self, name: str, task: str, where: str) -> int:
        """Index of a color that `task` uses."""
        colors = self.program.colors
        if name not in colors:
            raise _unknown(task, "color", name, colors, where)
        return colors[name].index

    def task(self, name: str | None, task: str, where: str) -> int:
        """Index of a task that `task` activates, blocks or unblocks; NONE if there is none."""
        if name is None:
            return NONE
        if name not in self.tasks:
            raise _unknown(task, "task", name, self.tasks, where)
        return self.tasks[name]

    def places(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        """`bool[height, width]`: where a task has code, and where wavelets start it."""
        if index in self.found:
            return self.found[index]
        # A name may be declared several times, with other code on other PEs.
        has_code = np.zeros(self.program.shape, bool)
        hears = np.zeros(self.program.shape, bool)
        for task in list(self.program.tasks.values())[index]:
            has_code |= task.place
            if task.color is not None:
                hears |= task.place
        self.found[index] = has_code, hears
        return has_code, hears


def _unknown(
    task: str,
    what: str,
    name: str,
    known: Iterable[str],
    where: str,
) -> FabricError:
    has = ", ".join(known) or "none"
    return FabricError(f"task '{task}': no {what} '{name}', has {has}", where)


def instructions(names: Names, name: str, task: Task) -> list[Instruction]:
    """The operations of a task as instructions, the last of which ends it."""
    made = [_priced(names, op, name, task) for op in task.code]
    _check_other_tasks(names, made, name, task)
    _check_held(names, name, task)
    if PAUSE in (made[0].kind, made[-1].kind):
        raise FabricError(
            f"task '{name}' starts or ends with Pause, must have an operation before and after",
            task.where,
        )
    made[-1] = dataclasses.replace(made[-1], last=True)
    # A pause ends a run of its task, and the next one goes on behind it.
    for number, instruction in enumerate(made):
        if instruction.kind == PAUSE:
            made[number] = dataclasses.replace(instruction, last=True)
    return made


def _priced(names: Names, op: ops.Op, name: str, task: Task) -> Instruction:
    """`_instruction`, once for each operation; a switch is checked at each task's PEs."""
    if isinstance(op, ops.Switch):
        return _instruction(names, op, name, task)
    key = name, task.where, id(op)
    if key not in names.priced:
        names.priced[key] = _instruction(names, op, name, task)
    return names.priced[key]


def _instruction(names: Names, op: ops.Op, name: str, task: Task) -> Instruction:
    where = task.where
    inward = outward = target = activate = unblock = NONE
    thread = 0
    control = ops.DATA
    match op:
        case ops.Vector():
            if op.inward:
                inward = names.color(op.inward.color, name, where)
            if op.outward:
                outward = names.color(op.outward.color, name, where)
            activate = names.task(op.activate, name, where)
            unblock = names.task(op.unblock, name, where)
            thread = op.thread or 0
        case ops.Control():
            outward = names.color(op.color, name, where)
            control = op.routers
        case ops.Activate() | ops.Block() | ops.Unblock():
            target = names.task(op.task, name, where)
        case ops.Stamp():
            # A name in several tasks is one stamp, of which the last reading is reported.
            target = names.stamps.setdefault(op.name, len(names.stamps))
        case ops.Switch():
            target = names.color(op.color, name, where)
    instruction = Instruction(
        op=op,
        kind=KINDS[type(op)],
        time=price(op, names.device),
        thread=thread,
        inward=inward,
        outward=outward,
        target=target,
        activate=activate,
        unblock=unblock,
        control=control,
        last=False,
        where=where,
    )
    _check_length(instruction, name)
    _check_completion(instruction, name)
    _check_switch(names, instruction, name, task)
    return instruction


def _check_length(instruction: Instruction, name: str) -> None:
    """The stepper counts an operation's issues in 32 bits."""
    issues = instruction.time.issues
    if issues > MOST_ISSUES:
        raise LimitExceeded(
            f"task '{name}': an operation of {issues} issues, at most {MOST_ISSUES}; cut it in "
            "parts",
            instruction.where,
        )


def _check_completion(instruction: Instruction, name: str) -> None:
    """Only what runs beside the main thread has an end of its own."""
    completion = (instruction.activate, instruction.unblock)
    if instruction.thread == 0 and completion != (NONE, NONE):
        raise FabricError(
            f"task '{name}': a synchronous operation activates or unblocks a task; "
            "give it a thread, or use Activate after it",
            instruction.where,
        )


def _check_other_tasks(
    names: Names,
    made: list[Instruction],
    name: str,
    task: Task,
) -> None:
    """Tasks that a task activates, blocks or unblocks must be there, on every PE that does so."""
    # Once for each pair, not for each of the thousands of instructions that a task may have.
    done: set[tuple[str, int]] = set()
    for instruction in made:
        done.add(("activates", instruction.activate))
        done.add(("unblocks", instruction.unblock))
        if instruction.kind in DOES:
            done.add((DOES[instruction.kind], instruction.target))
    for does, other in sorted(done):
        if other == NONE:
            continue
        has_code, hears = names.places(other)
        other_name = list(names.tasks)[other]
        lacking = task.place & ~has_code
        if lacking.any():
            raise FabricError(
                f"task '{name}' {does} task '{other_name}' on PE {first_of(lacking)}, where it has "
                "no code; declare it there, or leave this PE out",
                task.where,
            )
        if does == "activates" and (task.place & hears).any():
            raise FabricError(
                f"task '{name}' activates a data task, '{other_name}', which its wavelets alone "
                "start",
                task.where,
            )


def _check_switch(
    names: Names,
    instruction: Instruction,
    name: str,
    task: Task,
) -> None:
    """A switch must have the position that it is set to."""
    op = instruction.op
    if not isinstance(op, ops.Switch):
        return
    color = names.program.colors[op.color]
    beyond = task.place & (color.last < op.position)
    if beyond.any():
        y, x = np.argwhere(beyond)[0]
        last = color.last[y, x]
        raise FabricError(
            f"task '{name}': color '{op.color}' switches to position {op.position} on PE "
            f"{first_of(beyond)}, whose route has positions 0 to {last}; give the route another "
            "(receive, send) in then",
            instruction.where,
        )


def _check_held(names: Names, name: str, task: Task) -> None:
    """All PEs that run a task must hold the buffers that it touches."""
    operands = [operand for op in task.code for operand in _memory(op)]
    if task.argument is not None:
        operands.append(task.argument)
    # `dict.fromkeys` keeps the order of the code, so that of several faults the same one is told in
    # every run.
    for operand in dict.fromkeys(operands):
        _check_operand(names, operand, name, task)
    for buffer in dict.fromkeys(operand.buffer for operand in operands):
        lacking = task.place & ~names.program.held[buffer]
        if lacking.any():
            at = first_of(lacking)
            raise FabricError(
                f"task '{name}': PE {at} does not hold buffer '{buffer}'",
                task.where,
            )


def _check_operand(names: Names, operand: ops.Memory, name: str, task: Task) -> None:
    """An operand must be a part of a buffer of this program."""
    buffers = names.program.buffers
    if operand.buffer not in buffers:
        raise _unknown(name, "buffer", operand.buffer, buffers, task.where)
    buffer = buffers[operand.buffer]
    # Four elements from 2 on in steps of 3 end at 2 + 3 * 3 = 11.
    last = operand.start + (operand.elements - 1) * operand.step
    begin = buffer[:1]
    itemsize = buffer.nbytes // buffer.elements
    # Another program's buffer of the same name would pass by its name; its dtype or its place in
    # SRAM gives it away; else operations would read and write what this program has there.
    address = begin.address + operand.start * itemsize
    is_part = 0 <= operand.start <= last < buffer.elements
    if not is_part or (operand.dtype, operand.address) != (buffer.dtype, address):
        raise FabricError(
            f"task '{name}': {operand.elements} {operand.dtype} of buffer '{buffer.name}' from "
            f"{operand.start} on are no part of this program's, {buffer.elements} {buffer.dtype}; "
            "take slices of the buffer that this program declared",
            task.where,
        )


def _of_all(codes: Iterable[ops.Code]) -> list[ops.Memory]:
    return [operand for op in codes for operand in _memory(op)]


def _memory(op: ops.Op) -> list[ops.Memory]:
    """What an operation touches in memory."""
    match op:
        case ops.Code():
            operands = (op.dst, *op.sources, *_of_all(op.first))
        case ops.Vector():
            operands = (op.dst, *op.sources)
        case ops.Map():
            operands = (op.dst, op.weights, op.x)
        case _:
            operands = ()
    return [each for each in operands if isinstance(each, ops.Memory)]


__all__ = [
    "ACTIVATE",
    "BLOCK",
    "CODE",
    "Instruction",
    "NONE",
    "Names",
    "PAUSE",
    "STAMP",
    "SWITCH",
    "UNBLOCK",
    "VECTOR",
    "instructions",
]
