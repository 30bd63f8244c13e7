"""Queries, keys and values quantised to MX and laid out as `operands_mx` takes them.

Quantisation is done once, where the arrays are, with the hardware's scale
(`emu.trainium.engines.mx`): in a layer it would be the last step of the projection.

A group of 32 elements with one scale is 8 partitions by 4 places. A key of 128 features stands on
32 partitions, feature f at partition f // 4 and place f % 4, and has 4 scales: features 0-31 on
partitions 0-7 share the first. Values are contracted over keys instead: 8 keys of each of the four
pieces of a key tile share a scale, for each feature.
"""

import functools
from typing import TypeAlias

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from emu import numerics, strict_jit
from emu.annotations import DType
from emu.trainium.datasheets.limits import MX_PARTITIONS, MX_QUAD, MX_ROWS
from emu.trainium.engines.mx import HEADROOM
from kernels.refusal import refuse
from kernels.trainium.context.layout import tiled
from kernels.trainium.context.operands_mx import partitions
from kernels.trainium.context.sizes import ContextTiling
from kernels.trainium.context.tables import Sides

# MX tiles take partitions by the quadrant of 32, and 4 features on each.
FEATURES = MX_ROWS * MX_QUAD

Scaled: TypeAlias = tuple[jax.Array, jax.Array]
"""Elements and scales."""

ScaledShape: TypeAlias = tuple[jax.ShapeDtypeStruct, jax.ShapeDtypeStruct]


def check(tiling: ContextTiling) -> None:
    """Raises `LimitExceeded` for features that MX tiles cannot have."""
    head_dim = sum(tiling.parts)
    if head_dim % FEATURES:
        refuse(
            f"MX attention: head_dim is {head_dim}, must be a multiple of {FEATURES}: 32 "
            "partitions of 4 features"
        )


# One program: by itself each of its twenty operations would be compiled for each shape.
@functools.partial(strict_jit, static_argnums=1)
def _quantised(x: jax.Array, dtype: DType) -> Scaled:
    """MX of groups of 8 partitions by 4 places.

    Args:
      x: `[..., p, n, 4]`.
      dtype: of the elements.

    Returns:
      Elements `[..., p, n, 4]` and scales `uint8[..., p / 8, n]`.
    """
    *lead, rows, columns, quad = x.shape
    bands = rows // MX_PARTITIONS
    by_band = x.reshape(*lead, bands, MX_PARTITIONS, columns, quad)
    # 8 partitions of a band by 4 places become the last axis, along which a scale is shared.
    partition, column = -3, -2
    by_column = by_band.swapaxes(partition, column)
    groups = by_column.reshape(*lead, bands, columns, MX_PARTITIONS * quad)
    elements, scale = numerics.mx_quantize(groups, dtype, headroom=HEADROOM)
    # And back to where they stood.
    by_column = elements.reshape(by_column.shape)
    by_band = by_column.swapaxes(partition, column)
    return by_band.reshape(x.shape), scale


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
      LimitExceeded: features that MX tiles cannot have.
    """
    tiling = sides.tiling
    check(tiling)

    def rounded(x: ArrayLike) -> jax.Array:
        # The machine quantises 16-bit floats, so values are rounded twice here as well.
        return jnp.asarray(x, jnp.bfloat16)

    queries = tiled(rounded(q), sides.q, tiling.rows, tiling.heads)
    keys = tiled(rounded(k), sides.kv, tiling.keys, tiling.kv_heads)
    values = tiled(rounded(v), sides.kv, tiling.keys, tiling.kv_heads)
    return (
        _features_first(queries, dtype, tiling),
        _features_first(keys, dtype, tiling),
        _keys_first(values, dtype),
    )


def _features_first(x: jax.Array, dtype: DType, tiling: ContextTiling) -> Scaled:
    """Queries or keys `[ranks, tiles, rows, cores, heads, dim]`, features on partitions."""
    *lead, _ = x.shape
    # Feature 37 of a key: partition 9, place 1; the second band of 8 partitions, and so the second
    # scale.
    by_place = x.reshape(*lead, partitions(tiling), MX_QUAD)
    rank, tile, row, core, head, partition, place = range(7)
    turned = by_place.transpose(rank, core, tile, head, partition, row, place)
    scaled = _quantised(turned, dtype)
    return _quads_together(scaled)


def _keys_first(values: jax.Array, dtype: DType) -> Scaled:
    """Values `[ranks, pieces, keys, cores, heads, dim]`, keys on partitions."""
    ranks, _, *rest = values.shape
    # The four pieces of a key tile become the four places of a partition, and come last.
    by_tile = values.reshape(ranks, -1, MX_QUAD, *rest)
    rank, key_tile, place, key, core, head, feature = range(7)
    turned = by_tile.transpose(rank, core, key_tile, head, key, feature, place)
    scaled = _quantised(turned, dtype)
    return _quads_together(scaled)


def _quads_together(scaled: Scaled) -> Scaled:
    """Elements `[..., n, 4]` as `[..., n · 4]`."""
    elements, scale = scaled
    *lead, _, _ = elements.shape
    return elements.reshape(*lead, -1), scale


def abstract(
    lead: tuple[int, ...],
    tiling: ContextTiling,
) -> tuple[ScaledShape, ScaledShape, ScaledShape]:
    """Shapes of queries, keys and values; `lead` are the dimensions of the mesh."""
    check(tiling)
    pieces = tiling.key_tiles * tiling.span
    rows_of_features = partitions(tiling)

    def scaled(
        tiles: int,
        heads: int,
        rows: int,
        columns: int,
    ) -> ScaledShape:
        of_head = *lead, tiles, heads
        elements = *of_head, rows, columns * MX_QUAD
        scales = *of_head, rows // MX_PARTITIONS, columns
        return (
            jax.ShapeDtypeStruct(elements, tiling.dtype),
            jax.ShapeDtypeStruct(scales, jnp.uint8),
        )

    queries = scaled(
        tiling.tiles,
        tiling.heads,
        rows_of_features,
        tiling.rows,
    )
    keys = scaled(
        pieces,
        tiling.kv_heads,
        rows_of_features,
        tiling.keys,
    )
    # By the key tile: its four pieces are the four places, not tiles of their own.
    values = scaled(
        tiling.key_tiles,
        tiling.kv_heads,
        tiling.keys,
        tiling.value_dim,
    )
    return queries, keys, values
