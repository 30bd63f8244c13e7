"""Which regions go on how many wafers: turned, and beside narrower heads, where that saves some."""

import dataclasses
import itertools

import pytest

from emu import Quantity
from emu.wse import WSE3
from emu.wse.placement.regions import DoesNotFit
from kernels.wse.decode.demand import Demand, LayerKind
from kernels.wse.decode.held import PIECE_CODES, SHORT_PIECE_CODES
from kernels.wse.decode.packing import Packing
from kernels.wse.decode.pe_bytes import Counted
from models.configurations import published
from models.machines.wafer_shapes import plan_of
from models.precision import precision
from tests.emu.wse.test_wse_placement import overlap
from tests.kernels.wse.reference import Sizes


def test_fewer_wafers_go_before_fewer_cycles() -> None:
    """gpt-oss-120b: four layers go on a wafer turned, two upright; the head shares the last."""
    config = published("gpt-oss-120b").config
    plan = plan_of(config, 1024, precision("bfloat16"))
    assert plan.wafers == 9 and plan.turned
    width, height = plan.grid
    regions = [*zip(plan.of_wafers, plan.regions, strict=True)]
    regions.append((plan.head_wafer, plan.head_region))
    for (a, here), (b, there) in itertools.combinations(regions, 2):
        assert a != b or not overlap(here, there)
    for _, region in regions:
        assert region.end <= width and region.y + region.height <= height
    # A region's rows are columns of the wafer.
    (rows,) = {kind.map.rows for kind in plan.kinds}
    assert {region.width for region in plan.regions} == {rows} == {plan.head.rows}
    assert {region.height for region in plan.regions} == {plan.kinds[0].map.cols}
    with pytest.raises(DoesNotFit, match="9 wafers would hold it"):
        plan_of(config, 1024, precision("bfloat16"), wafers=8)


def test_what_was_counted_not_to_fit_is_tried_no_more() -> None:
    """Nor do its columns keep wafers few."""
    demand = Demand(
        *(Sizes(4096, 14_336, 4, 32, 8, 128, 32_000), 1024, "bfloat16", WSE3.at()),
        *((LayerKind(),), (0,) * 4),
    )
    counted = Counted(demand.device)
    packing = Packing(demand)
    first = packing.on(1, turned=False)
    layer = first[0].layers[0]
    packing.drop(first, counted)
    assert [each.layers for each in packing.on(1, False)] == [x.layers for x in first]
    small = dataclasses.replace(WSE3, sram_bytes=Quantity(1, "published", "none")).at()
    full = Counted(small)
    assert full.layer(LayerKind(), layer, 1) is None
    packing.drop(first, full)
    assert layer not in [each.layers[0] for each in packing.on(1, False)]


def test_experts_are_made_wide_in_smaller_pieces_before_a_wafer_more() -> None:
    """A layer of DeepSeek-V3 on 672 x 512 PEs, two of which share a wafer, misses by 203 bytes."""
    config, held = published("deepseek-v3").config, precision("weights=mxfp8")
    plan = plan_of(config, 8192, held)
    assert plan.turned and plan.wafers == 30
    dense, experts = (plan.layers[number] for number in (0, 60))
    assert (experts.map.rows, experts.map.cols) == (672, 512)
    assert experts.map.piece_codes == SHORT_PIECE_CODES
    assert dense.map.piece_codes == PIECE_CODES
    whole = dataclasses.replace(experts.map, piece_codes=PIECE_CODES)
    assert Counted(WSE3.at()).layer(LayerKind(whole.form), whole, 1) is None
