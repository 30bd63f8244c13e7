"""Searches: laws of the best plan, what is left unread and why, and sentences about it."""

import dataclasses
import functools

import pytest

from emu.datasheet import BANDS, Quantity
from emu.trainium import TRN3
from emu.trainium.datasheets import TRN3_GEN2, on_system
from models.configurations import published
from models.errors import ModelError
from models.precision import precision
from models.prefill_plans.bounds import STAGES, bound, pairs, token_flops
from models.prefill_plans.clock import PlanClock
from models.prefill_plans.explain import by_kind, explain
from models.prefill_plans.memory import PlanMemory
from models.prefill_plans.plan import Chunk, PrefillPlan
from models.prefill_plans.search import in_order, plans, search, value
from models.prefill_plans.setting import Setting
from models.prefill_plans.time import plan_time
from tests.models.prefill_plans.small import CORES, dense, mixture

TOKENS = 1024


def small_space(tokens=TOKENS, chips=4, stages=2, chunks=4):
    """Those of a space with few stages and chunks, of which each is read."""
    space = plans(tokens=tokens, chips=chips, layers=4, cores=CORES)
    return [
        plan
        for plan in space
        if plan.stages <= stages and plan.chunks <= chunks and plan.tensor <= 2
    ]


@functools.cache
def found():
    return search(dense(layers=2), small_space(), bands=BANDS)


def test_bounds_are_products_at_peak():
    setting = mixture()
    config, form = setting.config, setting.config.forms[0]
    hidden, experts = config.hidden_size, form.experts
    assert experts is not None
    of_attention = hidden * config.head_dim * (2 * 4 + 2 * 2)
    of_mixture = hidden * experts.count + 2 * 3 * hidden * experts.width
    of_stages = {stage: token_flops(setting, form, stage) for stage in STAGES}
    assert sum(of_stages.values()) == 2 * (of_attention + of_mixture)
    assert of_stages["feed"] == 2 * of_mixture
    assert of_stages["output"] == 2 * hidden * config.head_dim * 4
    assert pairs(form, Chunk(2, 4)) == 3 + 4 + 5 + 6
    attention = dataclasses.replace(form.attention, window=4)
    assert pairs(dataclasses.replace(form, attention=attention), Chunk(2, 4)) == 15


@pytest.mark.parametrize(
    "plan",
    [
        {"ring": 4},
        {"ring": 2, "stages": 2, "chunks": 2},
        {"ring": 2, "tensor": 2},
    ],
)
def test_no_plan_is_faster_than_its_bound(plan):
    setting = dense()
    made = PrefillPlan(tokens=TOKENS, cores=CORES, **plan)
    least = bound(setting, made)
    time = plan_time(made, PlanClock(setting), PlanMemory(setting))
    assert 0 < least.end_s < time.ttft_s["nominal"]
    assert least.period_s < time.schedules["nominal"].period_s


@pytest.mark.slow
def test_nothing_that_was_left_is_better():
    """Every plan of a small space, timed: none beats the one that the search found."""
    result = found()
    setting = dense(layers=2)
    clock, memory = PlanClock(setting), PlanMemory(setting)
    best_s = result.best.ttft_s["nominal"]
    for one in result.tried:
        time = plan_time(one.plan, clock, memory)
        assert value("ttft", time) >= best_s
        assert (one.reason is None) == (one.time is not None)
    assert set(result.best.ttft_s) == set(BANDS)


def test_the_best_plan_is_explained():
    result = found()
    lines = list(explain(result))
    parts = by_kind(result.best)
    assert sum(parts.values()) == pytest.approx(result.best.ttft_s["nominal"])
    assert lines[0].startswith(f"{result.best.plan}: first token after")
    left = [one for one in result.tried if one.why_not]
    assert any(line.startswith(f"not {left[0].plan}: ") for line in lines)
    others = [one for one in result.tried[1:] if one.time is not None]
    assert others and lines[1].startswith(f"next best {others[0].plan}: ")


def test_most_limits_what_is_read():
    setting = dense()
    space = small_space()
    told = []
    result = search(setting, space, "tokens", most=1, tell=told.append)
    assert len(told) == 1 and len(result.tried) == len(space)
    assert sum(one.time is not None for one in result.tried) == 1
    assert any(one.reason == "unread" for one in result.tried)


def test_what_fits_nowhere_is_refused():
    setting = dense()
    hbm = Quantity(2**20, "assumed", "a test", 2**20, 2**20)
    small = dataclasses.replace(
        setting, sheet=dataclasses.replace(setting.sheet, hbm_bytes=hbm)
    )
    space = plans(tokens=TOKENS, chips=1, layers=4, cores=CORES)
    with pytest.raises(ModelError, match="one program alone does not fit"):
        search(small, space)


@pytest.mark.slow
def test_more_chips_are_never_slower():
    """Of enough work: of little a ring of more chips waits for its hops."""
    best = []
    for chips in (1, 2, 4):
        space = small_space(8192, chips, stages=1, chunks=1)
        best.append(search(dense(layers=1), space, most=3).best.ttft_s["nominal"])
    assert best == sorted(best, reverse=True)


def test_one_chunk_goes_before_several_with_the_same_bound() -> None:
    """Though sums in another order make that of four chunks less by a last place."""
    sheet = on_system(TRN3, TRN3_GEN2)
    setting = Setting(published("kimi-k2").config, precision("mxfp8"), sheet)
    for tokens in (130_560, 131_072):
        space = plans(tokens=tokens, chips=144, layers=61)
        _, first = in_order(setting, space, "ttft")[0]
        assert (first.chips, first.stages, first.chunks) == (144, 1, 1)
