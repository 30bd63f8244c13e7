"""Lines of PEs: the rows or the columns of a rectangle, which all do the same."""

import dataclasses
from collections.abc import Iterable
from typing import TypeAlias

import numpy as np

from emu import given
from emu.wse.fabric.arrays import Grid
from emu.wse.fabric.program import ALL, FabricProgram

Within: TypeAlias = tuple[slice, slice]
"""A rectangle of PEs as NumPy slices it, `np.s_[y, x]`."""

SIDES = {"x": ("west", "east"), "y": ("north", "south")}
"""Of a line along x or y: the side where the coordinate is low, and where it is high."""


@dataclasses.dataclass(frozen=True)
class Line:
    """Places 0, 1, ... along every row (or column) of a rectangle, or of each group of it.

    `Line(program, "x", group=4, backwards=True)` on a grid of 12 columns: place 0 is PEs 3, 7 and
    11 of every row, `near` is east and `far` is west.

    Attributes:
      program: to whose grid it belongs.
      along: `"x"` for rows, `"y"` for columns.
      within: the rectangle, as two slices `np.s_[y, x]`.
      group: consecutive PEs that make one line; None is all. Divides the extent.
      backwards: place 0 is the eastern (southern) end instead of the western (northern) one.
    """

    program: FabricProgram
    along: str = "x"
    within: Within = ALL
    group: int | None = None
    backwards: bool = False

    def __post_init__(self) -> None:
        given.one_of("line: along", self.along, SIDES)
        rectangle = self.within
        is_pair = isinstance(rectangle, tuple) and len(rectangle) == 2
        if not is_pair or not all(isinstance(each, slice) for each in rectangle):
            given.refuse(
                f"line: within is {given.told(rectangle)}, must be two slices, such as "
                "np.s_[:, 2:5]"
            )
        if self.group is not None:
            given.whole("line: group", self.group, 1)
        if self.extent < 1 or self.extent % self.pes:
            given.refuse(
                f"line: groups of {self.group} must divide {self.extent} PEs along "
                f"{self.along}; choose another group or rectangle"
            )

    @property
    def extent(self) -> int:
        """PEs of the rectangle along the line."""
        height, width = self.program.shape
        # `indices` below fills in what a slice leaves open, as `np.s_[:, 2:]` does twice.
        rows, columns = self.within
        if self.along == "x":
            return len(range(*columns.indices(width)))
        return len(range(*rows.indices(height)))

    @property
    def pes(self) -> int:
        return self.group or self.extent

    @property
    def near(self) -> str:
        """The side on which the lower places are."""
        low, high = SIDES[self.along]
        return high if self.backwards else low

    @property
    def far(self) -> str:
        """The side on which the higher places are."""
        low, high = SIDES[self.along]
        return low if self.backwards else high

    @property
    def place(self) -> Grid:
        """`bool[height, width]`: all its PEs."""
        return self.at(range(self.pes))

    def at(self, places: int | Iterable[int]) -> Grid:
        """`bool[height, width]`: the PEs at some places of the line."""
        chosen = np.zeros(self.pes, bool)
        several = list(places) if isinstance(places, Iterable) else [places]
        for place in several:
            chosen[given.whole("line: place", place, 0, self.pes - 1)] = True
        # Place 0 of groups of 4 over 12 PEs is 1000 1000 1000, and backwards 0001 0001 0001: PEs 3,
        # 7 and 11.
        along = np.tile(chosen, self.extent // self.pes)
        if self.backwards:
            along = along[::-1]
        mask = np.zeros(self.program.shape, bool)
        mask[self.within] = along if self.along == "x" else along[:, None]
        return mask


__all__ = ["SIDES", "Line", "Within"]
