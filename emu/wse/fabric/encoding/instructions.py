"""The operations of tasks as priced instructions, with names resolved to numbers."""

import dataclasses
from collections.abc import Iterable

from emu.datasheet import Device
from emu.errors import LimitExceeded
from emu.wse.fabric import ops
from emu.wse.fabric.encoding.timing import Timing, price
from emu.wse.fabric.errors import FabricError, first_of
from emu.wse.fabric.program import THREADS, FabricProgram, Task

VECTOR, CODE, STAMP, ACTIVATE, BLOCK, UNBLOCK, SWITCH, PAUSE = range(8)
NONE = -1
KINDS = {
    ops.Vector: VECTOR,
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
    """

    program: FabricProgram
    device: Device
    tasks: dict[str, int]
    stamps: dict[str, int]

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

    def is_data_task(self, index: int) -> bool:
        """Whether wavelets start the task, on any PE."""
        declared = list(self.program.tasks.values())[index]
        return any(task.color for task in declared)


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
    made = [_instruction(names, op, name, task) for op in task.code]
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
    _check_tasks(names, instruction, name)
    _check_buffers(names, instruction, name, task)
    return instruction


def _check_tasks(names: Names, instruction: Instruction, name: str) -> None:
    """What an instruction does to tasks, and when, must be possible."""
    thread = instruction.thread
    if not 0 <= thread < THREADS:
        raise LimitExceeded(
            f"task '{name}': thread {thread}, a PE has 1 to {THREADS - 1}",
            instruction.where,
        )
    completion = (instruction.activate, instruction.unblock)
    if thread == 0 and completion != (NONE, NONE):
        raise FabricError(
            f"task '{name}': a synchronous operation activates or unblocks a task; "
            "give it a thread, or use Activate after it",
            instruction.where,
        )
    activated = instruction.activate
    if instruction.kind == ACTIVATE:
        activated = instruction.target
    if activated != NONE and names.is_data_task(activated):
        raise FabricError(
            f"task '{name}' activates a data task, which its wavelets alone start",
            instruction.where,
        )


def _check_buffers(
    names: Names,
    instruction: Instruction,
    name: str,
    task: Task,
) -> None:
    """All PEs that run an instruction must hold the buffers that it touches."""
    for buffer in _held(instruction.op):
        lacking = task.place & ~names.program.held[buffer]
        if lacking.any():
            at = first_of(lacking)
            raise FabricError(
                f"task '{name}': PE {at} does not hold buffer '{buffer}'",
                task.where,
            )


def _held(op: ops.Op) -> list[str]:
    """Buffers that an operation touches."""
    match op:
        case ops.Vector() | ops.Code():
            operands = (op.dst, *op.sources)
        case ops.Map():
            operands = (op.dst, op.weights, op.x)
        case _:
            operands = ()
    return [each.buffer for each in operands if isinstance(each, ops.Memory)]


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
