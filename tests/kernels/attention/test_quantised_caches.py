"""Caches of 8-bit codes: what their codes and scales stand for, and attention over them."""

from typing import Any

import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest

from kernels import attention, masks, variants
from kernels.attention.variant import Variant

RNG = np.random.default_rng(0)
Q = RNG.standard_normal((2, 4, 13, 8)).astype(np.float32)
K, V = RNG.standard_normal((2, 2, 2, 13, 8)).astype(np.float32) * 3
K[0, 1, 2] = 0


def codes(name: str) -> tuple[Any, Variant]:
    if name == "int8":
        cache = variants.quantise_int8(K, V)
        return cache, variants.int8_cache(cache.k_scales, cache.v_scales, 4)
    cache = variants.quantise_fp8(K, V)
    return cache, variants.fp8_cache(cache.k_scales, cache.v_scales, 4)


@pytest.mark.parametrize("name", ["int8", "fp8"])
def test_codes_are_8_bits_that_bfloat16_holds(name: str) -> None:
    cache, _ = codes(name)
    dtype = np.int8 if name == "int8" else ml_dtypes.float8_e4m3fn
    for x in (cache.k, cache.v):
        np.testing.assert_array_equal(x.astype(dtype).astype(np.float32), x)
        np.testing.assert_array_equal(
            jnp.asarray(x, jnp.bfloat16).astype(np.float32), x
        )
    # The largest of a token, or of a head, has the largest code.
    largest = np.abs(cache.v).max(-1 if name == "int8" else (-2, -1))
    np.testing.assert_allclose(largest, 127 if name == "int8" else 448)


@pytest.mark.parametrize(("name", "rounding"), [("int8", 1 / 254), ("fp8", 1 / 16)])
def test_codes_times_scales_are_the_cache(name: str, rounding: float) -> None:
    cache, _ = codes(name)
    for x, of_codes, scales in (
        (K, cache.k, cache.k_scales),
        (V, cache.v, cache.v_scales),
    ):
        wide = scales.reshape(*scales.shape, *[1] * (4 - scales.ndim))
        size = np.abs(x) if name == "fp8" else np.abs(x).max(-1, keepdims=True)
        # Of numbers below the least normal one the step is the same.
        least = wide * 2.0**-10 if name == "fp8" else 0
        assert (np.abs(of_codes * wide - x) <= rounding * size + least + 1e-6).all()


@pytest.mark.parametrize("name", ["int8", "fp8"])
def test_attention_over_codes_is_that_over_what_they_stand_for(name: str) -> None:
    cache, variant = codes(name)
    out, sums = variant.dense(Q, cache.k, cache.v)
    k, v = (
        x.astype(float) * scales.reshape(*scales.shape, *[1] * (4 - scales.ndim))
        for x, scales in ((cache.k, cache.k_scales), (cache.v, cache.v_scales))
    )
    wanted, of_sums = attention(masks.causal).dense(Q, k, v)
    np.testing.assert_allclose(out, np.asarray(wanted), rtol=0, atol=1e-12)
    apart = np.abs(np.asarray(sums) - np.asarray(of_sums)).max()
    assert apart <= 1e-12, apart
    # And near the cache as it was.
    exact, _ = attention(masks.causal).dense(Q, K, V)
    apart = np.abs(np.asarray(out) - np.asarray(exact)).mean()
    assert apart < (0.02 if name == "int8" else 0.15), apart


@pytest.mark.parametrize("name", ["int8", "fp8"])
def test_the_wafer_holds_codes_in_bytes(name: str) -> None:
    cache, variant = codes(name)
    newest, last = Q[:, :, -1:], Q.shape[2] - 1
    assert variant.cache_dtype is not None
    held = [x.astype(jnp.dtype(variant.cache_dtype)) for x in (cache.k, cache.v)]
    out, _ = variant.decode(newest, (held[0], held[1]))
    wanted, _ = variant.dense(newest, cache.k, cache.v, q_offset=last)
    # In float32, over values that are codes: of 8 bits.
    assert np.abs(out - np.asarray(wanted)).max() <= 2e-6 * np.abs(V).max()
    sizes: dict[str, Any] = {"tokens": 1024, "heads": 4, "kv_heads": 2, "head_dim": 64}
    sizes |= {"batch": 2, "rows": 8, "parts": 2}
    scales = np.ones((2, 2, 1024) if name == "int8" else (2, 2), np.float32)
    timed = getattr(variants, f"{name}_cache")(scales, scales, 4)
    narrow, wide = timed.time(**sizes), timed.time(cache_dtype=None, **sizes)
    assert narrow.prefill == wide.prefill
    # Of 128 slots of 32 features of keys and of values half the bytes, but for a piece of 64.
    saved = wide.decode.sram_bytes - narrow.decode.sram_bytes
    assert 128 * 64 - 64 * 32 * 2 <= saved <= 128 * 64
    assert narrow.decode.cycles["nominal"] > wide.decode.cycles["nominal"]
