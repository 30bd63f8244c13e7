"""Decode of every family whose layers the wafer computes: the oracle's logits and tokens."""

import dataclasses
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.typing import NDArray

from kernels.moe.router import Routed, route
from kernels.moe.routing import Routing
from models.config import ModelConfig
from models.errors import ModelError
from models.layer_form import Experts
from models.loading.load import load
from models.machines.decode import Decoder
from models.plain import mlp
from models.plain.held import held_weights
from models.plain.kv_cache import empty_cache
from models.plain.oracle import jitted_extend
from models.plain.transformer import forward
from models.plain.weights import Weights, random_weights
from models.precision import precision
from tests.models.conftest import DATA

# Behind the references' windows, of 7 to 11 tokens, and their chunks of 16.
PROMPT, CONTEXT = 18, 22
FAMILIES = (
    "mistral_window",
    "qwen2_biases_window",
    "qwen3_moe",
    "mixtral",
    "gemma2",
    "gemma3",
    "phi3_partial",
    "smollm3",
    "glm4_moe",
    "gpt_oss",
    "llama4",
    "minimax_m2",
)
# Among them biases and windows; norms of outputs and a RoPE for each kind of layer; norms of all
# queries and keys together, of which a part turns; experts in some layers, a shared one, layers
# without RoPE, temperatures.
CHEAP = ("qwen2_biases_window", "gemma3", "minimax_m2", "llama4")


def same_as_the_oracle(
    config: ModelConfig, weights: Weights, decoder: Decoder
) -> NDArray[np.float32]:
    """Decodes a few tokens from the oracle's cache; returns all of the oracle's logits."""
    ids = np.random.default_rng(3).integers(0, config.vocab_size, (1, CONTEXT))
    logits, cache = jitted_extend(
        config,
        jax.tree.map(jnp.asarray, weights),
        jnp.asarray(ids, jnp.int32),
        empty_cache(config, 1, CONTEXT),
    )
    wanted = np.asarray(logits)[0]
    k, v = (np.asarray(x)[:, 0].swapaxes(1, 2) for x in (cache.k, cache.v))
    held = decoder.cache_from(k[:, :PROMPT], v[:, :PROMPT])
    for pos in range(PROMPT, CONTEXT):
        token, got, held = decoder.step(ids[0, pos], pos, held)
        # Float32 sums in another order; logits are of about 3.
        np.testing.assert_allclose(got, wanted[pos], rtol=0, atol=1e-4)
        assert token == wanted[pos].argmax()
    return wanted


@pytest.mark.parametrize(
    "name",
    [x if x in CHEAP else pytest.param(x, marks=pytest.mark.slow) for x in FAMILIES],
)
def test_logits_and_tokens_are_the_oracles(name: str) -> None:
    model = load(pathlib.Path(DATA / name))
    decoder = Decoder(model.config, model.weights, CONTEXT)
    same_as_the_oracle(model.config, model.weights, decoder)
    step = decoder.read(CONTEXT - 1)
    parts = decoder.clock.stops(CONTEXT - 1, "nominal")
    assert step.wafer_cycles == sum(reading.end_ticks for reading in parts)


UNDER_PLANS = (
    ("qwen3_moe", "weights=mxfp4"),
    ("gpt_oss", "experts=mxfp4"),
    ("gpt_oss", "weights=fp8_block"),
    ("glm4_moe", "weights=int4"),  # an MLP in some layers, a shared expert
)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        case if case == UNDER_PLANS[0] else pytest.param(*case, marks=pytest.mark.slow)
        for case in UNDER_PLANS
    ],
)
def test_experts_in_codes(name: str, words: str) -> None:
    """The oracle's tokens on the numbers that the codes stand for."""
    model = load(pathlib.Path(DATA / name))
    plan = precision(f"{words},cache=float32")
    decoder = Decoder(model.config, model.weights, CONTEXT, plan)
    held = held_weights(model.config, model.weights, plan)
    same_as_the_oracle(model.config, held, decoder)
    # Layers with experts hold these in codes.
    mixtures = [
        kind.map for kind in decoder.plan.kinds if kind.map.form.mlp is not None
    ]
    assert mixtures
    for layer in mixtures:
        assert "experts_down_scale" in layer.weight_shapes()


def mixed_model() -> ModelConfig:
    """A layer with a wide MLP, and behind it two with small experts."""
    return dataclasses.replace(
        load(DATA / "glm4_moe").config,
        hidden_size=16,
        head_dim=64,
        rotary_dim=None,
        num_key_value_heads=1,
        intermediate_size=512,
        experts=Experts(count=3, chosen=1, width=2),
    )


def test_layers_with_experts_may_have_narrower_regions_than_those_with_an_mlp() -> None:
    config = mixed_model()
    weights = random_weights(config, 0)
    decoder = Decoder(config, weights, CONTEXT)
    same_as_the_oracle(config, weights, decoder)
    plan = decoder.plan
    wide, *narrow = plan.regions
    assert wide.width > narrow[0].width == narrow[1].width
    assert {region.height for region in plan.regions} == {plan.head_region.height}
    assert [region.width for region in plan.regions] == [
        kind.map.cols for kind in plan.layers
    ]
    assert plan.pes == sum(region.pes for region in (*plan.regions, plan.head_region))


def test_a_step_tells_which_experts_were_chosen(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model = load(DATA / "glm4_moe")
    ids = [5, 17, 3]
    by_layer: list[np.ndarray] = []

    def spy(logits: jax.Array, routing: Routing, bias: jax.Array | None) -> Routed:
        routed = route(logits, routing, bias)
        jax.debug.callback(by_layer.append, routed.experts, ordered=True)
        return routed

    monkeypatch.setattr(mlp, "route", spy)
    weights = jax.tree.map(jnp.asarray, model.weights)
    of_ids = jax.jit(forward, static_argnums=0)
    of_ids(model.config, weights, jnp.asarray([ids], jnp.int32)).block_until_ready()
    jax.effects_barrier()
    decoder = Decoder(model.config, model.weights, CONTEXT)
    cache = decoder.empty_cache()
    for pos, token in enumerate(ids):
        step = decoder.run(token, pos, cache)
        cache = step.cache
        # Its first layer has an MLP.
        assert step.experts[0] is None
        for got, wanted in zip(step.experts[1:], by_layer, strict=True):
            assert got is not None
            np.testing.assert_array_equal(got, wanted[pos])


def test_what_the_wafer_does_not_compute_is_refused_by_name() -> None:
    config = mixed_model()
    experts = Experts(count=3, chosen=1, width=2, shared_width=3)
    uneven = dataclasses.replace(config, experts=experts)
    with pytest.raises(ModelError, match="shared experts of another width"):
        Decoder(uneven, random_weights(uneven, 0), CONTEXT)


def test_a_temperature_costs_one_multiply_of_the_queries() -> None:
    config = load(DATA / "llama4").config
    without = dataclasses.replace(config, temperature=None)
    tuned, plain = (
        Decoder(x, random_weights(x, 0), CONTEXT) for x in (config, without)
    )
    assert tuned.plan.regions == plain.plan.regions
    *_, last = tuned.plan.layers
    assert last.map.form.has_temperature and not last.map.turned
    numbers = last.map.queries * last.map.dims
    # Three descriptors of 4 cycles, 6 for the issue, a float32 number a cycle; in one layer alone.
    assert tuned.read(3).cycles - plain.read(3).cycles == 3 * 4 + 6 + numbers
