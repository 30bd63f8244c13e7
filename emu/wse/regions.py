"""Where regions of PEs lie on a wafer: equal rectangles in snake order, and hops between them.

On a wafer 17 PEs wide, regions of 6 rows and 5 columns stand three to a band. Bands run east and
west by turns, so that each region touches the one before, and the wafer has 2 columns left over:

    band 0   0 -> 1 -> 2
    band 1   5 <- 4 <- 3
    band 2   6 -> 7 -> 8
"""

import dataclasses

from emu.errors import EmulationError


class DoesNotFit(EmulationError):
    """A model or context that no wafer can hold: needed against had, and what would do.

    Attributes:
      wafers: number of wafers that would hold the model, or None where no number does.
      context: largest context that would fit one wafer, or None where none does.
    """

    def __init__(
        self,
        what: str,
        *,
        wafers: int | None = None,
        context: int | None = None,
    ):
        super().__init__(what)
        self.wafers = wafers
        self.context = context


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


def gap_hops(behind: Rect, ahead: Rect) -> int:
    """Hops from row i of one region to row i of the other, besides the one across the boundary."""
    sideways = max(0, ahead.x - behind.end, behind.x - ahead.end)
    return abs(behind.y - ahead.y) + sideways


def bands(width: int, height: int, rows: int, cols: int) -> tuple[int, int]:
    """How many regions of `rows` x `cols` fit side by side, and how many such bands."""
    return width // cols, height // rows


def snake(width: int, rows: int, cols: int, count: int) -> list[Rect]:
    """`count` regions in bands of `rows`, each band in the other direction than the one above."""
    per_band = width // cols
    regions = []
    for number in range(count):
        band, nth = divmod(number, per_band)
        column = nth if _runs_east(band) else per_band - 1 - nth
        regions.append(Rect(column * cols, band * rows, cols, rows))
    return regions


def _runs_east(band: int) -> bool:
    return band % 2 == 0


def lay_out(
    width: int,
    height: int,
    rows: int,
    cols: int,
    count: int,
    head_cols: int,
) -> tuple[list[Rect], Rect] | None:
    """The layers' regions in snake order and the head's, after them; None if they do not fit.

    The head is as high as a layer's region, so that row i hands over to row i. It shares the last
    band where there is room, else it takes the next one.

    Args:
      width, height: of the wafer, in PEs.
      rows, cols: of a layer's region.
      count: of layers.
      head_cols: columns of the head's region.
    """
    per_band, bands_that_fit = bands(width, height, rows, cols)
    if not per_band or head_cols > width:
        return None
    regions = snake(width, rows, cols, count)
    last = regions[-1]
    band = (count - 1) // per_band
    east = _runs_east(band)
    room = width - last.end if east else last.x
    if room >= head_cols:
        x = last.end if east else last.x - head_cols
    else:
        band += 1
        x = width - head_cols if east else 0
    if band >= bands_that_fit:
        return None
    return regions, Rect(x, band * rows, head_cols, rows)


__all__ = ["DoesNotFit", "Rect", "bands", "gap_hops", "lay_out", "snake"]
