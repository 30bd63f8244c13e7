"""Attention in float64 on what a kernel was given: as drawn, and as rounded to its dtype."""

import dataclasses
from typing import TypeAlias

import jax
import jax.numpy as jnp
import numpy as np

from emu import numerics
from emu.annotations import DType, PyTree
from emu.trainium.datasheets.limits import MX_PARTITIONS, MX_QUAD
from kernels.masks.catalogue import Mask
from kernels.tokens.placement import Placement
from kernels.trainium.context.attention import ContextAttention

SEED = 0
# Of queries; keys and values have 1. Softmax over 2,048 keys is peaked then.
# Scores have a standard deviation of 3: the largest of a row is 10.3 on average and takes 23 % of
# the weight.
SIGMA_Q = 3.0
ROWS = 256  # queries whose scores are in memory at once


Array: TypeAlias = np.ndarray | jax.Array
Quantised: TypeAlias = tuple[jax.Array, jax.Array]
"""Elements, and the scales of their blocks."""


@dataclasses.dataclass(frozen=True, eq=False)
class Operands:
    """Queries, keys and values, each `[tokens, heads, head_dim]`."""

    q: Array
    k: Array
    v: Array

    def cast(self, dtype: DType) -> "Operands":
        """Rounded to `dtype` as the kernel rounds them."""

        def rounded(array: Array) -> jax.Array:
            return numerics.cast(jnp.asarray(array), dtype)

        return Operands(rounded(self.q), rounded(self.k), rounded(self.v))


def draw(tokens: int, heads: int, head_dim: int) -> Operands:
    """Normal operands in float32, the same ones every time."""
    rng = np.random.default_rng(SEED)
    shape = (tokens, heads, head_dim)

    def normal() -> np.ndarray:
        return rng.standard_normal(shape).astype(np.float32)

    q = normal()
    k = normal()
    v = normal()
    return Operands(np.float32(SIGMA_Q) * q, k, v)


def attention(operands: Operands, mask: Mask) -> np.ndarray:
    """Attention in float64, `[tokens, heads, head_dim]`; every query attends to some key."""
    q = _wide(operands.q)
    k = _wide(operands.k)
    v = _wide(operands.v)
    out = np.empty_like(q)
    positions = np.arange(k.shape[1])
    # Scores of 2 heads by 256 queries by 2,048 keys are 8 MiB in float64; all queries' 64 MiB.
    for first in range(0, len(positions), ROWS):
        own = slice(first, first + ROWS)
        scores = q[:, own] @ k.swapaxes(1, 2) / np.sqrt(q.shape[2])
        pairs = np.broadcast_arrays(positions[own, None], positions)
        allowed = np.asarray(mask(0, 0, *pairs))
        scores[:, ~allowed] = -np.inf
        weights = np.exp(scores - scores.max(-1, keepdims=True))
        total = weights.sum(-1, keepdims=True)
        out[:, own] = weights @ v / total
    return out.swapaxes(0, 1)


def _wide(array: Array) -> np.ndarray:
    """In float64, heads first."""
    return np.asarray(array).astype(np.float64).swapaxes(0, 1)


# --- microscaled operands ---


def rounded_mx(context: ContextAttention, arguments: tuple[PyTree, ...]) -> Operands:
    """The values of microscaled operands, from the kernel's own arguments."""
    q, k, v = arguments[:3]
    return Operands(
        _features(q, context.sides.q),
        _features(k, context.sides.kv),
        _values(v, context),
    )


def _features(quantised: Quantised, where: Placement) -> Array:
    """Queries or keys, `[ranks, tiles, heads, p, rows · 4]`, as `[tokens, heads, 4 p]`."""
    features = _dequantised(*quantised)  # [ranks, tiles, heads, p, rows, 4]
    by_token = features.transpose(0, 1, 4, 2, 3, 5)
    heads = features.shape[2]
    return where.collect(by_token.reshape(where.ranks, where.slots, heads, -1))


def _values(quantised: Quantised, context: ContextAttention) -> Array:
    """Values, `[ranks, key tiles, heads, keys, dim · 4]`, as `[tokens, heads, dim]`."""
    where = context.sides.kv
    values = _dequantised(*quantised)  # [ranks, key tiles, heads, keys, dim, 4]
    by_token = values.transpose(0, 1, 5, 3, 2, 4)
    heads_and_dim = by_token.shape[4:]
    return where.collect(by_token.reshape(context.ranks, where.slots, *heads_and_dim))


def _dequantised(elements: jax.Array, scale: jax.Array) -> jax.Array:
    """`[..., p, n · 4]` and scales `[..., p / 8, n]` as float32 `[..., p, n, 4]`."""
    # A scale is that of 8 partitions and the 4 elements of each. Powers of two: the product with an
    # element is exact.
    factor = jnp.repeat(numerics.scale_value(scale), MX_PARTITIONS, axis=-2)
    quads = elements.reshape(*elements.shape[:-1], -1, MX_QUAD)
    return quads.astype(jnp.float32) * factor[..., None]
