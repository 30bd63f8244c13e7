"""Between a researcher's `[tokens, heads, dim]` arrays and what the kernels of each rank take."""

from typing import Any

import jax
import jax.numpy as jnp

from emu import numerics
from kernels.tokens.placement import Placement
from kernels.trainium.context.sizes import ContextTiling
from kernels.trainium.context.tables import Sides

# Dimensions of what `tiled` returns, to name a transpose's order by.
RANK, TILE, ROW, CORE, HEAD, FEATURE = range(6)


def laid_out(q: Any, k: Any, v: Any, sides: Sides, dtype: Any) -> tuple[Any, Any, Any]:
    """Operands as `operands` takes them.

    Args:
      q: `[queries, heads, dim]`.
      k: `[tokens, kv_heads, dim]`.
      v: `[tokens, kv_heads, value_dim]`.
      sides: where queries and keys stand.
      dtype: to round to.

    Returns:
      `[ranks, cores, ...]` with the tiles of a rank next: queries and keys by part of the features
      `[tiles, heads, part, rows]`, and values `[pieces, keys, kv_heads · value_dim]`. Padding holds
      zeros.
    """
    sizes = sides.s
    q, k, v = (numerics.cast(jnp.asarray(x), dtype) for x in (q, k, v))
    queries = tiled(q, sides.q, sizes.rows, sizes.heads)
    keys = tiled(k, sides.kv, sizes.keys, sizes.kv_heads)
    values = tiled(v, sides.kv, sizes.keys, sizes.kv_heads)
    # Features go on partitions, so a query or key tile is turned: rows come last.
    features_first = RANK, CORE, TILE, HEAD, FEATURE, ROW
    query_parts = _by_part(queries.transpose(features_first), sizes.parts)
    key_parts = _by_part(keys.transpose(features_first), sizes.parts)
    # A value tile is not turned, and all its heads stand side by side.
    values = values.transpose(RANK, CORE, TILE, ROW, HEAD, FEATURE)
    return query_parts, key_parts, values.reshape(*values.shape[:4], -1)


def tiled(x: Any, where: Placement, rows: int, heads: int) -> Any:
    """`[tokens, all heads, dim]` as `[ranks, tiles, rows, cores, heads, dim]`."""
    _, all_heads, features = x.shape
    cores = all_heads // heads
    spread = where.spread(x)
    return spread.reshape(where.ranks, -1, rows, cores, heads, features)


def _by_part(x: Any, parts: tuple[int, ...]) -> tuple[Any, ...]:
    """The features of `[..., features, rows]` cut into parts, as they are contracted."""
    cut, start = [], 0
    for features in parts:
        cut.append(x[..., start : start + features, :])
        start += features
    return tuple(cut)


def output(x: Any, where: Placement, ranks: int, cores: int) -> Any:
    """Attention's output in the order of the sequence.

    Args:
      x: `[*mesh, heads, tiles, rows, value_dim]`, cores last in the mesh.
      where: the placement of the queries.
      ranks, cores: sizes of the mesh.

    Returns:
      `[queries, all heads, value_dim]`.
    """
    *_, heads, tiles, rows, features = x.shape
    group, inner = where.ranks, ranks // where.ranks
    x = x.reshape(group, inner, cores, heads, tiles, rows, features)
    # Slots of a group are its inner ranks' tiles of rows; its heads are its cores' heads.
    x = x.transpose(0, 1, 4, 5, 2, 3, 6)
    return where.collect(x.reshape(group, where.slots, -1, features))


def logsumexp(x: Any, where: Placement, ranks: int, cores: int, tiles: int) -> Any:
    """Log-sum-exp `[*mesh, groups, blocks, rows, lanes]` to `[queries, all heads]`.

    Args:
      x: lanes of a block are its heads, `tiles` query tiles of each.
      where, ranks, cores: as for `output`.
      tiles: of a block.
    """
    groups, blocks, rows, lanes = x.shape[-4:]
    lead, heads = x.shape[:-4], lanes // tiles
    x = x.reshape(-1, groups, blocks, rows, heads, tiles).transpose(0, 1, 4, 2, 5, 3)
    by_tile = x.reshape(*lead, groups * heads, blocks * tiles, rows, 1)
    return output(by_tile, where, ranks, cores)[..., 0]


def abstract(lead: tuple[int, ...], s: ContextTiling) -> tuple[Any, Any, Any]:
    """Shapes of queries and keys, by part, and values.

    Args:
      lead: dimensions of the mesh, which come first.
      s: sizes of one core.
    """
    pieces = s.key_tiles * s.span
    struct = jax.ShapeDtypeStruct
    qs = tuple(struct((*lead, s.tiles, s.heads, n, s.rows), s.dtype) for n in s.parts)
    ks = tuple(struct((*lead, pieces, s.kv_heads, n, s.keys), s.dtype) for n in s.parts)
    return qs, ks, struct((*lead, pieces, s.keys, s.kv_heads * s.value_dim), s.dtype)
