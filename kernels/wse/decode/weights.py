"""The weights of a softmax on every column of a group, each column working out its share."""

import jax.numpy as jnp
from jax import lax

from emu.annotations import KnownInt
from emu.wse import copy_into, exp, fold, sram_tile
from emu.wse.spaces import Sram
from kernels.wse.decode.attention_map import Heads, Span
from kernels.wse.decode.hooks import LOWEST, Hooks, at_least, varied
from kernels.wse.decode.sums import all_reduce, unchanged, zeros


def softmax_terms(
    heads: Heads, scores: Sram, span: Span, hooks: Hooks, scale: float
) -> tuple[Sram, Sram]:
    """Weights `[queries, slots]` on every column of a group, and the largest score `[queries]`.

    Args:
      heads: the mapping.
      scores: float32 `[queries, slots]`, on every column of a group.
      span: the slots gone through.
      hooks: the variant's score and mask.
      scale: factor of the exponent.
    """
    if hooks.shared:
        return shared_weights(heads, scores, span, hooks, scale)
    scores = varied(scores, heads.scale, span, hooks)
    top = largest(scores, span.live, hooks)
    return softmax_weights(heads, scores, top, span.live, scale), top


def total_weight(p: Sram, live: KnownInt) -> Sram:
    """The sum of each query's weights in this row, float32 `[queries, 1]`."""
    total = sram_tile(shape=p.shape[:1], dtype="float32")
    return fold(total, p, live, op="add").reshape(-1, 1)


def largest(scores: Sram, live: KnownInt, hooks: Hooks, group: int = 1) -> Sram:
    """The largest score of each query over all rows, and over a group's columns: `[queries]`."""
    top = sram_tile(shape=scores.shape[:1], dtype="float32")
    top = fold(top, scores, live, op="max")
    top = all_reduce(top, "col", op="max", group=group)
    # One top for all rows, so that their exponentials add up without being scaled again.
    top = all_reduce(top, "row", op="max")
    if hooks.guarded:
        # Of two infinities the difference is NaN; with a finite top, exponentials of -inf are 0.
        top = at_least(top, LOWEST)
    return top


def share_of_column(heads: Heads, span: Span) -> tuple[KnownInt, Span]:
    """Where a column's share of the slots gone through begins, and where it lies in the cache."""
    share = heads.slot_share
    column = lax.rem(lax.axis_index("col"), jnp.int32(heads.parts))
    start = column * jnp.int32(share)
    count = lax.clamp(jnp.int32(0), span.live - start, jnp.int32(share))
    # A column behind the last share has none of its slots live, and may look at any.
    start = lax.min(start, jnp.int32(heads.slots - share))
    first = start if span.first is None else span.first + start
    return start, Span(first, count)


def shared_weights(
    heads: Heads, scores: Sram, span: Span, hooks: Hooks, scale: float
) -> tuple[Sram, Sram]:
    """As `varied` and `softmax_weights`, each column with its share of the slots from the start.

    Every column has all scores, but a `tanh` of each is scalar code: of 64 columns each takes 1/64,
    for which the largest score must be found over the group as well.

    Returns:
      Weights `[queries, slots]` on every column of the group, and the largest score `[queries]`.
    """
    queries = heads.queries
    share = heads.slot_share
    start, own = share_of_column(heads, span)
    mine = lax.dynamic_slice_in_dim(scores, start, share, axis=1)
    mine = varied(mine, heads.scale, own, hooks)
    top = largest(mine, own.live, hooks, heads.parts)
    tile = sram_tile(shape=(queries, share), dtype=heads.dtype)
    mine = exp(tile, mine, top, own.live, scale=scale)
    p = zeros((queries, heads.slots), heads.dtype)
    p = copy_into(p, mine, start, axis=1)
    return all_reduce(p, "col", group=heads.parts, elements=span.live * queries), top


def softmax_weights(
    heads: Heads, scores: Sram, top: Sram, live: KnownInt, scale: float
) -> Sram:
    """`exp(scale * (s - top))` of the live slots, 0 beyond, on every column of a group.

    An exponential is scalar code, so each column does `slot_share` slots and a sum over the
    group's columns, in which all others are zero, puts them together.

    Dimensions: `scores` float32 `[queries, slots]` and `top` `[queries]`, repeated along the group.
    """
    queries = heads.queries
    share = heads.slot_share
    column = lax.rem(lax.axis_index("col"), jnp.int32(heads.parts))
    start = column * jnp.int32(share)

    def exponentials(
        out: Sram,
        scores: Sram,
        top: Sram,
        live: KnownInt,
        start: KnownInt,
    ) -> Sram:
        # Of 3 live slots in shares of 2, column 0 has 2, column 1 has one and column 2, at 3 - 4 =
        # -1, none.
        count = lax.clamp(jnp.int32(0), live - start, jnp.int32(share))
        mine = lax.dynamic_slice_in_dim(scores, start, share, axis=1)
        tile = sram_tile(shape=(queries, share), dtype=heads.dtype)
        mine = exp(tile, mine, top, count, scale=scale)
        return copy_into(out, mine, start, axis=1)

    p = zeros((queries, heads.slots), heads.dtype)
    # 5 slots on 4 columns are shares of 2, padded to 6 slots: column 3 would start at 6.
    has_slots = start < heads.slots
    operands = (p, scores, top, live, start)
    p = lax.cond(has_slots, exponentials, unchanged, *operands)
    return all_reduce(
        p,
        "col",
        group=heads.parts,
        elements=live * queries,
    )


__all__ = ["largest", "share_of_column", "softmax_terms", "total_weight"]
