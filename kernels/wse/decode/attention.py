"""Decode attention of one token over a KV cache that is dealt to the PEs of a region.

Position p lives in row `p % rows`, slot `p // rows`; a head's dimensions are dealt over the `parts`
columns of its group. Scores are summed along columns, the softmax and the values along rows.

With 4 rows, position 6 is in row 2, slot 1. When it is the newest, rows 0 to 2 have two live slots,
row 3 has one: `live = (pos + rows - row) // rows`.
"""

from collections.abc import Callable
from typing import TypeAlias

import jax.numpy as jnp
from jax import lax

from emu.annotations import KnownInt
from emu.wse import (
    copy,
    copy_into,
    rope,
    rsqrt_mean,
    square_sum,
    sram_tile,
    value_map,
    vector,
    vector_scale,
)
from emu.wse.spaces import Sram
from kernels.formats.formats import POWER_OF_TWO
from kernels.wse.decode.attention_map import Heads, Span
from kernels.wse.decode.blocks import Weights, added, projected, rms_norm
from kernels.wse.decode.cache_format import POWERS, SCALES
from kernels.wse.decode.cached import Scaled, add_values, add_values_of_keys
from kernels.wse.decode.coded_cache import append_coded, append_microscaled
from kernels.wse.decode.folds import fold_terms
from kernels.wse.decode.hooks import PLAIN, Hooks
from kernels.wse.decode.mapping import LayerMap
from kernels.wse.decode.mixed import add_scores_of_maps
from kernels.wse.decode.outcome import Folded, divided, finished
from kernels.wse.decode.sums import all_reduce, unchanged, zeros
from kernels.wse.decode.weights import softmax_terms, total_weight

Cache = dict[str, Sram]

Attended: TypeAlias = Callable[[Sram, Cache], Sram]
"""Attention of queries over the cache, such as `attend` or a variant's."""


def append(cache: Cache, k: Sram, v: Sram | None, pos: KnownInt, rows: int) -> Cache:
    """Writes the new token's key and value on the row that owns position `pos`.

    Dimensions: `k`, `v` `[dims]`; cache `k` `[dims, slots]`, `v` `[slots, dims]`. A value that is
    part of its key is None, and the cache has no `v`.
    """
    slot = lax.div(pos, jnp.int32(rows))
    owner = lax.rem(pos, jnp.int32(rows))
    is_mine = owner == lax.axis_index("row")

    def write(old: Cache, k: Sram, v: Sram | None, slot: KnownInt) -> Cache:
        # Each lies as a hardware loop takes it: keys a dimension over all slots (`score_map`),
        # values a slot over all dimensions (`value_map`).
        column = k.reshape(-1, 1)
        written = {"k": copy_into(old["k"], column, slot, axis=1)}
        if v is not None:
            row = v.reshape(1, -1)
            written["v"] = copy_into(old["v"], row, slot, axis=0)
        return written

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
    live = live_slots(heads.rows, pos)
    mean, _ = attend_span(heads, q, cache, Span(None, live), hooks)
    return mean.reshape(heads.queries * heads.value_dims)


def live_slots(rows: int, pos: KnownInt) -> KnownInt:
    """Slots of this row that hold a position from 0 to `pos`."""
    rows = jnp.int32(rows)
    return lax.div(pos + rows - lax.axis_index("row"), rows)


def attend_span(
    heads: Heads,
    q: Sram,
    cache: Cache,
    span: Span,
    hooks: Hooks = PLAIN,
) -> tuple[Sram, Folded]:
    """Softmax attention of `q` over a range of each row's slots, on every row.

    The sum of the softmax travels with the values, as one more dimension of each query, so that
    both are on every row after one all-reduce.

    Dimensions: `q` `[queries, dims]`; the mean `[queries, value_dims]`.

    Pseudocode:
      s = all_reduce_col(q @ k[:, :live]);  s = hooks(scale * s);  top = all_reduce_row(max s)
      p = exp(scale * (s - top))
      [o, z] = all_reduce_row([p @ v[:live], sum p]);  return o / z

    With a fold in `hooks`, weights and sums may be others (`fold_terms`), and the last step is.
    """
    queries = heads.queries
    dims = heads.value_dims
    live = span.live
    k, v = viewed(heads, cache, span)

    scores = zeros((queries, heads.slots))
    scores = add_scores_of_maps(scores, k, q, live, heads.maps)
    scores = all_reduce(
        scores,
        "col",
        group=heads.parts,
        # As long as the row has live slots, not as its cache: at position 130 of 128 rows, rows 0
        # to 2 have two each and the others one.
        elements=live * queries,
    )
    fold = hooks.fold
    # A score function is given scaled ones; so is what a fold asks of them.
    scale = heads.scale if hooks.score is None else 1.0
    if fold is not None and not fold.is_softmax:
        scale = 1.0
        p, sums, top = fold_terms(heads, scores, span, hooks, fold)
    else:
        p, top = softmax_terms(heads, scores, span, hooks, scale)
        sums = total_weight(p, live)
    out = zeros((queries, dims))
    if heads.values_are_keys and isinstance(v, Scaled):
        out = add_values_of_keys(out, v, p, live)
    elif heads.values_are_keys:
        assert not isinstance(v, Scaled)
        out = value_map(out, v, p, live, stride=cache["k"].shape[1])
    else:
        out = add_values(out, v, p, live)
    folded = over_rows(out, sums, top, scale)
    if fold is None:
        return divided(heads, folded, hooks), folded
    return finished(heads, folded, hooks, fold), folded


