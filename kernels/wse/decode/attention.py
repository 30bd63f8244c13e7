"""Decode attention of one token over a KV cache that is dealt to the PEs of a region.

Position p lives in row `p % rows`, slot `p // rows`; a head's dimensions are dealt over the `parts`
columns of its group. Scores are summed along columns, the softmax and the values along rows.

With 4 rows, position 6 is in row 2, slot 1. When it is the newest, rows 0 to 2 have two live slots,
row 3 has one: `live = (pos + rows - row) // rows`.
"""

import dataclasses
from typing import Any

import jax.numpy as jnp
from jax import lax

from emu.annotations import KnownInt
from emu.wse import (
    copy,
    copy_into,
    exp,
    fold,
    reciprocal,
    rope,
    rsqrt_mean,
    scalar_of_one_live,
    scalar_of_two_live,
    score_map,
    square_sum,
    sram_tile,
    value_map,
    vector,
    vector_scale,
)
from emu.wse.spaces import Sram
from kernels.wse.decode.attention_map import Heads, Span
from kernels.wse.decode.blocks import Weights, gemv, rms_norm
from kernels.wse.decode.hooks import (
    LEAST,
    LOWEST,
    PLAIN,
    Hooks,
    at_least,
    number,
    varied,
)
from kernels.wse.decode.mapping import LayerMap
from kernels.wse.decode.sums import all_reduce, unchanged, zeros

Cache = dict[str, Sram]


def append(cache: Cache, k: Sram, v: Sram, pos: KnownInt, rows: int) -> Cache:
    """Writes the new token's key and value on the row that owns position `pos`.

    Dimensions: `k`, `v` `[dims]`; cache `k` `[dims, slots]`, `v` `[slots, dims]`.
    """
    slot = lax.div(pos, jnp.int32(rows))
    owner = lax.rem(pos, jnp.int32(rows))
    is_mine = owner == lax.axis_index("row")

    def write(old: Cache, k: Sram, v: Sram, slot: KnownInt) -> Cache:
        # Each lies as a hardware loop takes it: keys a dimension over all slots (`score_map`),
        # values a slot over all dimensions (`value_map`).
        column = k.reshape(-1, 1)
        row = v.reshape(1, -1)
        return {
            "k": copy_into(old["k"], column, slot, axis=1),
            "v": copy_into(old["v"], row, slot, axis=0),
        }

    return lax.cond(is_mine, write, unchanged, cache, k, v, slot)


def attend(
    heads: Heads,
    q: Sram,
    cache: Cache,
    pos: KnownInt,
    hooks: Hooks = PLAIN,
) -> Sram:
    """Softmax attention of `q` over positions 0 to `pos`, `[queries * value_dims]`, on every row.

    Args:
      heads: the mapping, such as a layer's.
      q: `[queries, dims]`.
      cache: `k` `[dims, slots]` and `v` `[slots, value_dims]`.
      pos: known position of the newest token.
      hooks: what a variant changes.
    """
    rows = jnp.int32(heads.rows)
    live = lax.div(pos + rows - lax.axis_index("row"), rows)
    mean, _ = attend_span(heads, q, cache, Span(None, live), hooks)
    return mean.reshape(heads.queries * heads.value_dims)


@dataclasses.dataclass(frozen=True)
class SoftmaxSums:
    """What a log-sum-exp is made of, on every row.

    Attributes:
      top: float32 `[queries]`, the largest score; times `scale` it is an exponent.
      total: float32 `[queries, 1]`, the sum of exponentials.
      scale: factor of the exponent.
    """

    top: Sram
    total: Sram
    scale: float


def attend_span(
    heads: Heads,
    q: Sram,
    cache: Cache,
    span: Span,
    hooks: Hooks = PLAIN,
) -> tuple[Sram, SoftmaxSums]:
    """Softmax attention of `q` over a range of each row's slots, on every row.

    The sum of the softmax travels with the values, as one more dimension of each query, so that
    both are on every row after one all-reduce.

    Dimensions: `q` `[queries, dims]`; the mean `[queries, value_dims]`.

    Pseudocode:
      s = all_reduce_col(q @ k[:, :live]);  s = hooks(scale * s);  top = all_reduce_row(max s)
      p = exp(scale * (s - top))
      [o, z] = all_reduce_row([p @ v[:live], sum p]);  return o / z
    """
    queries = heads.queries
    dims = heads.value_dims
    live = span.live
    k, v = viewed(heads, cache, span)

    scores = zeros((queries, heads.slots))
    scores = score_map(scores, k, q, live)
    scores = all_reduce(
        scores,
        "col",
        group=heads.parts,
        # As long as the row has live slots, not as its cache: at position 130 of 128 rows, rows 0
        # to 2 have two each and the others one.
        elements=live * queries,
    )
    scale = (
        heads.scale if hooks.score is None else 1.0
    )  # a score function is given scaled ones
    if hooks.shared:
        p, top = shared_weights(heads, scores, span, hooks, scale)
    else:
        scores = varied(scores, heads.scale, span, hooks)
        top = largest(scores, live, hooks)
        p = softmax_weights(heads, scores, top, live, scale)
    total = sram_tile(shape=(queries,), dtype="float32")
    total = fold(total, p, live, op="add")
    out = zeros((queries, dims))
    out = value_map(out, v, p, live)

    # The division waits for this: a row knows its own exponentials only, and their sum over all
    # rows comes with the values.
    both = sram_tile(shape=(queries, dims + 1), dtype="float32")
    both = copy_into(both, out, 0, axis=1)
    both = copy_into(both, total.reshape(queries, 1), dims, axis=1)
    both = all_reduce(both, "row")
    totals = lax.slice_in_dim(both, dims, dims + 1, axis=1)
    inverse = sram_tile(shape=(queries,), dtype="float32")
    if hooks.guarded:
        # Nothing is attended: values of 0 over a sum of 0 are to be 0.
        inverse = copy(inverse, totals.reshape(queries))
        inverse = at_least(inverse, LEAST)
        inverse = reciprocal(inverse, inverse)
    else:
        inverse = reciprocal(inverse, totals.reshape(queries))
    sums = lax.slice_in_dim(both, 0, dims, axis=1)
    mean = sram_tile(shape=(queries, dims), dtype=heads.dtype)
    mean = vector_scale(mean, sums, inverse)
    return mean, SoftmaxSums(top, totals, scale)


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
    column = lax.rem(lax.axis_index("col"), jnp.int32(heads.parts))
    start = column * jnp.int32(share)
    count = lax.clamp(jnp.int32(0), span.live - start, jnp.int32(share))
    # A column behind the last share has none of its slots live, and may look at any.
    start = lax.min(start, jnp.int32(heads.slots - share))
    first = start if span.first is None else span.first + start
    mine = lax.dynamic_slice_in_dim(scores, start, share, axis=1)
    mine = varied(mine, heads.scale, Span(first, count), hooks)
    top = largest(mine, count, hooks, heads.parts)
    tile = sram_tile(shape=(queries, share), dtype=heads.dtype)
    mine = exp(tile, mine, top, count, scale=scale)
    p = zeros((queries, heads.slots), heads.dtype)
    p = copy_into(p, mine, start, axis=1)
    return all_reduce(p, "col", group=heads.parts, elements=span.live * queries), top


