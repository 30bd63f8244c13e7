"""A request on both machines by shapes: its parts, its bytes, and what cannot be."""

import dataclasses

import pytest

from emu.datasheet import BANDS
from emu.trainium import TRN3
from emu.trainium.datasheets import TRN3_GEN2, on_system
from emu.wse.placement.regions import DoesNotFit
from models.configurations import published
from models.deployment import Deployment
from models.machines.handoff.fields import token_bytes
from models.precision import precision
from models.prefill_plans.clock import PlanClock
from models.prefill_plans.memory import PlanMemory
from models.prefill_plans.plan import PrefillPlan
from models.prefill_plans.time import plan_time

TOKENS, NEW, CHIPS = 256, 4, 4


@pytest.fixture(scope="module")
def small() -> Deployment:
    """A model of 135 M parameters on four chips of one core."""
    config = published("smollm2-135m").config
    sheet = on_system(TRN3, TRN3_GEN2)
    held = precision("bfloat16")
    return Deployment(config, TOKENS, NEW, held, sheet, CHIPS, cores=1)


def test_a_request_is_its_parts(small: Deployment) -> None:
    """TTFT is prefill and what it does not hide; TPOT lies between the first step and the last."""
    request = small.request(small.prefill(BANDS, most=1).best)
    for band in BANDS:
        exposed = request.handoffs[band].exposed_s
        assert request.ttft_s(band) == request.prefill.ttft_s[band] + exposed
        first, last = request.first[band].seconds, request.last[band].seconds
        assert first <= request.tpot_s(band) <= last
    times = [request.ttft_s(band) for band in BANDS]
    assert times == sorted(times)


def test_every_byte_of_the_cache_is_handed_over(small: Deployment) -> None:
    """However the layers are dealt to stages of chips, which send them by NICs of their own."""
    held = small.regions.layers[0].map
    layers = small.config.num_hidden_layers
    clock, memory = PlanClock(small.setting), PlanMemory(small.setting)
    nic_s = []
    for ring, stages, tensor in ((4, 1, 1), (2, 2, 1), (1, 1, 3)):
        plan = PrefillPlan(TOKENS, ring, stages, cores=1, tensor=tensor)
        moved = small.request(plan_time(plan, clock, memory)).handoffs["nominal"]
        sent = TOKENS * layers * token_bytes(held, clock.setting.precision.cache)
        assert moved.nbytes == sent
        assert moved.transfer is not None
        nic_s.append(moved.transfer.alone_s["NIC's bytes"])
    # A quarter of all layers, or half of the tokens of half of the layers; or a third, a KV head.
    assert nic_s[0] == nic_s[1] == nic_s[2] * 3 / 4


def test_a_context_that_wafers_do_not_hold_is_refused(small: Deployment) -> None:
    """With what would fit, which then does."""
    long = dataclasses.replace(small, tokens=3_000_000, wafers=1)
    with pytest.raises(DoesNotFit, match="tokens would fit one wafer") as refused:
        _ = long.regions
    assert refused.value.context is not None
    fits = dataclasses.replace(long, tokens=refused.value.context - NEW)
    assert fits.regions.wafers == 1
