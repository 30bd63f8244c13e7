"""Decode with latent attention: the oracle's logits and tokens."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kernels.formats.formats import FORMATS
from models.config import ModelConfig
from models.errors import ModelError
from models.loading.load import load
from models.machines.decode import Decoder
from models.plain.held import held_weights
from models.plain.kv_cache import empty_cache
from models.plain.oracle import generate, jitted_extend
from models.plain.transformer import forward, from_weights
from models.plain.weights import random_weights
from models.precision import Taken, precision
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


def test_an_answer_behind_a_prompt_of_latents_in_codes_is_refused() -> None:
    """The cache of a prompt has keys and values of all heads, and no latents."""
    model = load(DATA / "deepseek_v3")
    plain = from_weights(model.config, model.weights)
    with pytest.raises(ModelError, match="none are left to be held in fp8"):
        generate(plain, [1, 2], 1, cached=FORMATS["fp8"])


@pytest.mark.slow
@pytest.mark.parametrize("words", ["cache=fp8", "weights=mxfp8,cache=int8"])
def test_latents_in_codes(words: str) -> None:
    """The oracle's logits and tokens, whose keys and values are made of latents in codes."""
    model = load(DATA / "deepseek_v3")
    config, plan = model.config, precision(words)
    plan = dataclasses.replace(plan, wide="float32")
    decoder = Decoder(config, model.weights, CONTEXT, plan)
    ids = np.random.default_rng(3).integers(0, config.vocab_size, (1, CONTEXT))
    held = held_weights(config, model.weights, plan)
    weights, tokens = jax.tree.map(jnp.asarray, held), jnp.asarray(ids, jnp.int32)
    plain, cache = empty_cache(config, 1, CONTEXT), decoder.empty_cache()
    for pos, token in enumerate(ids[0]):
        one = tokens[:, pos : pos + 1]
        wanted, plain = jitted_extend(
            config, weights, one, plain, None, Taken(), plan.cache
        )
        best, logits, cache = decoder.step(token, pos, cache)
        expected = np.asarray(wanted)[0, 0]
        # Float32 sums in another order; a number in the middle between two codes may become either.
        np.testing.assert_allclose(logits, expected, rtol=0, atol=1e-3)
        assert best == expected.argmax()
