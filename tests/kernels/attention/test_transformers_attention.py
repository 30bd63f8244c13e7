"""Variants against the attention of transformers' own modules, stored and live."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy

from kernels import Variant, attention, masks, variants
from kernels.attention.latent import Form
from kernels.masks import Mask
from tests.kernels.attention import make_module_references
from tests.kernels.attention.make_module_references import DATA, TOKENS

STORED = safetensors.numpy.load_file(DATA)
WINDOW, CHUNK, CAP = 6, 7, 2.0
EXACT = 1e-12

Kept = dict[str, np.ndarray]
"""What is stored of a module, by name without the module's."""


def kept(name: str) -> Kept:
    start = f"{name}."
    return {key.removeprefix(start): x for key, x in STORED.items() if start in key}


def scaled(variant: Variant, of: Kept) -> Variant:
    return dataclasses.replace(variant, scale=float(of["scale"][0]))


def dense(variant: Variant, of: Kept) -> np.ndarray:
    """As the modules have it, `[batch, tokens, heads, dim]`."""
    out, _ = scaled(variant, of).dense(of["q"], of["k"], of["v"])
    return np.asarray(out).swapaxes(1, 2)


# Softmax with a score and a mask: the variant, and what differs from float64's rounding.
SCORES: dict[str, tuple[Variant, float]] = {
    "gemma2_window": (variants.soft_cap(CAP, masks.window(WINDOW)), EXACT),
    "gemma2_full": (variants.soft_cap(CAP), EXACT),
    "llama4_chunked": (variants.chunked(CHUNK), EXACT),
    "llama4_global": (variants.causal(), EXACT),
    # Keys as wide as queries, values narrower, and a scale of its own.
    "deepseek_v3": (variants.causal(), EXACT),
    "qwen3_next": (variants.causal(), EXACT),
    "diffllama": (variants.causal(), EXACT),
    "bloom": (variants.alibi(4), EXACT),
    # Slopes that are no powers of two: the module multiplies them by positions in float32, up to
    # 12 of them with an error of 12 * 2^-24.
    "bloom_6_heads": (variants.alibi(6), 4e-6),
}


@pytest.mark.parametrize("name", SCORES)
def test_dense_is_the_module_s(name: str) -> None:
    variant, allowed = SCORES[name]
    of = kept(name)
    wanted = of.get("attended", of["out"])
    given = dense(variant, of).reshape(wanted.shape)
    np.testing.assert_allclose(given, wanted, rtol=0, atol=allowed)


@pytest.mark.parametrize("name", SCORES)
def test_masks_are_those_that_transformers_makes(name: str) -> None:
    mask = SCORES[name][0].reading.mask
    assert mask is not None
    of = kept(name)
    row, column = np.indices(of["live"].shape)
    heads = np.zeros_like(row)
    given = mask(heads, heads, row, column)
    np.testing.assert_array_equal(np.asarray(given), of["live"].astype(bool))


@pytest.mark.parametrize(("name", "span"), [("window", WINDOW), ("full", TOKENS)])
def test_a_sink_is_a_key_more_of_no_value(name: str, span: int) -> None:
    """gpt-oss's sinks by a score alone: behind the keys stands one that all attend to."""
    of = kept(f"gpt_oss_{name}")
    sinks = jnp.asarray(of["sinks"])

    def score(
        s: jax.Array, b: jax.Array, h: jax.Array, q: jax.Array, k: jax.Array
    ) -> jax.Array:
        near = (k <= q) & (q - k < span)
        return jnp.where(k == TOKENS, sinks[h], jnp.where(near, s, -jnp.inf))

    one_more = ((0, 0), (0, 0), (0, 1), (0, 0))
    more = of | {x: np.pad(of[x], one_more) for x in ("k", "v")}
    given = dense(attention(score), more)
    # The sinks reach JAX in float32, in which the module holds numbers of float64.
    np.testing.assert_allclose(given, of["attended"], rtol=0, atol=1e-7)


@pytest.mark.parametrize(
    ("name", "mask"), [("window", masks.window(WINDOW)), ("full", masks.causal)]
)
def test_a_learned_sink_is_gpt_oss_s(name: str, mask: Mask) -> None:
    of = kept(f"gpt_oss_{name}")
    with jax.enable_x64(True):
        given = dense(variants.learned_sink(of["sinks"], mask), of)
    np.testing.assert_allclose(given, of["attended"], rtol=0, atol=EXACT)


@pytest.mark.parametrize("form", ["expanded", "absorbed"])
def test_latent_attention_is_deepseek_v3_s(form: Form) -> None:
    of = kept("deepseek_v3")
    _, heads, _, features = of["q"].shape
    latent = of["latents"][:, 0]
    made = of["kv_b"].reshape(heads, -1, latent.shape[-1]).transpose(2, 0, 1)
    nope = made.shape[-1] - of["v"].shape[-1]
    rotary = of["k"][:, 0, :, nope:]  # of all heads the same
    assert rotary.shape[-1] == features - nope
    weights = made[..., :nope], made[..., nope:]
    variant = variants.mla(form, scaled(variants.causal(), of))
    given, _ = variant.dense(of["q"], latent, rotary, *weights)
    by_token = np.asarray(given).swapaxes(1, 2)
    np.testing.assert_allclose(by_token, of["attended"], rtol=0, atol=EXACT)


def test_differential_attention_is_diffllama_s() -> None:
    """Before the norm, which is the model's. The module repeats a half's values for both maps."""
    of = kept("diffllama")
    half = of["v"].shape[1] // 2
    v = np.concatenate([of[name][:, :half] for name in ("v", "v2")], axis=-1)
    made = variants.differential(of["lambda"][0], scaled(variants.causal(), of))
    given, _ = made.dense(of["q"], of["k"], v)
    by_token = np.asarray(given).swapaxes(1, 2)
    np.testing.assert_allclose(by_token, of["mixed"], rtol=0, atol=EXACT)


def test_a_gated_output_is_qwen3_next_s() -> None:
    of = kept("qwen3_next")
    with jax.enable_x64(True):
        given = dense(variants.gated(of["gate"].swapaxes(1, 2)), of)
    wanted = of["out"].reshape(given.shape)
    np.testing.assert_allclose(given, wanted, rtol=0, atol=EXACT)


def test_every_stored_module_is_compared() -> None:
    names = {name.split(".")[0] for name in STORED}
    assert names == {*SCORES, "gpt_oss_window", "gpt_oss_full"}


@pytest.mark.hf_live
@pytest.mark.filterwarnings("default")  # the libraries' own warnings are not ours
def test_what_is_stored_is_what_the_modules_give_now() -> None:
    for package in ("torch", "transformers"):
        pytest.importorskip(package, reason=f"{package} is not installed")
    now = make_module_references.compute()
    assert set(now) == set(STORED)
    for name, stored in STORED.items():
        np.testing.assert_allclose(
            now[name].reshape(stored.shape), stored, rtol=0, atol=1e-13, err_msg=name
        )