def viewed(heads: Heads, cache: Cache, span: Span) -> tuple[Sram, Sram]:
    """The slots of the cache from the span's first one on, `[dims, slots]` and `[slots, dims]`."""
    if span.first is None:
        return cache["k"], cache["v"]
    k = lax.dynamic_slice_in_dim(cache["k"], span.first, heads.slots, axis=1)
    v = lax.dynamic_slice_in_dim(cache["v"], span.first, heads.slots, axis=0)
    return k, v


def log_sum_exp(sums: SoftmaxSums) -> Sram:
    """`log(sum of exp(score))` of every query, float32 `[queries, 1]`; -inf of no score at all."""
    one = jnp.int32(1)
    shape = sums.total.shape
    kind: dict[str, Any] = {"arithmetic": "float32"}
    logarithm = scalar_of_one_live(
        sram_tile(shape=shape, dtype="float32"),
        *(sums.total, one),
        **kind,
        op="log",
        opens=True,
    )
    scale = number(sums.scale)
    top = sram_tile(shape=shape, dtype="float32")
    top = scalar_of_two_live(
        *(top, sums.top.reshape(shape), scale, one), **kind, op="mul", opens=False
    )
    return scalar_of_two_live(
        *(logarithm, logarithm, top, one), **kind, op="add", opens=False
    )


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


def normalise_heads(layer: LayerMap, qk: Sram, weight: Sram) -> Sram:
    """RMSNorm of every head over `head_dim`, which a group's columns hold together.

    Dimensions: `qk` and `weight` `[queries + 1, dims]`.
    """
    heads = qk.shape[:1]
    total = sram_tile(shape=heads, dtype="float32")
    total = square_sum(total, qk)
    # A group's columns hold one head between them, so the sum over the group is the head's.
    total = all_reduce(total, "col", group=layer.parts)
    scale = rsqrt_mean(total, total, n=layer.head_dim, eps=layer.eps)
    normed = sram_tile(shape=qk.shape, dtype="float32")
    normed = vector_scale(normed, qk, scale)
    return vector(normed, normed, weight, op="mul")


def attention(
    layer: LayerMap,
    residual: Sram,
    weights: Weights,
    cache: Cache,
    turn: tuple[Sram, Sram],
    pos: KnownInt,
) -> tuple[Sram, Cache]:
    """Adds attention of the normalised residual stream to it, in place, and grows the cache.

    Dimensions: `residual` float32 `[depth]`; `turn` is `(cos, sin)` of this position, each
    `[dims / 2]`.
    """
    queries = layer.queries
    dims = layer.dims
    normed = rms_norm(
        residual,
        weights["attn_norm"],
        n=layer.hidden,
        eps=layer.eps,
        dtype=layer.dtype,
    )
    part = gemv(weights["qkv"], normed)
    qkv = all_reduce(part, "row")
    qkv = qkv.reshape(queries + 2, dims)  # the queries, then the key, then the value
    qk = lax.slice_in_dim(qkv, 0, queries + 1)
    if layer.qk_norm:
        qk = normalise_heads(layer, qk, weights["qk_norm"])
    turned = sram_tile(shape=(queries + 1, dims), dtype="float32")
    qk = rope(turned, qk, *turn)

    k = lax.slice_in_dim(qk, queries, queries + 1)
    k = k.reshape(dims)
    v = lax.slice_in_dim(qkv, queries + 1, queries + 2)
    v = v.reshape(dims)
    cache = append(cache, k, v, pos, layer.rows)

    # As a multiply-add takes it; the cache has rounded the key.
    q = lax.slice_in_dim(qk, 0, queries)
    if layer.dtype != "float32":
        rounded = sram_tile(shape=(queries, dims), dtype=layer.dtype)
        q = copy(rounded, q)
    heads = attend(layer, q, cache, pos)
    part = gemv(weights["out"], heads)
    out = all_reduce(part, "col")
    residual = vector(residual, residual, out, op="add")
    return residual, cache


__all__ = [
    "SoftmaxSums",
    "append",
    "attend",
    "attend_span",
    "attention",
    "log_sum_exp",
    "normalise_heads",
]
