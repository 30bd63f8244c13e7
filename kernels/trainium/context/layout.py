"""Between a researcher's `[tokens, heads, dim]` arrays and what the kernels of each rank take."""

from typing import Any

import jax

from kernels.placement import Placement
from kernels.trainium.context.sizes import ContextTiling


def queries(x: Any, where: Placement, s: ContextTiling) -> tuple[Any, ...]:
    """Queries with features before tokens.

    Args:
      x: `[tokens, heads, dim]`.
      where: the placement of the tokens.
      s: sizes.

    Returns:
      By part of the features, `[ranks, tiles, heads, part, rows]`; padding holds zeros.
    """
    return _features_first(x, where, s.tiles, s.parts)


def keys(x: Any, where: Placement, s: ContextTiling) -> tuple[Any, ...]:
    """Keys `[tokens, kv_heads, dim]`, likewise: by part `[ranks, pieces, heads, part, keys]`."""
    return _features_first(x, where, s.key_tiles * s.span, s.parts)


def _features_first(x: Any, where: Placement, tiles: int, parts: tuple[int, ...]) -> Any:
    dealt = where.spread(x).reshape(where.ranks, tiles, -1, *x.shape[1:]).transpose(0, 1, 3, 4, 2)
    ends = [sum(parts[: n + 1]) for n in range(len(parts))]
    return tuple(dealt[..., end - n : end, :] for n, end in zip(parts, ends, strict=True))


def values(x: Any, placement: Placement, tiles: int) -> Any:
    """Values: `[tokens, heads, dim]` to `[ranks, tiles, rows, heads · dim]`."""
    dealt = placement.spread(x)
    return dealt.reshape(placement.ranks, tiles, dealt.shape[1] // tiles, -1)


def output(x: Any, placement: Placement) -> Any:
    """Attention output: `[ranks, heads, tiles, rows, dim]` to `[tokens, heads, dim]`."""
    flat = x.reshape(*x.shape[:2], -1, x.shape[-1])
    return placement.collect(flat.transpose(0, 2, 1, 3))


def logsumexp(x: Any, placement: Placement, heads: int) -> Any:
    """Log-sum-exp: `[ranks, items / n, rows, n]` to `[tokens, heads]`."""
    by_head = x.transpose(0, 1, 3, 2).reshape(placement.ranks, heads, -1)
    return placement.collect(by_head.transpose(0, 2, 1))


def abstract(lead: tuple[int, ...], s: ContextTiling) -> tuple[Any, Any, Any]:
    """Shapes of queries and keys, by part, and values.

    Args:
      lead: dimensions of the mesh, which come first.
      s: sizes of one core.
    """
    pieces, struct = s.key_tiles * s.span, jax.ShapeDtypeStruct
    qs = tuple(struct((*lead, s.tiles, s.heads, n, s.rows), s.dtype) for n in s.parts)
    ks = tuple(struct((*lead, pieces, s.kv_heads, n, s.keys), s.dtype) for n in s.parts)
    return qs, ks, struct((*lead, pieces, s.keys, s.kv_heads * s.value_dim), s.dtype)