def over_rows(out: Sram, sums: Sram | None, top: Sram | None, scale: float) -> Folded:
    """Sums over all rows, on every row, from those of each row's own keys.

    Args:
      out: float32 `[queries, value_dims]`, of weighted values.
      sums: float32 `[queries, n]`; None: there are no others.
      top: as `Folded` has it, for all rows already.
      scale: as `Folded` has it.
    """
    if sums is None:
        return Folded(all_reduce(out, "row"), (), top, scale)
    queries, dims = out.shape
    count = sums.shape[1]
    # The division waits for this: a row knows its own exponentials only, and their sum over all
    # rows comes with the values.
    both = sram_tile(shape=(queries, dims + count), dtype="float32")
    both = copy_into(both, out, 0, axis=1)
    both = copy_into(both, sums, dims, axis=1)
    both = all_reduce(both, "row")
    values = lax.slice_in_dim(both, 0, dims, axis=1)
    places = range(dims, dims + count)
    totals = [lax.slice_in_dim(both, n, n + 1, axis=1) for n in places]
    return Folded(values, tuple(totals), top, scale)


def viewed(
    heads: Heads, cache: Cache, span: Span
) -> tuple[Sram | Scaled, Sram | Scaled]:
    """The slots of the cache from the span's first one on, `[dims, slots]` and `[slots, dims]`.

    Values that are part of their keys are `[value_dims, slots]`.

    A cache whose codes have powers of two holds them as `k_powers` and `v_powers`, `[blocks,
    slots]`; one whose codes have float32 scales by `cache_format.SCALES`, `[1, slots]`, and of
    latents `[2, slots]`.
    """

    def view(name: str, axis: int) -> Sram:
        if span.first is None:
            # A cache may have slots to spare for other layers' views.
            return lax.slice_in_dim(cache[name], 0, heads.slots, axis=axis)
        first = span.first
        return lax.dynamic_slice_in_dim(cache[name], first, heads.slots, axis=axis)

    if heads.values_are_keys:
        keys = view("k", 1)
        values = lax.slice_in_dim(keys, 0, heads.value_dims, axis=0)
        if SCALES["k"] not in cache:
            return keys, values
        scales = view(SCALES["k"], 1)
        # A latent has one, and its turned key another.
        of_blocks = heads.value_dims, heads.dims - heads.value_dims
        of_latents = lax.slice_in_dim(scales, 0, 1)
        return Scaled(keys, scales, of_blocks), Scaled(values, of_latents)

    k, v = view("k", 1), view("v", 0)
    for names in (POWERS, SCALES):
        if names["k"] in cache:
            return Scaled(k, view(names["k"], 1)), Scaled(v, view(names["v"], 1))
    return k, v


def normalise_heads(layer: LayerMap, qk: Sram, weight: Sram | None) -> Sram:
    """RMSNorm of every head over `head_dim`, which a group's columns hold together.

    Dimensions: `qk` and `weight`, if there is one, `[queries + 1, dims]`.
    """
    heads = qk.shape[:1]
    total = sram_tile(shape=heads, dtype="float32")
    total = square_sum(total, qk)
    # A group's columns hold one head between them, so the sum over the group is the head's.
    total = all_reduce(total, "col", group=layer.parts)
    scale = rsqrt_mean(total, total, n=layer.head_dim, eps=layer.eps)
    normed = sram_tile(shape=qk.shape, dtype="float32")
    normed = vector_scale(normed, qk, scale)
    if weight is None:
        return normed
    return vector(normed, normed, weight, op="mul")


