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
    Names,
    instructions,
)
from emu.wse.fabric.encoding.queues import Side, sides
from emu.wse.fabric.program import FabricProgram, Task, is_static


@dataclasses.dataclass(frozen=True)
class Encoded:
    """A checked program on a device.

    Attributes:
      program, device: what was encoded.
      instructions: of all tasks, each task's in a row.
      entry: `int32[tasks, height, width]`, a task's first instruction on each PE, or NONE.
      started, blocked: `int32[height, width]`, tasks as bits at the first cycle.
      inputs, outputs: the queues at the PEs' ramps.
      stamps: names of the stamps, in the order of their indices.
      straight: every PE runs one fixed sequence of synchronous operations on static routes.
    """

    program: FabricProgram
    device: Device
    instructions: tuple[Instruction, ...]
    entry: np.ndarray
    started: np.ndarray
    blocked: np.ndarray
    inputs: Side
    outputs: Side
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
    numbers = {name: number for number, name in enumerate(program.tasks)}
    # Tasks are numbered before any is encoded: one may activate another that is declared later.
    names = Names(
        program=program, device=device, tasks=numbers, stamps={}, found={}, priced={}
    )
    made: list[Instruction] = []
    of_tasks: list[tuple[Task, list[Instruction]]] = []
    # A program without tasks keeps one empty row, so that nobody has to ask whether there is one.
    entry = np.full((max(1, len(numbers)), *program.shape), NONE, np.int32)
    started = np.zeros(program.shape, np.int32)
    blocked = np.zeros(program.shape, np.int32)
    for name, declared in program.tasks.items():
        number = numbers[name]
        for task in declared:
            # Tasks of one name on other PEs have code of their own, at another entry.
            entry[number][task.place] = len(made)
            # Task 3 that starts is True << 3, the bit 0b1000.
            started[task.place] |= task.start << number
            blocked[task.place] |= task.blocked << number
            of_task = instructions(names, name, task)
            of_tasks.append((task, of_task))
            made += of_task
    inputs, outputs = sides(program, device, of_tasks)
    checks.check_stamps(len(names.stamps))
    return Encoded(
        program=program,
        device=device,
        instructions=tuple(made),
        entry=entry,
        started=started,
        blocked=blocked,
        inputs=inputs,
        outputs=outputs,
        stamps=tuple(names.stamps),
        straight=_is_straight(program, made),
    )


def _is_straight(program: FabricProgram, made: list[Instruction]) -> bool:
    """Whether nothing that a PE does next is a matter of time."""
    for declared in program.tasks.values():
        for task in declared:
            if not task.start or task.blocked or task.color is not None:
                return False
    # When a microthread ends, and which words pass before a switch turns, depends on when words
    # come.
    for instruction in made:
        if instruction.kind not in (VECTOR, CODE, STAMP):
            return False
        if instruction.thread != 0 or instruction.control:
            return False
        if instruction.activate != NONE or instruction.unblock != NONE:
            return False
    return all(is_static(color) for color in program.colors.values())


__all__ = ["Encoded", "encode"]
