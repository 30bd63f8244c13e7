"""Attention over a cache of 8-bit integers, with a scale for each token of each KV head.

Xiao et al., *SmoothQuant* (ICML 2023, arXiv 2211.10438) quantise activations by token; so do Liu
et al., *KIVI* (ICML 2024, arXiv 2402.02750) the values of a cache. A key is `code * scale`, so the
scale of keys multiplies scores, and that of values the weights that they meet. Prefill multiplies a
rank's keys before it sends them, and value tiles where they are loaded, each rounded to its dtype.
"""

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from kernels import masks
from kernels.attention.decorator import attention
from kernels.attention.softmax import State
from kernels.attention.variant import Variant
from kernels.masks import Mask

Array = np.ndarray | jax.Array

LARGEST = 127


class Int8Cache(NamedTuple):
    """Keys and values as codes, whole numbers in float32, which bfloat16 holds exactly.

    Attributes:
      k, v: `[batch, kv_heads, tokens, features]`, of -127 to 127.
      k_scales, v_scales: float32 `[batch, kv_heads, tokens]`.
    """

    k: np.ndarray
    v: np.ndarray
    k_scales: np.ndarray
    v_scales: np.ndarray


def quantise_int8(k: np.ndarray, v: np.ndarray) -> Int8Cache:
    """Keys and values, `[batch, kv_heads, tokens, features]`, by the largest of each token."""

    def codes(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        largest = np.abs(x).max(-1)
        scales = np.where(largest, largest / LARGEST, 1).astype(np.float32)
        return np.rint(x / scales[..., None]).astype(np.float32), scales

    (k_codes, k_scales), (v_codes, v_scales) = codes(k), codes(v)
    return Int8Cache(k_codes, v_codes, k_scales, v_scales)


def int8_cache(
    k_scales: Array, v_scales: Array, heads: int, mask: Mask = masks.causal
) -> Variant:
    """Softmax attention of `heads` query heads; keys and values are the codes.

    Args:
      k_scales, v_scales: `[batch, kv_heads, tokens]`.
      heads: of queries.
      mask: which keys a query attends to.
    """
    group = heads // k_scales.shape[1]

    def score(s: Any, b: Any, h: Any, q: Any, k: Any) -> Any:
        return s * jnp.asarray(k_scales)[b, h // group, k]

    def partial(s: Any, v: Any, b: Any, h: Any, q: Any, k: Any) -> State:
        scale = jnp.asarray(v_scales)[b, h // group, k]
        return State(greatest=s, total=jnp.ones_like(s), output=v * scale)

    made = attention.monoid(partial=partial, score=score, mask=mask, name="int8_cache")
    return dataclasses.replace(made, cache_dtype="int8")


__all__ = ["Int8Cache", "int8_cache", "quantise_int8"]
