"""Where regions of PEs lie on a wafer: equal rectangles in snake order, and hops between them."""

import dataclasses

from emu.errors import EmulationError


class DoesNotFit(EmulationError):
    """A model or context that no wafer can hold: needed against had, and what would do.

    Attributes:
      wafers: number of wafers that would hold the model, or None where no number does.
      context: largest context that would fit one wafer, or None where none does.
    """

    def __init__(
        self, what: str, *, wafers: int | None = None, context: int | None = None
    ):
        super().__init__(what)
        self.wafers, self.context = wafers, context


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


def gap_hops(a: Rect, b: Rect) -> int:
    """Hops from row i of `a` to row i of `b`, besides the one across the boundary between them."""
    sideways = max(0, b.x - (a.x + a.width), a.x - (b.x + b.width))
    return abs(a.y - b.y) + sideways


def bands(width: int, height: int, rows: int, cols: int) -> tuple[int, int]:
    """How many regions of `rows` x `cols` fit side by side, and how many such bands."""
    return width // cols, height // rows


def snake(width: int, rows: int, cols: int, count: int) -> list[Rect]:
    """`count` regions in bands of `rows`, each band in the other direction than the one above."""
    per_band = width // cols
    out = []
    for i in range(count):
        band, at = divmod(i, per_band)
        across = at if band % 2 == 0 else per_band - 1 - at
        out.append(Rect(across * cols, band * rows, cols, rows))
    return out


def lay_out(
    width: int, height: int, rows: int, cols: int, count: int, head_cols: int
) -> tuple[list[Rect], Rect] | None:
    """The layers' regions in snake order and the head's, after them; None if they do not fit.

    The head is as high as a layer's region, so that row i hands over to row i. It shares the last
    band where there is room, else it takes the next one.
    """
    per_band, rows_of = bands(width, height, rows, cols)
    if not per_band or head_cols > width:
        return None
    regions = snake(width, rows, cols, count)
    last, band = regions[-1], (count - 1) // per_band
    east = band % 2 == 0
    room = width - (last.x + cols) if east else last.x
    if room >= head_cols:
        x = last.x + cols if east else last.x - head_cols
    else:
        band, x = band + 1, width - head_cols if east else 0
    if band >= rows_of:
        return None
    return regions, Rect(x, band * rows, head_cols, rows)


__all__ = ["DoesNotFit", "Rect", "bands", "gap_hops", "lay_out", "snake"]
