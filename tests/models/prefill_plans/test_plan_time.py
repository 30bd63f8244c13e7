"""What plans take: laws of pipelines, chunks and caches, on the clock of small models."""

import numpy as np
import pytest

from emu.datasheet import BANDS
from models.machines.layer_time import layer_time
from models.prefill_plans.clock import BENT, PlanClock
from models.prefill_plans.memory import PlanMemory
from models.prefill_plans.plan import Chunk, PrefillPlan
from models.prefill_plans.time import plan_time
from tests.models.prefill_plans.small import CORES, dense, mixture

TOKENS = 1024


def timed(setting, clock=None, **plan):
    plan = PrefillPlan(**({"tokens": TOKENS, "ring": 2, "cores": CORES} | plan))
    return plan_time(plan, clock or PlanClock(setting), PlanMemory(setting))


@pytest.mark.parametrize("make", [dense, mixture])
def test_layers_of_one_stage_add_up(make):
    setting = make()
    clock = PlanClock(setting, BANDS)
    found = timed(setting, clock)
    embedding, logits = clock.ends(found.plan)
    stages = setting.stages(found.plan, 0, Chunk(0, TOKENS))
    one = layer_time(stages).seconds
    count = setting.config.num_hidden_layers
    for band in BANDS:
        expected = count * one[band] + embedding[band] + logits[band]
        assert found.ttft_s[band] == pytest.approx(expected, rel=1e-12)
        assert found.tokens_per_s[band] == pytest.approx(TOKENS / expected, rel=1e-12)
    assert sum(found.parts.values()) == pytest.approx(found.ttft_s["nominal"])
    assert found.ttft_s["low"] <= found.ttft_s["nominal"] <= found.ttft_s["high"]
    # Layers of one form are read once: around, attention, MLP, ends and that nothing is sent.
    assert clock.readings == 4


def test_layers_are_done_one_after_the_other():
    setting = dense()
    clock = PlanClock(setting)
    found = timed(setting, clock, stages=2, chunks=2)
    done = found.layer_done_s["nominal"]
    assert len(done) == setting.config.num_hidden_layers
    assert (np.diff(done) > 0).all()
    assert done[-1] < found.ttft_s["nominal"]
    # The last stage begins with the last chunk once it has arrived, and the layers follow.
    times = found.schedules["nominal"]
    projections, _ = clock.around(found.plan, 0)
    first_of_last = times.starts[1, 1] + projections.seconds["nominal"]
    assert done[2] == pytest.approx(first_of_last)


def test_a_pipeline_is_the_layers_of_its_stages():
    """Two stages take what one does, and what is sent between them besides."""
    setting = dense()
    clock = PlanClock(setting)
    one, two = (timed(setting, clock, stages=n, chunks=2) for n in (1, 2))
    sent_s = clock.sent(two.plan, 0)["nominal"]
    assert sent_s > 0
    of_one = one.schedules["nominal"].seconds.sum(0)
    of_two = two.schedules["nominal"].seconds.sum(0)
    assert of_two == pytest.approx(of_one + sent_s)
    assert two.tokens_per_s["nominal"] > one.tokens_per_s["nominal"]


def test_racks_are_joined_by_efa():
    setting = dense()
    clock = PlanClock(setting)
    near = timed(setting, clock, stages=2, chunks=2)
    far = timed(setting, clock, stages=2, chunks=2, racks=2)
    nbytes = clock.sent_bytes(far.plan)
    # 256 tokens of a chip with 256 features of 2 bytes: one operation, of 92,000 a second, which is
    # longer than its bytes take, and 15 us on the way.
    assert nbytes == 256 * 256 * 2
    assert nbytes / 22.8e9 < 1 / 92_000
    expected = 15e-6 + 1 / 92_000
    assert clock.sent(far.plan, 0)["nominal"] == pytest.approx(expected, rel=1e-9)
    assert far.ttft_s["nominal"] > near.ttft_s["nominal"]


def test_a_longer_cached_prefix_is_never_slower():
    setting = dense(layers=1)
    clock = PlanClock(setting)
    seconds = [
        timed(setting, clock, cached=cached).ttft_s["nominal"]
        for cached in (256, 512, 768)
    ]
    assert seconds == sorted(seconds, reverse=True)
    assert seconds[-1] < seconds[0]


@pytest.mark.slow
def test_chunks_between_readings_are_as_if_read():
    setting = dense(layers=1)
    clock = PlanClock(setting)
    plan = PrefillPlan(tokens=16_384, ring=2, chunks=16, cores=CORES)
    given = [each["nominal"] for each in clock.attention_seconds(plan, 0)]
    assert clock.readings == 4
    read = [clock.attention(plan, 0, n).seconds["nominal"] for n in range(16)]
    # Of 50 us a chunk how tiles fall on queues tells; of longer ones it does not.
    assert given == pytest.approx(read, rel=0.02)
    assert sum(given) == pytest.approx(sum(read), rel=BENT)
    assert read == sorted(read)
