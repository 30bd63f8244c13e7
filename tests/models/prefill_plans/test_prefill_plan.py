"""Plans and schedules as data: what goes where, and when chunks are through."""

import math

import numpy as np
import pytest

from emu.trainium.datasheets import TRN3_GEN2
from kernels.trainium.tiles import split
from models.errors import ModelError
from models.prefill_plans.pipeline import schedule
from models.prefill_plans.plan import Chunk, PrefillPlan


def test_chunks_follow_one_another():
    plan = PrefillPlan(tokens=1000, cached=200, ring=4, stages=2, chunks=2)
    # 400 new tokens a chunk are 100 of a chip, one tile.
    assert plan.parts == (Chunk(200, 400), Chunk(600, 400))
    assert (plan.new, plan.each, plan.keys, plan.chips) == (800, 100, 1000, 8)
    assert plan.placement == "striped"
    assert PrefillPlan(tokens=1000, ring=4).placement == "auto"


def test_tokens_are_padded_to_equal_tiles():
    plan = PrefillPlan(tokens=131_072, ring=144)
    # 911 of a chip are 8 tiles of 114.
    assert plan.each == 912
    assert plan.keys == 144 * 912


@pytest.mark.parametrize(
    ("tokens", "tensor"), [(911, 1), (911, 2), (99, 8), (66, 3), (3, 4)]
)
def test_tokens_are_even_tiles_of_places_and_of_their_chips(tokens, tensor):
    plan = PrefillPlan(tokens=48 * tokens, ring=48 // tensor, tensor=tensor)
    assert plan.chips == 48
    least = math.ceil(plan.new / plan.ring)
    assert least <= plan.each <= least + 4 * tensor * math.ceil(least / 128)
    own, rest = divmod(plan.each, tensor)
    tiles, rows = split(own, 128)
    assert rest == 0 and tiles * rows == own and rows % 2 == 0
    assert split(plan.each, 128)[1] % 2 == 0


def test_cached_keys_are_of_whole_stripes():
    plan = PrefillPlan(tokens=1030, cached=30, ring=4)
    # 250 of a chip are two tiles of 126: products in MX have an even number of rows.
    assert plan.parts == (Chunk(32, 4 * 2 * 126),)


def test_layers_are_dealt_evenly():
    plan = PrefillPlan(tokens=64, ring=1, stages=4, racks=2)
    assert [len(layers) for layers in plan.layers(61)] == [16, 15, 15, 15]
    assert [*plan.layers(61)[1]] == [*range(16, 31)]
    assert [plan.leaves_rack(stage) for stage in range(3)] == [False, True, False]
    with pytest.raises(ModelError, match="3 layers in 4 stages"):
        plan.layers(3)


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ({"cached": 64}, "64 of 64 tokens are cached"),
        ({"stages": 3, "racks": 2}, "3 stages over 2 racks"),
        ({"ring": 8, "chunks": 9}, "64 new tokens in 9 chunks over 8 chips"),
        ({"chunks": 0}, "chunks is 0"),
    ],
)
def test_plans_that_cannot_be(wrong, told):
    with pytest.raises(ModelError, match=told):
        PrefillPlan(**({"tokens": 64, "ring": 1} | wrong))


def test_racks_have_so_many_chips():
    PrefillPlan(tokens=2048, ring=72, stages=4, racks=2).check_system(TRN3_GEN2)
    with pytest.raises(ModelError, match="288 chips of a rack"):
        PrefillPlan(tokens=2048, ring=72, stages=4).check_system(TRN3_GEN2)


def test_a_chunk_is_conserved():
    """Of equal chunks the last is through after the first and the slowest stage for each other."""
    stages = [2.0, 5.0, 3.0]
    for chunks in (1, 2, 7):
        found = schedule([[seconds] * chunks for seconds in stages])
        assert found.end_s == sum(stages) + (chunks - 1) * max(stages)
        assert found.period_s == chunks * max(stages)
        assert found.slowest == 1
    assert schedule([[4.0]]).idle_share == 0


def test_no_stage_has_two_chunks_at_once():
    rng = np.random.default_rng(0)
    found = schedule(rng.uniform(1, 3, (4, 6)).tolist())
    assert (found.starts[:, 1:] >= found.ends[:, :-1] - 1e-12).all()
    assert (found.starts[1:] >= found.ends[:-1] - 1e-12).all()


def test_longer_work_is_never_done_sooner():
    rng = np.random.default_rng(1)
    seconds = rng.uniform(1, 3, (3, 5))
    longer = seconds + rng.uniform(0, 1, seconds.shape)
    assert (schedule(longer.tolist()).ends >= schedule(seconds.tolist()).ends).all()
