"""Decode with latent attention: the oracle's tokens, and published layers at full size."""

import dataclasses
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from emu.wse import WSE3
from emu.wse.regions import DoesNotFit
from kernels.attention.decode_spent import SPENT_ON, decode_spent
from kernels.moe.wafer import ExpertMlp
from kernels.wse.decode.candidates import LayerKind
from kernels.wse.decode.form import DecodeForm
from kernels.wse.decode.layer_plan import LayerStep, plan_layer
from kernels.wse.decode.plan import PlacedKind
from models.config import ModelConfig
from models.configurations import published
from models.loading.load import load
from models.machines.decode import Decoder
from models.machines.decode_kinds import decode_form
from models.plain.transformer import forward
from models.plain.weights import random_weights
from tests.models.conftest import DATA

WAFER = WSE3.at()
CONTEXT = 7


def at_once(config: ModelConfig) -> ModelConfig:
    """The same model with queries that have no latent, as DeepSeek-V2-Lite's."""
    assert config.latent is not None
    latent = dataclasses.replace(config.latent, query_rank=None)
    return dataclasses.replace(config, latent=latent)


@pytest.mark.parametrize(
    "has_query_latent", [True, pytest.param(False, marks=pytest.mark.slow)]
)
def test_logits_and_tokens_are_the_oracles(has_query_latent: bool) -> None:
    """A layer with an MLP and two with experts; the oracle makes keys and values of all heads."""
    model = load(DATA / "deepseek_v3")
    config, given = model.config, model.weights
    if not has_query_latent:
        config = at_once(config)
        given = random_weights(config, 0)
    decoder = Decoder(config, given, CONTEXT)
    ids = np.random.default_rng(3).integers(0, config.vocab_size, (1, CONTEXT))
    weights = jax.tree.map(jnp.asarray, given)
    wanted = np.asarray(forward(config, weights, jnp.asarray(ids, jnp.int32)))[0]
    cache = decoder.empty_cache()
    assert all(set(layer) == {"k"} for layer in cache)
    for pos, token in enumerate(ids[0]):
        best, logits, cache = decoder.step(token, pos, cache)
        # Float32 sums in another order; logits are of about 3.
        np.testing.assert_allclose(logits, wanted[pos], rtol=0, atol=1e-4)
        assert best == wanted[pos].argmax()
    step = decoder.read(CONTEXT - 1)
    assert step.phase_cycles["layers"] > 0.5 * step.cycles


def form_of(name: str, held: str | None) -> DecodeForm:
    """Of a published model's layers with experts."""
    form = decode_form(published(name).config.forms[-1])
    assert isinstance(form.mlp, ExpertMlp)
    return dataclasses.replace(form, mlp=dataclasses.replace(form.mlp, held=held))


def placed(name: str, held: str | None, context: int) -> PlacedKind:
    config = published(name).config
    kind = LayerKind(form_of(name, held))
    return plan_layer(config, context, "bfloat16", WAFER, kind)


FULL_SIZES = [
    ("kimi-k2", "float8_e4m3fn", 8_192),
    *(
        pytest.param(*case, marks=pytest.mark.slow)
        for case in (
            ("deepseek-v3", None, 8_192),
            ("deepseek-v3", None, 131_072),
            ("deepseek-v3", "float8_e4m3fn", 131_072),
            ("kimi-k2", "float8_e4m3fn", 131_072),
        )
    ),
]


@pytest.mark.parametrize(("name", "held", "context"), FULL_SIZES)
def test_layers_at_full_size(name: str, held: str | None, context: int) -> None:
    """Region, bytes and cycles from sizes alone, in 10 CPU seconds; twice as many when busy."""
    start = time.process_time()
    found = placed(name, held, context)
    step = LayerStep(found, context - 1)
    reading = step.read(WAFER)
    assert time.process_time() - start < 20
    layer, config = found.map, published(name).config
    assert sum(found.bytes.values()) <= WAFER.sram_bytes
    assert layer.rows <= WAFER.grid_height and layer.cols <= WAFER.grid_width
    spent = decode_spent(step, reading, WAFER)
    assert set(spent) == set(SPENT_ON) and sum(spent.values()) == reading.end_ticks
    # At least the multiply-adds of the layer without padding.
    assert layer.form.latent is not None and isinstance(layer.form.mlp, ExpertMlp)
    least = layer.form.mlp.flops(config.hidden_size) + layer.form.latent.flops(
        config.hidden_size, config.num_attention_heads, context, layer.kv_heads
    )
    flops = reading.tally.by("flops")
    names = ("fmac_map", "score_map", "value_map", "chosen_map")
    assert sum(flops[f"wse.{name}"] for name in names) >= least


def test_experts_of_kimi_k2_in_two_bytes_do_not_fit_a_wafer() -> None:
    """385 slices of 7 x 3 numbers, three of each, are 48,510 of a PE's 49,152 bytes beside code."""
    with pytest.raises(DoesNotFit, match="no context would do: its weights"):
        placed("kimi-k2", None, 8_192)
