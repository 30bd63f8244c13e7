"""HBM of a plan against closed forms, and what is refused."""

import dataclasses

import pytest

from emu.datasheet import Quantity
from models.prefill_plans.memory import DoesNotFit, PlanMemory
from models.prefill_plans.plan import PrefillPlan
from tests.models.prefill_plans.small import CORES, dense, mixture

BFLOAT16 = 2  # bytes
TOKENS = 512


def attention_weights(config):
    """Of q, k, v, o and two norms: sizes are whole tiles, so nothing is padded."""
    hidden, width = config.hidden_size, config.num_attention_heads * config.head_dim
    of_keys = config.num_key_value_heads * config.head_dim
    return hidden * (2 * width + 2 * of_keys) + 2 * hidden


def cache_bytes(config, tokens):
    """Of keys and values of all heads of a layer."""
    return 2 * tokens * config.num_key_value_heads * config.head_dim * BFLOAT16


def test_dense_model():
    setting = dense()
    config, plan = setting.config, PrefillPlan(tokens=TOKENS, ring=2, cores=CORES)
    found = PlanMemory(setting).fullest(plan)
    mlp = 3 * config.hidden_size * config.intermediate_size
    layer = (attention_weights(config) + mlp) * BFLOAT16
    assert found.weights == config.num_hidden_layers * layer
    # A chip has half of the prompt.
    own = cache_bytes(config, TOKENS // 2)
    assert found.cache == config.num_hidden_layers * own
    ends = 2 * config.vocab_size * config.hidden_size + config.hidden_size
    assert found.ends == ends * BFLOAT16
    assert found.total == found.weights + found.cache + found.ends + found.working


def test_experts_are_dealt_over_all_chips():
    setting = mixture()
    config = setting.config
    experts = config.experts
    assert experts is not None
    of_one = 3 * config.hidden_size * experts.width
    router = config.hidden_size * experts.count
    head_norms = 2 * config.head_dim
    for ring in (1, 2, 4):
        plan = PrefillPlan(tokens=TOKENS, ring=ring, cores=CORES)
        found = PlanMemory(setting).fullest(plan)
        own = experts.count // ring * of_one
        layer = (attention_weights(config) + head_norms + own + router) * BFLOAT16
        assert found.weights == config.num_hidden_layers * layer


def test_chips_of_a_place_share_matrices():
    """Each has half of them, both norms, and the cache of its own heads."""
    setting = dense()
    config = setting.config
    whole = PlanMemory(setting).fullest(PrefillPlan(tokens=TOKENS, ring=2, cores=1))
    plan = PrefillPlan(tokens=TOKENS, ring=2, cores=1, tensor=2)
    found = PlanMemory(setting).fullest(plan)
    norms = 2 * config.hidden_size * BFLOAT16 * config.num_hidden_layers
    assert found.weights - norms == (whole.weights - norms) // 2
    assert found.cache == whole.cache // 2
    assert found.ends == whole.ends


def test_stages_share_layers_and_have_their_own_ends():
    setting = dense()
    memory = PlanMemory(setting)
    whole = memory.fullest(PrefillPlan(tokens=TOKENS, ring=2, cores=CORES))
    staged = PrefillPlan(tokens=TOKENS, ring=2, stages=2, chunks=2, cores=CORES)
    first, last = memory.stages(staged)
    assert first.weights + last.weights == whole.weights
    assert first.cache + last.cache == whole.cache
    assert first.ends + last.ends == whole.ends
    assert first.working < whole.working


def test_one_byte_less_is_refused():
    setting, plan = dense(), PrefillPlan(tokens=TOKENS, ring=2, cores=CORES)
    total = PlanMemory(setting).fullest(plan).total

    def with_bytes(nbytes):
        hbm = Quantity(nbytes, "assumed", "a test", nbytes, nbytes)
        sheet = dataclasses.replace(setting.sheet, hbm_bytes=hbm)
        return PlanMemory(dataclasses.replace(setting, sheet=sheet))

    assert with_bytes(total).fullest(plan).total == total
    with pytest.raises(DoesNotFit, match="2 chips: a chip has .* take more stages"):
        with_bytes(total - 1).fullest(plan)


@pytest.mark.slow
def test_more_chips_never_need_more_each():
    setting = mixture()
    memory = PlanMemory(setting)
    totals = [
        memory.fullest(PrefillPlan(tokens=TOKENS, ring=ring, cores=CORES)).total
        for ring in (1, 2, 4)
    ]
    assert totals == sorted(totals, reverse=True)
