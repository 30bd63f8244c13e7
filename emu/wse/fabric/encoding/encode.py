"""A fabric program in numbers: its instructions, and which of them each PE runs."""

import dataclasses

import numpy as np

from emu.datasheet import Device
from emu.wse.fabric.encoding import checks
from emu.wse.fabric.encoding.instructions import (
    CODE,
    NONE,
    STAMP,
    VECTOR,
    Instruction,
    instructions,
)
from emu.wse.fabric.program import FabricProgram


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
    checks.check_size(program, device)
    checks.check_memory(program, device)
    checks.check_tasks(program)
    for name, color in program.colors.items():
        checks.check_route(name, color)
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
            made += instructions(program, device, name, task, names, stamps)
    return Encoded(
        program,
        device,
        tuple(made),
        entry,
        started,
        blocked,
        tuple(stamps),
        _straight(program, made),
    )


def _straight(program: FabricProgram, made: list[Instruction]) -> bool:
    tasks = [t for declared in program.tasks.values() for t in declared]
    plain = all(t.start and not t.blocked and t.color is None for t in tasks)
    static = all(
        len(c.receive) == 1 and not (c.receive & (c.receive - 1)).any()
        for c in program.colors.values()
    )
    kinds = all(
        i.kind in (VECTOR, CODE, STAMP) and i.thread == 0 and not i.control
        for i in made
    )
    return (
        plain
        and static
        and kinds
        and all(i.activate == i.unblock == NONE for i in made)
    )


__all__ = ["Encoded", "encode"]
