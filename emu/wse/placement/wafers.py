"""A model's regions over several wafers: cut between layers, in bands on each.

Of seven layers 5 columns wide, and a head of 4, on wafers 17 wide with room for one band, a wafer
takes three. So there are three wafers, cut as evenly as they allow:

    wafer 0   0 1 2
    wafer 1   3 4 5
    wafer 2   6 head

A wafer is higher than it is wide. Where regions are turned, with their rows side by side from west
to east and bands that run south and north by turns, others of them go into one: 1,170 x 755 PEs
have room for four regions of 720 rows and 256 columns turned, and for two upright.
"""

import dataclasses
from collections.abc import Sequence

from emu.wse.placement.regions import Rect, in_bands, snake

MOST_WAFERS = 64
"""That one model may be cut over."""


@dataclasses.dataclass(frozen=True)
class Ground:
    """What regions are laid on: wafers of one size, and regions of one height.

    Attributes:
      width: of a wafer along the regions' columns, in PEs.
      height: along their rows.
      rows: of every region.
      turned: whether the regions' rows lie side by side from west to east.
    """

    width: int
    height: int
    rows: int
    turned: bool = False

    @property
    def bands(self) -> int:
        """Bands of regions that a wafer has room for."""
        return self.height // self.rows

    def holds(self, widths: Sequence[int]) -> bool:
        """Whether one wafer has room for regions of such widths, in order."""
        if max(widths) > self.width:
            return False
        return len(in_bands(self.width, widths)) <= self.bands


@dataclasses.dataclass(frozen=True)
class FloorPlan:
    """Where a model's regions lie.

    Attributes:
      regions: of the layers, in order.
      of_wafers: the wafer of each, from 0 on, in order too.
      head: of embedding and output head.
      head_wafer: its wafer, the last one.
      turned: whether all regions are turned: their rows are columns of the wafer.
    """

    regions: tuple[Rect, ...]
    of_wafers: tuple[int, ...]
    head: Rect
    head_wafer: int
    turned: bool = False

    @property
    def wafers(self) -> int:
        return self.head_wafer + 1


def fewest_wafers(ground: Ground, widths: Sequence[int], head_cols: int) -> int | None:
    """Wafers that have room for layers' regions and the head's; None: one of them has none.

    Args:
      ground: wafers and rows.
      widths: of the layers' regions, in order.
      head_cols: columns of the head's region.
    """
    if not ground.bands or max(*widths, head_cols) > ground.width:
        return None
    bands = in_bands(ground.width, [*widths, head_cols])
    # Bands are not cut, so wafers are filled by the band.
    return -(-len(bands) // ground.bands)


def floor_plan(
    ground: Ground, widths: Sequence[int], head_cols: int, wafers: int
) -> FloorPlan | None:
    """Regions on exactly so many wafers, cut so that the fullest has the fewest columns.

    Args:
      ground: wafers and rows.
      widths: of the layers' regions, in order.
      head_cols: columns of the head's region, behind them on the last wafer.
      wafers: how many; at most one a layer, and one for the head alone.

    Returns:
      None where they do not fit.
    """
    fewest = fewest_wafers(ground, widths, head_cols)
    stops = [*widths, head_cols]
    if fewest is None or not fewest <= wafers <= len(stops):
        return None
    # The least number of columns on the fullest wafer, found by halving.
    low, high = 1, sum(stops)
    while low < high:
        middle = (low + high) // 2
        if cut(ground, stops, wafers, middle) is None:
            low = middle + 1
        else:
            high = middle
    parts = cut(ground, stops, wafers, low)
    return None if parts is None else _laid(ground, stops, parts)


def cut(
    ground: Ground, widths: Sequence[int], wafers: int, most: int
) -> list[int] | None:
    """How many regions each wafer takes, of at most so many columns; None: they do not fit.

    Args:
      ground: wafers and rows.
      widths: of all regions, the head's last.
      wafers: how many, each of which takes one region or more.
      most: columns of a wafer's regions together.
    """
    parts: list[int] = []
    first = 0
    for wafer in range(wafers):
        # One for each wafer behind this one must be left.
        limit = len(widths) - (wafers - wafer - 1)
        end = first
        while end < limit:
            own = widths[first : end + 1]
            if sum(own) > most or not ground.holds(own):
                break
            end += 1
        if end == first:
            return None
        parts.append(end - first)
        first = end
    return parts if first == len(widths) else None


def _laid(ground: Ground, widths: Sequence[int], parts: Sequence[int]) -> FloorPlan:
    """The plan of regions dealt to wafers so."""
    regions: list[Rect] = []
    of_wafers: list[int] = []
    first = 0
    for wafer, count in enumerate(parts):
        regions += snake(ground.width, ground.rows, widths[first : first + count])
        of_wafers += [wafer] * count
        first += count
    if ground.turned:
        regions = [region.turned for region in regions]
    *layers, head = regions
    *of_layers, head_wafer = of_wafers
    return FloorPlan(tuple(layers), tuple(of_layers), head, head_wafer, ground.turned)


__all__ = [
    "FloorPlan",
    "Ground",
    "MOST_WAFERS",
    "cut",
    "fewest_wafers",
    "floor_plan",
]
