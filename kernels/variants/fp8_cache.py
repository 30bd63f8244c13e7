"""Attention over a cache of 8-bit floats (E4M3), with a scale for each KV head.

Micikevicius et al., *FP8 Formats for Deep Learning* (2022, arXiv 2209.05433); caches so quantised
are served by vLLM and TensorRT-LLM. A head's scale of keys multiplies its scores, and that of its
values the weights that they meet.
"""

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np

from kernels import masks
from kernels.attention.decorator import attention
from kernels.attention.softmax import State
from kernels.attention.variant import Variant
from kernels.masks import Mask

Array = np.ndarray | jax.Array

LARGEST = float(ml_dtypes.finfo(ml_dtypes.float8_e4m3fn).max)
"""448: what is larger has no code."""


class Fp8Cache(NamedTuple):
    """Keys and values as codes, numbers of E4M3 in float32, which bfloat16 holds exactly.

    Attributes:
      k, v: `[batch, kv_heads, tokens, features]`, of -448 to 448.
      k_scales, v_scales: float32 `[batch, kv_heads]`.
    """

    k: np.ndarray
    v: np.ndarray
    k_scales: np.ndarray
    v_scales: np.ndarray


def quantise_fp8(k: np.ndarray, v: np.ndarray) -> Fp8Cache:
    """Keys and values, `[batch, kv_heads, tokens, features]`, by the largest of each head."""

    def codes(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        largest = np.abs(x).max((-2, -1))
        scales = np.where(largest, largest / LARGEST, 1).astype(np.float32)
        # A quotient may exceed the largest code by a rounding.
        within = np.clip(x / scales[..., None, None], -LARGEST, LARGEST)
        rounded = within.astype(ml_dtypes.float8_e4m3fn)
        return rounded.astype(np.float32), scales

    (k_codes, k_scales), (v_codes, v_scales) = codes(k), codes(v)
    return Fp8Cache(k_codes, v_codes, k_scales, v_scales)


def fp8_cache(
    k_scales: Array, v_scales: Array, heads: int, mask: Mask = masks.causal
) -> Variant:
    """Softmax attention of `heads` query heads; keys and values are the codes.

    Args:
      k_scales, v_scales: `[batch, kv_heads]`.
      heads: of queries.
      mask: which keys a query attends to.
    """
    group = heads // k_scales.shape[1]

    def score(s: Any, b: Any, h: Any, q: Any, k: Any) -> Any:
        return s * jnp.asarray(k_scales)[b, h // group]

    def finish(state: State, b: Any, h: Any, q: Any, d: Any) -> Any:
        # One scale for all values of a head may wait until they are summed.
        return state.output / state.total * jnp.asarray(v_scales)[b, h // group]

    made = attention.monoid(finish=finish, score=score, mask=mask, name="fp8_cache")
    return dataclasses.replace(made, cache_dtype="float8_e4m3fn")


__all__ = ["Fp8Cache", "fp8_cache", "quantise_fp8"]
