"""Emulators of NeuronCores and wafers: one kernel, run for its numbers and read for its clock."""

from emu import progress
from emu.boxes import ds, old
from emu.clock.reading import Event, Reading
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
from emu.report.bands import Bound, banded, bound, drawn

__all__ = [
    "BANDS",
    "Bound",
    "Cost",
    "Crossing",
    "Device",
    "EmulationError",
    "Event",
    "Instruction",
    "Known",
    "Operand",
    "Program",
    "Quantity",
    "Reading",
    "Sheet",
    "banded",
    "bound",
    "drawn",
    "ds",
    "instruction",
    "limit",
    "old",
    "progress",
    "release",
    "strict_jit",
]
