"""Lines of PEs: the rows or the columns of a rectangle, which all do the same."""

import dataclasses
from collections.abc import Iterable

import numpy as np

from emu.errors import LimitExceeded
from emu.wse.fabric.program import ALL, FabricProgram

SIDES = {"x": ("west", "east"), "y": ("north", "south")}


@dataclasses.dataclass(frozen=True)
class Line:
    """Places 0, 1, ... along every row (or column) of a rectangle, or of each group of it.

    Attributes:
      program: to whose grid it belongs.
      along: `"x"` for rows, `"y"` for columns.
      within: the rectangle, as two slices `np.s_[y, x]`.
      group: consecutive PEs that make one line; None is all. Divides the extent.
      backwards: place 0 is the eastern (southern) end instead of the western (northern) one.
    """

    program: FabricProgram
    along: str = "x"
    within: tuple[slice, slice] = ALL
    group: int | None = None
    backwards: bool = False

    def __post_init__(self) -> None:
        if self.along not in SIDES:
            raise LimitExceeded(f"line: along is {self.along!r}, must be 'x' or 'y'")
        if self.extent < 1 or self.extent % self.pes:
            raise LimitExceeded(
                f"line: groups of {self.group} must divide {self.extent} PEs along "
                f"{self.along}; choose another group or rectangle"
            )

    @property
    def extent(self) -> int:
        """PEs of the rectangle along the line."""
        height, width = self.program.shape
        at, size = (
            (self.within[1], width) if self.along == "x" else (self.within[0], height)
        )
        return len(range(*at.indices(size)))

    @property
    def pes(self) -> int:
        return self.group or self.extent

    @property
    def near(self) -> str:
        """The side on which the lower places are."""
        return SIDES[self.along][self.backwards]

    @property
    def far(self) -> str:
        """The side on which the higher places are."""
        return SIDES[self.along][not self.backwards]

    @property
    def place(self) -> np.ndarray:
        """`bool[height, width]`: all its PEs."""
        return self.at(range(self.pes))

    def at(self, places: int | Iterable[int]) -> np.ndarray:
        """`bool[height, width]`: the PEs at some places of the line."""
        chosen = np.zeros(self.pes, bool)
        chosen[[places] if isinstance(places, int) else list(places)] = True
        along = np.tile(chosen, self.extent // self.pes)
        along = along[::-1] if self.backwards else along
        out = np.zeros(self.program.shape, bool)
        out[self.within] = along if self.along == "x" else along[:, None]
        return out


__all__ = ["Line"]
