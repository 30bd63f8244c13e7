"""What each folder of this package declares: a collective, by all that one is.

Its three parts say the same thing three times and share no code but what may be called
specification: a reduce tree (`emu.wse.trees`) and how many words a tile has (`emu.wse.wavelets`).

- `meaning.py`: the instruction on the timeline, what it computes and costs;
- `arrival.py`: the closed form, when each PE has its result, for any skew of their starts;
- `program.py`: colors, routes and operations of every PE, stepped wavelet by wavelet.

One test goes through all folders and holds the three equal over drawn uses.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, TypeAlias

import numpy as np

from emu.datasheet import Device
from emu.wse.fabric.layout.code import Code
from emu.wse.fabric.layout.line import Line, Within
from emu.wse.fabric.ops import Buffer
from emu.wse.fabric.program import FabricProgram
from emu.wse.spaces import Sram
from emu.wse.timeline.times import Times

ProgramOfUse: TypeAlias = Callable[[FabricProgram, Within, Buffer, Buffer], Code]
"""Lays a use on PEs of a fabric program, given its buffers `x` and `y`."""

ArrivalOfUse: TypeAlias = Callable[[Device, np.ndarray], np.ndarray]
"""`int64[rows, columns]`, when each PE can go on, given when each could start."""


def _never_late(device: Device) -> int:
    return 0


AXES = ("row", "col")
"""Of the mesh on which a use's instruction runs; a line of PEs is one row."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Use:
    """One use of a collective on a few PEs, in float32.

    Attributes:
      of: its parameters, as a failing test prints them.
      shape: rows and columns of PEs; a line is one row.
      elements: of buffer `x`, which every PE holds.
      result: of which buffer the result lies in, `"x"` or `"y"`, and how many elements it has.
      instruction: `x` of a PE to its result, on a mesh with axes `AXES`.
      program: the same as a fabric program.
      arrival: its closed form.
      order: for each PE of the mesh's row its place on the line; None where that is its number.
      receivers: `bool[rows, columns]`, the PEs that have a result, whose ends are compared; None
        is all.
      late_cycles: how much later than the formula says a PE may end where it neglects something.
      same_clock: whether the timeline's clock, which knows no turned routes, is the program's.
    """

    of: str
    shape: tuple[int, int]
    elements: int
    result: tuple[str, int]
    instruction: Callable[[Sram], Sram]
    program: ProgramOfUse
    arrival: ArrivalOfUse
    order: np.ndarray | None = None
    receivers: np.ndarray | None = None
    late_cycles: Callable[[Device], int] = _never_late
    same_clock: bool = True


@dataclasses.dataclass(frozen=True, kw_only=True)
class Collective:
    """One collective, declared in its folder's `__init__.py` as `COLLECTIVE`.

    Attributes:
      instruction: what kernels call, on tiles in SRAM.
      arrival: the closed form.
      program: what fabric programs call; None where none has been written.
      draw: a use of `program`, given random numbers and the PEs of a line, 2 or more.
      starts_apart: whether the formula holds for PEs that start at different times.
    """

    instruction: Callable[..., Any]
    arrival: Callable[..., Times]
    program: Callable[..., Code] | None = None
    draw: Callable[[np.random.Generator, int], Use] | None = None
    starts_apart: bool = True


def on_a_line(lay: Callable[[Line, Buffer, Buffer], Code]) -> ProgramOfUse:
    """The program of a use on the line that is the rectangle's one row."""

    def program(program: FabricProgram, within: Within, x: Buffer, y: Buffer) -> Code:
        line = Line(program, "x", within)
        return lay(line, x, y)

    return program


def of_a_line(formula: Callable[[Times, Device], Times]) -> ArrivalOfUse:
    """The arrival of a use on a line, from a formula of `int64[1, pes, 1]` starts."""

    def arrival(device: Device, starts: np.ndarray) -> np.ndarray:
        one_line = starts[:, :, None]
        done = formula(one_line, device)
        return done[:, :, 0]

    return arrival


__all__ = ["AXES", "Collective", "Use", "of_a_line", "on_a_line"]
