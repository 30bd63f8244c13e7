"""Emulators of NeuronCores and wafers: one kernel, run for its numbers and read for its clock."""

from emu.clock.reading import Reading
from emu.datasheet import BANDS, Device, Quantity, Sheet
from emu.errors import EmulationError
from emu.instruction import (
    Cost,
    Crossing,
    Instruction,
    Operand,
    instruction,
    limit,
    release,
)
from emu.program import Known, Program, strict_jit

__all__ = [
    "BANDS",
    "Cost",
    "Crossing",
    "Device",
    "EmulationError",
    "Instruction",
    "Known",
    "Operand",
    "Program",
    "Quantity",
    "Reading",
    "Sheet",
    "instruction",
    "limit",
    "release",
    "strict_jit",
]
