"""The oracle: Hugging Face's logits, and the same logits token by token."""

import dataclasses
import importlib.util
import pathlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy
from flax import nnx

from models.catalogue import TINY
from models.errors import ModelError
from models.loading.hf_folder import load_hf_folder
from models.plain.kv_cache import empty_cache
from models.plain.oracle import jitted_extend
from models.plain.transformer import Transformer, forward, from_weights, weights
from models.plain.weights import flatten, random_weights

# Both sides are float32 over dot products of up to 80 terms and three layers, added in different
# orders, and Hugging Face takes RoPE's angles in float32. Logits are about 1 in size (largest 5);
# a wrong convention anywhere shows up as an error of order 0.1 or more.
HF_TOLERANCE = 5e-5


def load_reference(folder: pathlib.Path) -> tuple[Transformer, np.ndarray, np.ndarray]:
    """The model of a reference folder, its input ids and Hugging Face's logits."""
    config, values, _ = load_hf_folder(folder)
    stored = safetensors.numpy.load_file(folder / "reference.safetensors")
    return from_weights(config, values), stored["input_ids"], stored["logits"]


jitted_forward = jax.jit(forward, static_argnums=0)


def random_model(seed: int = 0) -> Transformer:
    """A model of the tiny config with random weights."""
    return from_weights(TINY, random_weights(TINY, seed))


def test_logits_are_hugging_faces(reference: pathlib.Path) -> None:
    model, ids, logits = load_reference(reference)
    computed = jitted_forward(model.config, weights(model), jnp.asarray(ids))
    np.testing.assert_allclose(computed, logits, rtol=0, atol=HF_TOLERANCE)


def test_token_by_token_equals_all_at_once(reference: pathlib.Path) -> None:
    model, ids, logits = load_reference(reference)
    prompt = 13
    # More capacity than tokens: empty positions must not be seen.
    cache = empty_cache(model.config, len(ids), 64)
    first, cache = jitted_extend(
        model.config, weights(model), jnp.asarray(ids[:, :prompt]), cache
    )
    rows = [np.asarray(first)]
    for position in range(prompt, ids.shape[1]):
        token = jnp.asarray(ids[:, position : position + 1])
        row, cache = jitted_extend(model.config, weights(model), token, cache)
        rows.append(np.asarray(row))
    assert int(cache.length) == ids.shape[1]
    np.testing.assert_allclose(
        np.concatenate(rows, 1), logits, rtol=0, atol=HF_TOLERANCE
    )


LONGROPE = {
    "rope_type": "longrope",
    "short_factor": [1.0] * 12,
    "long_factor": [1.0 + pair for pair in range(12)],
    "original_max_position_embeddings": 8,
}


def test_cached_keys_keep_the_frequencies_of_their_sequence() -> None:
    """LongRoPE's long factors hold from the ninth token on, for what is computed from there on."""
    config = dataclasses.replace(TINY, rope_scaling=LONGROPE)
    model = from_weights(config, random_weights(config, 3))
    tokens = jnp.arange(12, dtype=jnp.int32)[None]
    at_once, _ = jitted_extend(
        config, weights(model), tokens, empty_cache(config, 1, 16)
    )
    np.testing.assert_allclose(at_once, model(tokens), rtol=0, atol=1e-5)
    short, cache = jitted_extend(
        config, weights(model), tokens[:, :8], empty_cache(config, 1, 16)
    )
    np.testing.assert_allclose(short, model(tokens[:, :8]), rtol=0, atol=1e-5)
    later, _ = jitted_extend(config, weights(model), tokens[:, 8:], cache)
    assert np.abs(np.asarray(later - at_once[:, 8:])).max() > 1e-3


def test_dynamic_rope_behind_its_context_is_refused_in_a_cache() -> None:
    scaling = {"rope_type": "dynamic", "factor": 2.0}
    config = dataclasses.replace(TINY, rope_scaling=scaling, max_position_embeddings=8)
    model = from_weights(config, random_weights(config, 3))
    tokens = jnp.arange(9, dtype=jnp.int32)[None]
    empty = empty_cache(config, 1, 16)
    fits, cache = jitted_extend(config, weights(model), tokens[:, :8], empty)
    np.testing.assert_allclose(fits, model(tokens[:, :8]), rtol=0, atol=1e-5)
    over, _ = jitted_extend(config, weights(model), tokens[:, 8:], cache)
    assert np.isnan(np.asarray(over)).all()
    assert np.isfinite(np.asarray(model(tokens))).all()


def test_full_cache_is_used_and_an_overfull_one_gives_nan() -> None:
    model = random_model()
    tokens = jnp.arange(8, dtype=jnp.int32)[None]
    fits, cache = jitted_extend(TINY, weights(model), tokens, empty_cache(TINY, 1, 8))
    np.testing.assert_allclose(fits, model(tokens), rtol=0, atol=1e-5)
    over, _ = jitted_extend(TINY, weights(model), tokens[:, :1], cache)
    assert np.isnan(np.asarray(over)).all()


def test_weights_survive_the_round_trip_without_a_copy() -> None:
    given = jax.tree.map(jnp.asarray, random_weights(TINY, 3))
    model = from_weights(TINY, given)
    for name, array in flatten(weights(model)).items():
        assert array is flatten(given)[name], name


def test_rngs_seed_the_weights() -> None:
    one, same, other = (Transformer(TINY, nnx.Rngs(seed)) for seed in (1, 1, 2))
    np.testing.assert_array_equal(one.embed[...], same.embed[...])
    assert not np.array_equal(one.embed[...], other.embed[...])


def test_module_can_be_split_and_merged_under_jit() -> None:
    model, tokens = random_model(), jnp.arange(8, dtype=jnp.int32)[None]
    graph, state = nnx.split(model)
    cache = empty_cache(TINY, 1, 8)
    logits, cache = jax.jit(lambda s, c: nnx.merge(graph, s).extend(tokens, c))(
        state, cache
    )
    np.testing.assert_allclose(logits, model(tokens), rtol=0, atol=1e-5)
    assert int(cache.length) == 8


def test_wrong_weights_are_refused() -> None:
    values = random_weights(TINY, 0)
    with pytest.raises(ModelError, match=r"weight embed must be float32 \[1024, 96\]"):
        from_weights(TINY, values | {"embed": values["embed"].T})
    with pytest.raises(ModelError, match="float64"):
        from_weights(TINY, values | {"norm": values["norm"].astype(np.float64)})
    with pytest.raises(ModelError, match=r"unknown \['head'\]"):
        from_weights(TINY, values | {"head": values["embed"].T})


@pytest.mark.hf_live
@pytest.mark.filterwarnings("default")  # torch's own warnings are not ours to fail on
def test_reference_is_what_hugging_face_gives_now(reference: pathlib.Path) -> None:
    for package in ("torch", "transformers"):
        pytest.importorskip(package, reason=f"{package} is not installed")
    path = pathlib.Path(__file__).parents[1] / "make_reference.py"
    spec = importlib.util.spec_from_file_location("make_reference", path)
    assert spec is not None and spec.loader is not None
    module: Any = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    _, ids, logits = module.build(module.CASES[reference.name])
    stored = safetensors.numpy.load_file(reference / "reference.safetensors")
    np.testing.assert_array_equal(ids.numpy(), stored["input_ids"])
    np.testing.assert_allclose(
        logits.numpy(), stored["logits"], rtol=0, atol=HF_TOLERANCE
    )
