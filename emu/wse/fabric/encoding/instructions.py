"""The operations of tasks as priced instructions, with names resolved to numbers."""

import dataclasses
from typing import Any

import numpy as np

from emu.datasheet import Device
from emu.errors import LimitExceeded
from emu.wse.fabric import ops
from emu.wse.fabric.encoding.timing import Timing, price
from emu.wse.fabric.errors import FabricError
from emu.wse.fabric.program import THREADS, Color, FabricProgram, Task

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


def instructions(
    program: FabricProgram,
    device: Device,
    name: str,
    task: Task,
    names: dict[str, int],
    stamps: dict[str, int],
) -> list[Instruction]:
    code = task.code
    made = [_instruction(program, device, op, name, task, names, stamps) for op in code]
    if PAUSE in (made[0].kind, made[-1].kind):
        raise FabricError(
            f"task '{name}' starts or ends with Pause, must have an operation before and after",
            task.where,
        )
    made[-1] = dataclasses.replace(made[-1], last=True)
    return [dataclasses.replace(i, last=True) if i.kind == PAUSE else i for i in made]


def _instruction(
    program: FabricProgram,
    device: Device,
    op: ops.Op,
    name: str,
    task: Task,
    names: dict[str, int],
    stamps: dict[str, int],
) -> Instruction:
    def index(kept: dict[str, Any], key: str | None, what: str) -> int:
        if key is None:
            return NONE
        if key not in kept:
            raise FabricError(
                f"task '{name}': no {what} '{key}', has {', '.join(kept) or 'none'}",
                task.where,
            )
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
            outward = index(program.colors, op.color, "color")
            control = op.routers
        case ops.Activate() | ops.Block() | ops.Unblock():
            target = index(names, op.task, "task")
        case ops.Stamp():
            target = stamps.setdefault(op.name, len(stamps))
        case ops.Switch():
            target = index(program.colors, op.color, "color")
    if not 0 <= thread < THREADS:
        raise LimitExceeded(
            f"task '{name}': thread {thread}, a PE has 1 to {THREADS - 1}", task.where
        )
    if thread == 0 and (activate, unblock) != (NONE, NONE):
        raise FabricError(
            f"task '{name}': a synchronous operation activates or unblocks a task; "
            "give it a thread, or use Activate after it",
            task.where,
        )
    for started in (activate, target if isinstance(op, ops.Activate) else NONE):
        if started != NONE and any(
            t.color for t in list(program.tasks.values())[started]
        ):
            raise FabricError(
                f"task '{name}' activates a data task, which its wavelets alone start",
                task.where,
            )
    for held in _held(op):
        lacking = task.place & ~program.held[held]
        if lacking.any():
            y, x = np.argwhere(lacking)[0]
            raise FabricError(
                f"task '{name}': PE (x={x}, y={y}) does not hold buffer '{held}'",
                task.where,
            )
    return Instruction(
        op,
        KINDS[type(op)],
        price(op, device),
        thread,
        inward,
        outward,
        target,
        activate,
        unblock,
        control,
        False,
        task.where,
    )


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


__all__ = [
    "ACTIVATE",
    "BLOCK",
    "CODE",
    "Instruction",
    "NONE",
    "PAUSE",
    "STAMP",
    "SWITCH",
    "UNBLOCK",
    "VECTOR",
    "instructions",
]
