"""Between a researcher's `[tokens, heads, dim]` arrays and what the kernels of each rank take."""

from collections.abc import Sequence
from typing import TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from emu import numerics
from emu.annotations import DType
from kernels.tokens.placement import Placement
from kernels.trainium.context.sizes import ContextTiling
from kernels.trainium.context.tables import Sides

# Dimensions of what `tiled` returns, to name a transpose's order by.
RANK, TILE, ROW, CORE, HEAD, FEATURE = range(6)

# Tiles of a rank with their heads: `[ranks, cores, tiles, heads, rows, features]`.
TILES_OF_HEADS = RANK, CORE, TILE, HEAD, ROW, FEATURE

ByPart: TypeAlias = tuple[jax.Array, ...]
"""An array for each part of the features that is contracted at once."""

Shapes: TypeAlias = tuple[jax.ShapeDtypeStruct, ...]


def laid_out(
    q: ArrayLike, k: ArrayLike, v: ArrayLike, sides: Sides, dtype: DType
) -> tuple[ByPart, ByPart, jax.Array]:
    """Operands as `operands` takes them.

    Args:
      q: `[queries, heads, dim]`.
      k: `[tokens, kv_heads, dim]`.
      v: `[tokens, value_heads, value_dim]`, as many as KV heads but for maps.
      sides: where queries and keys stand.
      dtype: to round to.

    Returns:
      `[ranks, cores, ...]` with the tiles of a rank next: queries and keys by part of the features
      `[tiles, heads, part, rows]`, and values `[pieces, keys, value_heads · value_dim]`. Padding
      holds zeros.
    """
    tiling = sides.tiling

    def rounded(x: ArrayLike) -> jax.Array:
        return numerics.cast(jnp.asarray(x), dtype)

    queries = tiled(rounded(q), sides.q, tiling.rows, tiling.heads)
    keys = tiled(rounded(k), sides.kv, tiling.keys, tiling.kv_heads)
    values = tiled(rounded(v), sides.kv, tiling.keys, tiling.value_heads)
    query_parts = by_part(queries, tiling.parts)
    key_parts = by_part(keys, tiling.parts)
    # A value tile is not turned, and all its heads stand side by side.
    by_row = values.transpose(RANK, CORE, TILE, ROW, HEAD, FEATURE)
    *rows, _, _ = by_row.shape
    heads_together = by_row.reshape(*rows, -1)
    return query_parts, key_parts, heads_together


def tiled(x: jax.Array, where: Placement, rows: int, heads: int) -> jax.Array:
    """`[tokens, all heads, dim]` as `[ranks, tiles, rows, cores, heads, dim]`."""
    _, all_heads, features = x.shape
    cores = all_heads // heads
    spread = where.spread(on_host(x))
    # Heads go to cores in runs: of 8 on 2 cores the second has 4 to 7, whole groups of a KV head.
    return spread.reshape(where.ranks, -1, rows, cores, heads, features)


def on_host(x: jax.Array) -> jax.Array:
    """The array as NumPy's, whose steps of laying out are done at once; what is traced stays.

    JAX would compile each of the 39 steps around a run by itself, which takes longer than they do.
    """
    return x if isinstance(x, jax.core.Tracer) else np.asarray(x)  # type: ignore[return-value]


def by_part(x: jax.Array, parts: Sequence[int]) -> ByPart:
    """What `tiled` gives, its features cut into parts, as they are contracted.

    Returns:
      By part `[ranks, cores, tiles, heads, part, rows]`.
    """
    # Features go on partitions, so a query or key tile is turned: rows come last.
    turned = x.transpose(RANK, CORE, TILE, HEAD, FEATURE, ROW)
    cut = []
    start = 0
    # Each part is an array of its own, because a tile of more than 128 features has no room on the
    # partitions.
    for features in parts:
        end = start + features
        cut.append(turned[..., start:end, :])
        start = end
    return tuple(cut)


def output(
    x: jax.Array,
    where: Placement,
    ranks: int,
    cores: int,
) -> jax.Array:
    """Attention's output in the order of the sequence.

    Args:
      x: `[*mesh, heads, tiles, rows, value_dim]`, cores last in the mesh.
      where: the placement of the queries.
      ranks, cores: sizes of the mesh.

    Returns:
      `[queries, all heads, value_dim]`.
    """
    *_, heads, tiles, rows, features = x.shape
    dealt = where.ranks
    inner = ranks // dealt
    by_mesh = on_host(x).reshape(
        dealt,
        inner,
        cores,
        heads,
        tiles,
        rows,
        features,
    )
    # Tokens are dealt to fewer ranks than there are where some share what one is dealt: its slots
    # are its inner ranks' tiles of rows. All heads are its cores' heads.
    rank, inner_rank, core, head, tile, row, feature = range(7)
    slot = inner_rank, tile, row
    any_head = core, head
    by_slot = by_mesh.transpose(rank, *slot, *any_head, feature)
    slots = by_slot.reshape(dealt, where.slots, -1, features)
    in_order = where.collect(slots)
    # JAX's in, JAX's out; of float64, which JAX would round, NumPy's.
    return jnp.asarray(in_order) if isinstance(x, jax.Array) else in_order


def logsumexp(
    x: jax.Array,
    where: Placement,
    ranks: int,
    cores: int,
    tiles: int,
) -> jax.Array:
    """Log-sum-exp `[*mesh, groups, blocks, rows, lanes]` to `[queries, all heads]`.

    Args:
      x: lanes of a block are its heads, `tiles` query tiles of each.
      where, ranks, cores: as for `output`.
      tiles: of a block.
    """
    *lead, groups, blocks, rows, lanes = x.shape
    heads = lanes // tiles
    by_lane = on_host(x).reshape(
        -1,
        groups,
        blocks,
        rows,
        heads,
        tiles,
    )
    core, group, block, row, head, tile = range(6)
    by_head = by_lane.transpose(core, group, head, block, tile, row)
    # As an output of one feature, which `output` knows how to put in order.
    one_feature = by_head.reshape(
        *lead,
        groups * heads,
        blocks * tiles,
        rows,
        1,
    )
    in_order = output(one_feature, where, ranks, cores)[..., 0]
    return jnp.asarray(in_order) if isinstance(x, jax.Array) else in_order


def abstract(
    lead: tuple[int, ...],
    tiling: ContextTiling,
) -> tuple[Shapes, Shapes, jax.ShapeDtypeStruct]:
    """Shapes of queries and keys, by part, and values.

    Args:
      lead: dimensions of the mesh, which come first.
      tiling: sizes of one core.
    """
    # Keys and values are stored by the piece: 4 key tiles of 4 pieces are 16 tiles of 128 keys.
    pieces = tiling.key_tiles * tiling.span

    def struct(*shape: int) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct((*lead, *shape), tiling.dtype)

    queries = []
    keys = []
    for features in tiling.parts:
        query_part = struct(tiling.tiles, tiling.heads, features, tiling.rows)
        queries.append(query_part)
        key_part = struct(pieces, tiling.kv_heads, features, tiling.keys)
        keys.append(key_part)
    heads_together = tiling.value_heads * tiling.value_dim
    values = struct(pieces, tiling.keys, heads_together)
    return tuple(queries), tuple(keys), values
