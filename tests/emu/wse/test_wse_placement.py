"""The floor plan: regions lie inside the wafer, apart from each other, next to their neighbours."""

import itertools

import numpy as np
import pytest

from emu import BANDS
from emu.errors import LimitExceeded
from emu.wse import WSE2, WSE3, WSE3_SILICON, at_clock, on_silicon
from emu.wse.placement.edges import crossing_hops, edge_hops
from emu.wse.placement.regions import Rect, gap_hops, snake
from emu.wse.placement.wafers import Ground, fewest_wafers, floor_plan


def overlap(a: Rect, b: Rect) -> bool:
    across = a.x < b.x + b.width and b.x < a.x + a.width
    return across and a.y < b.y + b.height and b.y < a.y + a.height


@pytest.mark.parametrize("count", [1, 3, 4, 7])
@pytest.mark.parametrize("head_cols", [2, 9, 17])
def test_regions_and_head_are_apart_and_inside(count: int, head_cols: int) -> None:
    for wafers in range(1, count + 1):
        plan = floor_plan(Ground(17, 26, 6), [5] * count, head_cols, wafers)
        assert plan is not None and plan.wafers == wafers
        assert sorted(plan.of_wafers) == list(plan.of_wafers)
        assert {*plan.of_wafers, plan.head_wafer} == set(range(wafers))
        places = [*zip(plan.of_wafers, plan.regions, strict=True)]
        places.append((plan.head_wafer, plan.head))
        for (a, here), (b, there) in itertools.combinations(places, 2):
            assert a != b or not overlap(here, there)
        for _, r in places:
            assert 0 <= r.x and r.x + r.width <= 17
            assert 0 <= r.y and r.y + r.height <= 26


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
    plan = floor_plan(Ground(17, 24, 6), widths, 4, wafers=1)
    assert plan is not None
    # Two regions; one, beneath their end at 10; two more, and 2 columns; the head beneath these.
    assert [(r.x, r.y, r.width) for r in plan.regions] == [
        (0, 0, 5),
        (5, 0, 5),
        (1, 6, 9),
        (0, 12, 9),
        (9, 12, 6),
    ]
    assert plan.head == Rect(11, 18, 4, 6)
    for a, b in itertools.combinations([*plan.regions, plan.head], 2):
        assert not overlap(a, b)
    wide = snake(17, 6, [5, 6, 15, 2])
    assert [(r.x, r.y) for r in wide] == [(0, 0), (5, 0), (2, 6), (0, 6)]


def test_the_example_of_three_wafers() -> None:
    ground = Ground(17, 6, 6)
    assert fewest_wafers(ground, [5] * 7, 4) == 3
    plan = floor_plan(ground, [5] * 7, 4, wafers=3)
    assert plan is not None
    assert plan.of_wafers == (0, 0, 0, 1, 1, 1, 2) and plan.head_wafer == 2
    assert [r.x for r in plan.regions] == [0, 5, 10, 0, 5, 10, 0]
    assert plan.head == Rect(5, 0, 4, 6)


def test_what_is_too_large_is_not_laid_out() -> None:
    ground = Ground(17, 20, 6)
    # Ten regions are four bands, and the head is in the last.
    assert fewest_wafers(ground, [5] * 10, 2) == 2
    assert floor_plan(ground, [5] * 10, 2, wafers=1) is None
    assert fewest_wafers(ground, [18], 2) is None
    assert fewest_wafers(ground, [5], 18) is None
    assert fewest_wafers(Ground(17, 5, 6), [5], 2) is None
    # Two layers and a head are three wafers at the most.
    assert floor_plan(ground, [5] * 2, 2, wafers=3) is not None
    assert floor_plan(ground, [5] * 2, 2, wafers=4) is None


@pytest.mark.parametrize("seed", range(20))
def test_cuts_are_as_even_as_they_can_be(seed: int) -> None:
    """Against all cuts of a few regions: none has a fullest wafer of fewer columns."""
    random = np.random.default_rng(seed)
    widths = random.integers(1, 9, size=6).tolist()
    ground, wafers = Ground(10, 12, 6), int(random.integers(1, 5))
    plan = floor_plan(ground, widths[:-1], widths[-1], wafers)
    fullest = []
    for places in itertools.combinations(range(1, len(widths)), wafers - 1):
        ends = [0, *places, len(widths)]
        parts = [widths[a:b] for a, b in itertools.pairwise(ends)]
        if all(ground.holds(part) for part in parts):
            fullest.append(max(sum(part) for part in parts))
    assert (plan is None) == (not fullest)
    if plan is not None:
        columns = [0] * wafers
        for wafer, width in zip(
            (*plan.of_wafers, plan.head_wafer), widths, strict=True
        ):
            columns[wafer] += width
        assert max(columns) == min(fullest)


def test_hops_to_the_edges() -> None:
    assert edge_hops(Rect(10, 0, 5, 6), 17) == 2
    assert edge_hops(Rect(0, 0, 5, 6), 17) == 0
    assert crossing_hops(Rect(10, 0, 5, 6), Rect(3, 6, 5, 6), 17) == 2 + 3


def test_turned_regions_run_south_and_north_by_turns() -> None:
    """A wafer 12 wide and 17 high has three regions of 6 rows and 5 columns to a band, turned."""
    ground = Ground(17, 12, 6, turned=True)
    plan = floor_plan(ground, [5] * 5, 4, wafers=1)
    assert plan is not None and plan.turned
    upright = floor_plan(Ground(17, 12, 6), [5] * 5, 4, wafers=1)
    assert upright is not None and not upright.turned
    for here, there in zip(
        (*plan.regions, plan.head), (*upright.regions, upright.head), strict=True
    ):
        assert (here.x, here.y, here.width, here.height) == (
            *(there.y, there.x, there.height, there.width),
        )
        assert here.turned == there and here.end <= 12
    assert [(r.x, r.y) for r in plan.regions] == [
        (0, 0),
        (0, 5),
        (0, 10),
        (6, 10),
        (6, 5),
    ]


@pytest.mark.parametrize("x", [0, 3, 7])
def test_rows_of_a_turned_region_have_as_far_to_the_edge(x: int) -> None:
    """Streams that turn a corner, one after another: as the one does that runs straight on."""
    region, width = Rect(x, 4, 4, 3), 12
    east = {(width - 1 - column) + (column - x) for column in range(x, x + 4)}
    west = {column + (x + 3 - column) for column in range(x, x + 4)}
    assert len(east) == len(west) == 1
    assert edge_hops(region, width, turned=True) == min(*east, *west)
    both = crossing_hops(region, Rect(0, 0, 4, 3), width, turned=True)
    assert both == edge_hops(region, width, turned=True) + 3


def test_gap_counts_hops_between_facing_edges() -> None:
    a = Rect(0, 0, 5, 6)
    assert gap_hops(a, Rect(8, 0, 5, 6)) == 3 and gap_hops(Rect(8, 0, 5, 6), a) == 3
    assert gap_hops(a, Rect(0, 6, 5, 6)) == 6


@pytest.mark.parametrize("sheet", [WSE2, WSE3])
def test_bands_order_every_doubtful_number(sheet: object) -> None:
    """Low is the shortest time: fewer cycles, or more elements, bytes and hertz."""
    for name, q in sheet.quantities().items():  # type: ignore[attr-defined]
        if q.low is not None:
            rate = name.endswith(("_hz", "_per_cycle", "_per_s", "_words", "_rows"))
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
