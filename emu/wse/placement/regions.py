"""Where regions of PEs lie on a wafer: rectangles of one height in snake order, and hops between.

On a wafer 17 PEs wide, regions of 6 rows and 5 columns stand three to a band. Bands run east and
west by turns, so that each region touches the one before, and the wafer has 2 columns left over:

    band 0   0 -> 1 -> 2
    band 1   5 <- 4 <- 3
    band 2   6 -> 7 -> 8

Regions may differ in width. A band takes as many as it has room for; of widths 5, 5, 9, 9, 6 the
first band has two and 7 columns left over, the second one, which ends beneath their end at 10, and
the third two.
"""

import dataclasses
from collections.abc import Sequence

from emu.errors import EmulationError


class DoesNotFit(EmulationError):
    """What was to stand on wafers and is too large: needed against had, and what would do.

    Attributes:
      wafers: number of wafers that would hold it, or None where no number does.
      context: the largest that would fit; None where none does, or none was asked for.
      users: the most whose caches would fit; None likewise.
    """

    def __init__(
        self,
        what: str,
        *,
        wafers: int | None = None,
        context: int | None = None,
        users: int | None = None,
    ):
        super().__init__(what)
        self.wafers = wafers
        self.context = context
        self.users = users


@dataclasses.dataclass(frozen=True)
class Rect:
    """A region of PEs: its north-west corner and size, in PEs."""

    x: int
    y: int
    width: int
    height: int

    @property
    def pes(self) -> int:
        return self.width * self.height

    @property
    def end(self) -> int:
        """The first column to the east of it."""
        return self.x + self.width

    @property
    def turned(self) -> "Rect":
        """The same with rows and columns of the wafer changed for each other."""
        return Rect(self.y, self.x, self.height, self.width)


def gap_hops(behind: Rect, ahead: Rect) -> int:
    """Hops from row i of one region to row i of the other, besides the one across the boundary."""
    sideways = max(0, ahead.x - behind.end, behind.x - ahead.end)
    return abs(behind.y - ahead.y) + sideways


def in_bands(width: int, widths: Sequence[int]) -> list[list[int]]:
    """Numbers of the regions of each band, which takes as many as it has room for.

    Args:
      width: of the wafer, in PEs.
      widths: of the regions, in order; each at most `width`.
    """
    found: list[list[int]] = []
    room = 0
    for number, own in enumerate(widths):
        if own > room or not found:
            found.append([])
            room = width
        found[-1].append(number)
        room -= own
    return found


def snake(width: int, rows: int, widths: Sequence[int]) -> list[Rect]:
    """Regions in bands of `rows`, each band in the other direction than the one above."""
    regions: list[Rect] = []
    end = 0
    for band, numbers in enumerate(in_bands(width, widths)):
        taken = sum(widths[number] for number in numbers)
        east = _runs_east(band)
        # To the west a band begins beneath the end of the one above, or where it must to have room.
        x = 0 if east else max(end, taken)
        for number in numbers:
            own = widths[number]
            regions.append(Rect(x if east else x - own, band * rows, own, rows))
            x += own if east else -own
        end = max(region.end for region in regions[-len(numbers) :])
    return regions


def _runs_east(band: int) -> bool:
    return band % 2 == 0


__all__ = ["DoesNotFit", "Rect", "gap_hops", "in_bands", "snake"]
