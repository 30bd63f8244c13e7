"""Queries, keys and values quantised to MX and laid out as `operands_mx` takes them.

Quantisation is done once, where the arrays are, with the hardware's scale
(`emu.trainium.engines.mx`): in a layer it would be the last step of the projection.

A group of 32 elements with one scale is 8 partitions by 4 places. A key of 128 features stands on
32 partitions, feature f at partition f // 4 and place f % 4, and has 4 scales: features 0-31 on
partitions 0-7 share the first. Values are contracted over keys instead: 8 keys of each of the four
pieces of a key tile share a scale, for each feature.
"""

from typing import TypeAlias

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from emu import numerics
from emu.annotations import DType
from emu.trainium.datasheets.limits import MX_PARTITIONS, MX_QUAD, MX_ROWS
from emu.trainium.engines.mx import HEADROOM
from kernels.trainium.context.layout import tiled
from kernels.trainium.context.operands_mx import partitions
from kernels.trainium.context.sizes import ContextTiling
from kernels.trainium.context.tables import Sides

FEATURES = MX_ROWS * MX_QUAD

Scaled: TypeAlias = tuple[jax.Array, jax.Array]
"""Elements and scales."""

ScaledShape: TypeAlias = tuple[jax.ShapeDtypeStruct, jax.ShapeDtypeStruct]


def check(tiling: ContextTiling) -> None:
    """Raises `ValueError` for features that MX tiles cannot have."""
    head_dim = sum(tiling.parts)
    if head_dim % FEATURES:
        raise ValueError(
            f"MX attention: head_dim is {head_dim}, must be a multiple of {FEATURES}: 32 "
            "partitions of 4 features"
        )


def _quantised(x: jax.Array, dtype: DType) -> Scaled:
    """MX of groups of 8 partitions by 4 places.

    Args:
      x: `[..., p, n, 4]`.
      dtype: of the elements.

    Returns:
      Elements `[..., p, n, 4]` and scales `uint8[..., p / 8, n]`.
    """
    *lead, rows, columns, quad = x.shape
    groups = x.reshape(*lead, rows // MX_PARTITIONS, MX_PARTITIONS, columns, quad)
    groups = groups.swapaxes(-3, -2)
    groups = groups.reshape(*groups.shape[:-2], MX_PARTITIONS * quad)
    elements, scale = numerics.mx_quantize(groups, dtype, headroom=HEADROOM)
    elements = elements.reshape(*scale.shape, MX_PARTITIONS, quad).swapaxes(-3, -2)
    return elements.reshape(x.shape), scale


def laid_out(
    q: ArrayLike, k: ArrayLike, v: ArrayLike, sides: Sides, dtype: DType
) -> tuple[Scaled, Scaled, Scaled]:
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
    tiling = sides.tiling
    check(tiling)
    q, k, v = (jnp.asarray(x, jnp.bfloat16) for x in (q, k, v))
    queries = tiled(q, sides.q, tiling.rows, tiling.heads)
    keys = tiled(k, sides.kv, tiling.keys, tiling.kv_heads)
    scaled_queries = _features_first(queries, dtype, tiling)
    scaled_keys = _features_first(keys, dtype, tiling)
    values = tiled(v, sides.kv, tiling.keys, tiling.kv_heads)
    # The four pieces of a key tile become the four places of a partition, and come last.
    values = values.reshape(values.shape[0], -1, MX_QUAD, *values.shape[2:])
    rank, key_tile, place, key, core, head, feature = range(7)
    values = values.transpose(rank, core, key_tile, head, key, feature, place)
    return scaled_queries, scaled_keys, _quads_together(_quantised(values, dtype))


def _features_first(x: jax.Array, dtype: DType, tiling: ContextTiling) -> Scaled:
    x = x.reshape(*x.shape[:-1], partitions(tiling), MX_QUAD)
    rank, tile, row, core, head, partition, place = range(7)
    x = x.transpose(rank, core, tile, head, partition, row, place)
    return _quads_together(_quantised(x, dtype))


def _quads_together(scaled: Scaled) -> Scaled:
    """Elements `[..., n, 4]` as `[..., n · 4]`."""
    elements, scale = scaled
    return elements.reshape(*elements.shape[:-2], -1), scale


def abstract(
    lead: tuple[int, ...], tiling: ContextTiling
) -> tuple[ScaledShape, ScaledShape, ScaledShape]:
    """Shapes of queries, keys and values; `lead` are the dimensions of the mesh."""
    check(tiling)
    pieces = tiling.key_tiles * tiling.span
    rows_of_features = partitions(tiling)

    def scaled(tiles: int, heads: int, rows: int, columns: int) -> ScaledShape:
        elements = *lead, tiles, heads, rows, columns * MX_QUAD
        scales = *lead, tiles, heads, rows // MX_PARTITIONS, columns
        return (
            jax.ShapeDtypeStruct(elements, tiling.dtype),
            jax.ShapeDtypeStruct(scales, jnp.uint8),
        )

    return (
        scaled(tiling.tiles, tiling.heads, rows_of_features, tiling.rows),
        scaled(pieces, tiling.kv_heads, rows_of_features, tiling.keys),
        scaled(tiling.key_tiles, tiling.kv_heads, tiling.keys, tiling.value_dim),
    )
