"""Decode with latent attention: the oracle's logits and tokens."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from models.config import ModelConfig
from models.loading.load import load
from models.machines.decode import Decoder
from models.plain.held import held_weights
from models.plain.transformer import forward
from models.plain.weights import random_weights
from models.precision import precision
from tests.models.conftest import DATA

CONTEXT = 7


def at_once(config: ModelConfig) -> ModelConfig:
    """The same model with queries that have no latent, as DeepSeek-V2-Lite's."""
    assert config.latent is not None
    latent = dataclasses.replace(config.latent, query_rank=None)
    return dataclasses.replace(config, latent=latent)


@pytest.mark.parametrize(
    ("words", "has_query_latent"),
    [
        ("float32", True),
        *(
            pytest.param(*case, marks=pytest.mark.slow)
            for case in (
                ("float32", False),
                ("weights=mxfp8,cache=float32", True),
                ("weights=fp8_block,cache=float32", False),
            )
        ),
    ],
)
def test_logits_and_tokens_are_the_oracles(words: str, has_query_latent: bool) -> None:
    """A layer with an MLP and two with experts; the oracle makes keys and values of all heads.

    Where a plan has weights in codes, of the numbers that these stand for.
    """
    plan = precision(words)
    model = load(DATA / "deepseek_v3")
    config, given = model.config, model.weights
    if not has_query_latent:
        config = at_once(config)
        given = random_weights(config, 0)
    decoder = Decoder(config, given, CONTEXT, plan)
    ids = np.random.default_rng(3).integers(0, config.vocab_size, (1, CONTEXT))
    weights = jax.tree.map(jnp.asarray, held_weights(config, given, plan))
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
