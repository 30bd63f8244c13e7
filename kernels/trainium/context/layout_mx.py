"""Queries, keys and values quantised to MX and laid out as `operands_mx` takes them.

Quantisation is done once, where the arrays are, with the hardware's scale (`emu.trainium.mx`):
in a layer it would be the last step of the projection.
"""

from typing import Any

import jax
import jax.numpy as jnp

from emu import numerics
from emu.trainium.limits import MX_PARTITIONS, MX_QUAD, MX_ROWS
from emu.trainium.mx import HEADROOM
from kernels.placement import Placement
from kernels.trainium.context.operands_mx import partitions
from kernels.trainium.context.sizes import ContextTiling

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
    groups = x.reshape(*lead, p // MX_PARTITIONS, MX_PARTITIONS, n, quad).swapaxes(-3, -2)
    groups = groups.reshape(*groups.shape[:-2], -1)
    elements, scale = numerics.mx_quantize(groups, dtype, headroom=HEADROOM)
    elements = elements.reshape(*scale.shape, MX_PARTITIONS, quad).swapaxes(-3, -2)
    return elements.reshape(x.shape), scale


def features_first(x: Any, where: Placement, tiles: int, s: ContextTiling) -> tuple[Any, Any]:
    """Queries or keys.

    Args:
      x: `[tokens, heads, dim]`.
      where: the placement of the tokens.
      tiles: that a rank's tokens are cut into.
      s: sizes.

    Returns:
      Elements `[ranks, tiles, heads, p, rows · 4]` and scales `[ranks, tiles, heads, p / 8, rows]`.
    """
    heads = x.shape[1]
    dealt = where.spread(jnp.asarray(x, jnp.bfloat16))
    dealt = dealt.reshape(where.ranks, tiles, -1, heads, partitions(s), MX_QUAD)
    elements, scale = _quantised(dealt.transpose(0, 1, 3, 4, 2, 5), s.dtype)
    return elements.reshape(*elements.shape[:-2], -1), scale


def keys_first(x: Any, where: Placement, s: ContextTiling) -> tuple[Any, Any]:
    """Values: `[tokens, heads, dim]` to elements `[ranks, key tiles, heads, keys, dim · 4]` and
    scales `[ranks, key tiles, heads, keys / 8, dim]`."""
    dealt = where.spread(jnp.asarray(x, jnp.bfloat16))
    dealt = dealt.reshape(where.ranks, s.key_tiles, MX_QUAD, s.keys, *x.shape[1:])
    elements, scale = _quantised(dealt.transpose(0, 1, 4, 3, 5, 2), s.dtype)
    return elements.reshape(*elements.shape[:-2], -1), scale


def abstract(lead: tuple[int, ...], s: ContextTiling) -> tuple[Any, Any, Any]:
    """Shapes of queries, keys and values; `lead` are the dimensions of the mesh."""
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
