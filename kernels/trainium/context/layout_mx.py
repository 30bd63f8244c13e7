"""Queries, keys and values quantised to MX and laid out as `operands_mx` takes them.

Quantisation is done once, where the arrays are, with the hardware's scale
(`emu.trainium.engines.mx`): in a layer it would be the last step of the projection.
"""

from typing import Any

import jax
import jax.numpy as jnp

from emu import numerics
from emu.trainium.datasheets.limits import MX_PARTITIONS, MX_QUAD, MX_ROWS
from emu.trainium.engines.mx import HEADROOM
from kernels.trainium.context.layout import tiled
from kernels.trainium.context.operands_mx import partitions
from kernels.trainium.context.sizes import ContextTiling
from kernels.trainium.context.tables import Sides

FEATURES = MX_ROWS * MX_QUAD


def check(s: ContextTiling) -> None:
    """Raises `ValueError` for features that MX tiles cannot have."""
    if sum(s.parts) % FEATURES:
        raise ValueError(
            f"MX attention: head_dim is {sum(s.parts)}, must be a multiple of {FEATURES}: 32 "
            "partitions of 4 features"
        )


def _quantised(x: Any, dtype: Any) -> tuple[Any, Any]:
    """MX of groups of 8 partitions by 4 places.

    Args:
      x: `[..., p, n, 4]`.
      dtype: of the elements.

    Returns:
      Elements `[..., p, n, 4]` and scales `uint8[..., p / 8, n]`.
    """
    *lead, p, n, quad = x.shape
    groups = x.reshape(*lead, p // MX_PARTITIONS, MX_PARTITIONS, n, quad).swapaxes(
        -3, -2
    )
    groups = groups.reshape(*groups.shape[:-2], -1)
    elements, scale = numerics.mx_quantize(groups, dtype, headroom=HEADROOM)
    elements = elements.reshape(*scale.shape, MX_PARTITIONS, quad).swapaxes(-3, -2)
    return elements.reshape(x.shape), scale


def laid_out(q: Any, k: Any, v: Any, sides: Sides, dtype: Any) -> tuple[Any, Any, Any]:
    """Operands as `operands_mx` takes them.

    Args:
      q: `[queries, heads, dim]`.
      k: `[tokens, kv_heads, dim]`.
      v: `[tokens, kv_heads, value_dim]`.
      sides: where queries and keys stand.
      dtype: of the elements.

    Returns:
      `[ranks, cores, ...]` with the tiles of a rank next, elements and scales: queries and keys
      `[tiles, heads, p, rows · 4]` and `[tiles, heads, p / 8, rows]`, values `[key tiles, kv_heads,
      keys, value_dim · 4]` and `[key tiles, kv_heads, keys / 8, value_dim]`.

    Raises:
      ValueError: features that MX tiles cannot have.
    """
    s = sides.s
    check(s)
    q, k, v = (jnp.asarray(x, jnp.bfloat16) for x in (q, k, v))
    own = tiled(q, sides.q, s.rows, s.heads), tiled(k, sides.kv, s.keys, s.kv_heads)
    qs, ks = (_features_first(x, dtype, s) for x in own)
    x = tiled(v, sides.kv, s.keys, s.kv_heads)
    # [ranks, key tiles, 4, keys, cores, ...]
    x = x.reshape(x.shape[0], -1, MX_QUAD, *x.shape[2:])
    elements, scale = _quantised(x.transpose(0, 4, 1, 5, 3, 6, 2), dtype)
    return qs, ks, (elements.reshape(*elements.shape[:-2], -1), scale)


def _features_first(x: Any, dtype: Any, s: ContextTiling) -> tuple[Any, Any]:
    x = x.reshape(*x.shape[:-1], partitions(s), MX_QUAD)
    elements, scale = _quantised(x.transpose(0, 3, 1, 4, 5, 2, 6), dtype)
    return elements.reshape(*elements.shape[:-2], -1), scale


def abstract(lead: tuple[int, ...], s: ContextTiling) -> tuple[Any, Any, Any]:
    """Shapes of queries, keys and values; `lead` are the dimensions of the mesh."""
    check(s)
    p, pieces = partitions(s), s.key_tiles * s.span

    def pair(*shape: int, n: int, places: int) -> tuple[Any, Any]:
        *outer, rows = (*lead, *shape)
        return (
            jax.ShapeDtypeStruct((*outer, rows, n * places), s.dtype),
            jax.ShapeDtypeStruct((*outer, rows // MX_PARTITIONS, n), jnp.uint8),
        )

    return (
        pair(s.tiles, s.heads, p, n=s.rows, places=MX_QUAD),
        pair(pieces, s.kv_heads, p, n=s.keys, places=MX_QUAD),
        pair(s.key_tiles, s.kv_heads, s.keys, n=s.value_dim, places=MX_QUAD),
    )
