"""The floor plan: regions lie inside the wafer, apart from each other, next to their neighbours."""

import itertools

import pytest

from emu import BANDS
from emu.errors import LimitExceeded
from emu.wse import WSE2, WSE3, WSE3_SILICON, at_clock, on_silicon
from emu.wse.placement.regions import Rect, gap_hops, lay_out, snake


def overlap(a: Rect, b: Rect) -> bool:
    across = a.x < b.x + b.width and b.x < a.x + a.width
    return across and a.y < b.y + b.height and b.y < a.y + a.height


@pytest.mark.parametrize("count", [1, 3, 4, 7])
@pytest.mark.parametrize("head_cols", [2, 9, 17])
def test_regions_and_head_are_apart_and_inside(count: int, head_cols: int) -> None:
    placed = lay_out(17, 26, 6, [5] * count, head_cols)
    assert placed is not None
    regions, head = placed
    for a, b in itertools.combinations([*regions, head], 2):
        assert not overlap(a, b)
    for r in (*regions, head):
        assert 0 <= r.x and r.x + r.width <= 17 and 0 <= r.y and r.y + r.height <= 26


def test_consecutive_regions_touch() -> None:
    regions = snake(17, 6, [5] * 9)
    gaps = [gap_hops(a, b) for a, b in itertools.pairwise(regions)]
    # Three a band; a new band is six rows further.
    assert gaps == [
        0,
        0,
        6,
        0,
        0,
        6,
        0,
        0,
    ]


def test_regions_of_several_widths_fill_band_after_band() -> None:
    widths = [5, 5, 9, 9, 6]
    placed = lay_out(17, 24, 6, widths, 4)
    assert placed is not None
    regions, head = placed
    # Two regions; one, beneath their end at 10; two more, and 2 columns; the head to the west.
    assert [(r.x, r.y, r.width) for r in regions] == [
        (0, 0, 5),
        (5, 0, 5),
        (1, 6, 9),
        (0, 12, 9),
        (9, 12, 6),
    ]
    assert head == Rect(13, 18, 4, 6)
    for a, b in itertools.combinations([*regions, head], 2):
        assert not overlap(a, b)
    wide = snake(17, 6, [5, 6, 15, 2])
    assert [(r.x, r.y) for r in wide] == [(0, 0), (5, 0), (2, 6), (0, 6)]


def test_what_is_too_large_is_not_laid_out() -> None:
    assert lay_out(17, 20, 6, [5] * 10, 2) is None  # nine regions in three bands
    assert lay_out(17, 20, 6, [18], 2) is None
    assert lay_out(17, 20, 6, [5], 18) is None


def test_gap_counts_hops_between_facing_edges() -> None:
    a = Rect(0, 0, 5, 6)
    assert gap_hops(a, Rect(8, 0, 5, 6)) == 3 and gap_hops(Rect(8, 0, 5, 6), a) == 3
    assert gap_hops(a, Rect(0, 6, 5, 6)) == 6


@pytest.mark.parametrize("sheet", [WSE2, WSE3])
def test_bands_order_every_doubtful_number(sheet: object) -> None:
    """Low is the shortest time: fewer cycles, or more elements, bytes and hertz."""
    for name, q in sheet.quantities().items():  # type: ignore[attr-defined]
        if q.low is not None:
            rate = name.endswith(("_hz", "_per_cycle", "_per_s", "_words"))
            low, nominal, high = (q.at(b) for b in BANDS)
            assert low >= nominal >= high if rate else low <= nominal <= high, name


def test_usable_pes() -> None:
    """The largest user rectangles: 755 x 1170 on a WSE-3, 750 x 994 on a WSE-2."""
    assert WSE3.grid_width.value * WSE3.grid_height.value == 883_350
    assert WSE2.grid_width.value * WSE2.grid_height.value == 745_500


def test_silicon_and_clock_are_switches() -> None:
    """FABRICA: silicon moves and multiplies slower than the vendor's simulator has it."""
    silicon = on_silicon(WSE3)
    assert (WSE3.constants, silicon.constants) == ("vendor simulator", "silicon")
    assert WSE3_SILICON.half_per_cycle.value == silicon.half_per_cycle.value == 2.92
    assert silicon.name == WSE3.name and silicon.hop_cycles == WSE3.hop_cycles
    with pytest.raises(
        LimitExceeded, match="WSE-2 has no published constants of its silicon"
    ):
        on_silicon(WSE2)
    slower = at_clock(WSE3, 875_000_000)
    assert {slower.at(band).tick_hz for band in BANDS} == {875_000_000}
