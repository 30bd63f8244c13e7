"""Attention in float64 on what a kernel was given: as drawn, and as rounded to its dtype."""

import dataclasses
from typing import Any

import jax.numpy as jnp
import numpy as np

from emu import numerics
from emu.trainium.datasheets.limits import MX_PARTITIONS, MX_QUAD
from kernels.masks.catalogue import Mask
from kernels.tokens.placement import Placement
from kernels.trainium.context.attention import ContextAttention

SEED = 0
SIGMA_Q = (
    3.0  # of queries; keys and values have 1. Softmax over 2,048 keys is peaked then.
)
ROWS = 256  # queries whose scores are in memory at once


@dataclasses.dataclass(frozen=True, eq=False)
class Operands:
    """Queries, keys and values, each `[tokens, heads, head_dim]`."""

    q: Any
    k: Any
    v: Any

    def cast(self, dtype: Any) -> "Operands":
        """Rounded to `dtype` as the kernel rounds them."""
        return Operands(
            *(
                numerics.cast(jnp.asarray(array), dtype)
                for array in (self.q, self.k, self.v)
            )
        )


def draw(tokens: int, heads: int, head_dim: int) -> Operands:
    """Normal operands in float32, the same ones every time."""
    rng = np.random.default_rng(SEED)
    shape = (tokens, heads, head_dim)
    q, k, v = (rng.standard_normal(shape).astype(np.float32) for _ in range(3))
    return Operands(np.float32(SIGMA_Q) * q, k, v)


def attention(operands: Operands, mask: Mask) -> np.ndarray:
    """Attention in float64, `[tokens, heads, head_dim]`; every query attends to some key."""
    q, k, v = (
        np.asarray(array).astype(np.float64).swapaxes(0, 1)
        for array in (operands.q, operands.k, operands.v)
    )
    out = np.empty_like(q)
    positions = np.arange(k.shape[1])
    for first in range(0, len(positions), ROWS):
        own = slice(first, first + ROWS)
        scores = q[:, own] @ k.swapaxes(1, 2) / np.sqrt(q.shape[2])
        allowed = np.asarray(
            mask(0, 0, *np.broadcast_arrays(positions[own, None], positions))
        )
        scores[:, ~allowed] = -np.inf
        weights = np.exp(scores - scores.max(-1, keepdims=True))
        out[:, own] = weights @ v / weights.sum(-1, keepdims=True)
    return out.swapaxes(0, 1)


# --- microscaled operands ---


def rounded_mx(context: ContextAttention, arguments: tuple[Any, ...]) -> Operands:
    """The values of microscaled operands, from the kernel's own arguments."""
    q, k, v = arguments[:3]
    return Operands(
        _features(q, context.sides.q),
        _features(k, context.sides.kv),
        _values(v, context),
    )


def _features(quantised: tuple[Any, Any], where: Placement) -> Any:
    """Queries or keys, `[ranks, tiles, heads, p, rows · 4]`, as `[tokens, heads, 4 p]`."""
    features = _dequantised(*quantised)  # [ranks, tiles, heads, p, rows, 4]
    features = features.transpose(0, 1, 4, 2, 3, 5)
    return where.collect(
        features.reshape(where.ranks, where.slots, features.shape[3], -1)
    )


def _values(quantised: tuple[Any, Any], context: ContextAttention) -> Any:
    """Values, `[ranks, key tiles, heads, keys, dim · 4]`, as `[tokens, heads, dim]`."""
    # [ranks, key tiles, 4, keys, heads, dim]
    values = _dequantised(*quantised).transpose(0, 1, 5, 3, 2, 4)
    return context.sides.kv.collect(
        values.reshape(context.ranks, context.sides.kv.slots, *values.shape[4:])
    )


def _dequantised(elements: Any, scale: Any) -> Any:
    """`[..., p, n · 4]` and scales `[..., p / 8, n]` as float32 `[..., p, n, 4]`."""
    factor = jnp.repeat(numerics.scale_value(scale), MX_PARTITIONS, axis=-2)
    elements = elements.reshape(*elements.shape[:-1], -1, MX_QUAD).astype(jnp.float32)
    return elements * factor[..., None]