def normalise_all(layer: LayerMap, qk: Sram, weight: Sram) -> Sram:
    """RMSNorm of all queries together, and of all keys, which the columns hold together.

    Dimensions: `qk` and `weight` `[queries + 1, dims]`, the key last.
    """
    queries = layer.queries
    places = slice(0, queries), slice(queries, queries + 1)
    totals = sram_tile(shape=(2,), dtype="float32")
    for place, rows in enumerate(places):
        own = lax.slice_in_dim(qk, rows.start, rows.stop).reshape(-1)
        total = square_sum(sram_tile(shape=(1,), dtype="float32"), own)
        totals = copy_into(totals, total, place, axis=0)
    totals = all_reduce(totals, "col")
    normed = sram_tile(shape=qk.shape, dtype="float32")
    counts = layer.heads * layer.head_dim, layer.kv_heads * layer.head_dim
    for place, (rows, n) in enumerate(zip(places, counts, strict=True)):
        total = lax.slice_in_dim(totals, place, place + 1)
        scale = sram_tile(shape=(1,), dtype="float32")
        scale = rsqrt_mean(scale, total, n=n, eps=layer.eps)
        own = lax.slice_in_dim(qk, rows.start, rows.stop)
        normed = vector_scale.at[rows](normed, own, scale)
    return vector(normed, normed, weight, op="mul")


def attention(
    layer: LayerMap,
    residual: Sram,
    weights: Weights,
    cache: Cache,
    turn: tuple[Sram, Sram],
    pos: KnownInt,
    attended: Attended,
    temperature: Sram | None = None,
) -> tuple[Sram, Cache]:
    """Adds attention of the normalised residual stream to it, in place, and grows the cache.

    Dimensions: `residual` float32 `[depth]`; `turn` is `(cos, sin)` of this position, each
    `[turned_pairs]`; `attended` makes `[queries * dims]` of queries and the cache, as `attend`
    does; `temperature` float32 `[1]`, by which queries are multiplied.
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
    part = projected(layer, weights, "qkv", normed)
    qkv = all_reduce(part, "row")
    if layer.form.qkv_bias:
        qkv = vector(qkv, qkv, weights["qkv_bias"], op="add")
    qkv = qkv.reshape(queries + 2, dims)  # the queries, then the key, then the value
    qk = lax.slice_in_dim(qkv, 0, queries + 1)
    if layer.qk_norm:
        qk = normalise_heads(layer, qk, weights["qk_norm"])
    if layer.form.wide_qk_norm:
        qk = normalise_all(layer, qk, weights["qk_norm"])
    qk = rotated(layer, qk, turn)
    if layer.form.unit_qk_norm:
        qk = normalise_heads(layer, qk, None)

    k = lax.slice_in_dim(qk, queries, queries + 1)
    v = lax.slice_in_dim(qkv, queries + 1, queries + 2)
    if layer.held.cache is None:
        cache = append(cache, k.reshape(dims), v.reshape(dims), pos, layer.rows)
    else:
        both = sram_tile(shape=(2, dims), dtype="float32")
        both = copy_into(both, k, 0, axis=0)
        both = copy_into(both, v, 1, axis=0)
        held, sizes = layer.held.cache, {"rows": layer.rows, "parts": layer.parts}
        if held.scale == POWER_OF_TWO:
            blocks = layer.cache_blocks
            cache = append_microscaled(cache, both, pos, held, blocks, **sizes)
        else:
            cache = append_coded(cache, both, pos, held, **sizes)

    # As a multiply-add takes it; the cache has rounded the key.
    q = lax.slice_in_dim(qk, 0, queries)
    if temperature is not None:
        tuned = sram_tile(shape=(queries, dims), dtype=layer.dtype)
        q = vector_scale(tuned, q, temperature)
    elif layer.dtype != "float32":
        rounded = sram_tile(shape=(queries, dims), dtype=layer.dtype)
        q = copy(rounded, q)
    heads = attended(q, cache)
    part = projected(layer, weights, "out", heads)
    out = all_reduce(part, "col")
    if layer.form.out_bias:
        out = vector(out, out, weights["out_bias"], op="add")
    return added(layer, residual, out, weights, "attn_output_norm"), cache


def rotated(layer: LayerMap, qk: Sram, turn: tuple[Sram, Sram]) -> Sram:
    """Heads `[queries + 1, dims]` with those features turned that the layer turns."""
    if not layer.turned:
        return qk
    tile = sram_tile(shape=qk.shape, dtype="float32")
    if layer.turned == layer.head_dim:
        return rope(tile, qk, *turn)
    # The others stand behind the pairs, and stay as they are in the same tile.
    tile = copy(tile, qk)
    return rope(tile, tile, *turn)


__all__ = [
    "Attended",
    "append",
    "attend",
    "attend_span",
    "attention",
    "live_slots",
    "normalise_all",
    "normalise_heads",
    "rotated",
]
