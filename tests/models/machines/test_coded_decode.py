"""Decode of whole models with weights in codes: the oracle's logits on the same numbers."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from emu import Quantity
from emu.wse import WSE3
from kernels.formats.coding import as_held
from kernels.formats.formats import FORMATS
from models.errors import ModelError
from models.machines.decode import Decoder
from models.plain.held import held_weights
from models.plain.kv_cache import empty_cache
from models.plain.oracle import jitted_extend
from models.plain.weights import random_weights
from models.precision import precision
from tests.models.machines.test_prefill import LLAMA

MODEL = dataclasses.replace(
    LLAMA, hidden_size=64, intermediate_size=96, num_hidden_layers=2, vocab_size=64
)
WEIGHTS = random_weights(MODEL, 0)
CONTEXT = 6
CODED = [name for name, held in FORMATS.items() if held.is_coded]
# A wafer of few rows, so that blocks of 32 have several numbers in a PE.
LOW = dataclasses.replace(
    WSE3, grid_height=Quantity(4, "published", "a lower wafer, for the test")
)


@pytest.mark.parametrize(
    "name",
    [x if x == "mxfp8" else pytest.param(x, marks=pytest.mark.slow) for x in CODED],
)
def test_logits_are_the_oracles_on_the_same_numbers(name: str) -> None:
    plan = precision(f"weights={name},cache=float32")
    decoder = Decoder(MODEL, WEIGHTS, CONTEXT, plan, LOW.at())
    ids = np.random.default_rng(3).integers(0, MODEL.vocab_size, (1, CONTEXT))
    held = held_weights(MODEL, WEIGHTS, plan)
    given = jax.tree.map(jnp.asarray, held)
    tokens = jnp.asarray(ids, jnp.int32)
    logits, _ = jitted_extend(MODEL, given, tokens, empty_cache(MODEL, 1, CONTEXT))
    cache = decoder.empty_cache()
    for pos in range(CONTEXT):
        _, got, cache = decoder.step(ids[0, pos], pos, cache)
        # Float32 sums in another order; logits are of about 3. The format moves them by 100 times
        # as much at the least.
        np.testing.assert_allclose(got, np.asarray(logits)[0, pos], rtol=0, atol=1e-4)
    assert decoder.precision == plan


def test_only_products_of_layers_are_in_codes() -> None:
    plan = precision("fp8")
    held = held_weights(MODEL, WEIGHTS, plan)
    for name in ("embed", "norm"):
        assert held[name] is WEIGHTS[name]
    for name, given in WEIGHTS["layers"].items():
        found = held["layers"][name]
        if name.endswith("norm"):
            assert found is given
            continue
        for layer, of_layer in enumerate(given):
            wanted = as_held(of_layer, plan.weights)
            np.testing.assert_array_equal(found[layer], wanted)
    assert held_weights(MODEL, WEIGHTS, precision("bfloat16")) is WEIGHTS


def test_a_cache_in_codes_is_refused_by_name() -> None:
    with pytest.raises(ModelError, match="cache must be in bfloat16, got fp8"):
        Decoder(MODEL, WEIGHTS, CONTEXT, "cache=fp8")
