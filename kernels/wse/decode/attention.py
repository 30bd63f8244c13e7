"""Decode attention of one token over a KV cache that is dealt to the PEs of a region.

Position p lives in row `p % rows`, slot `p // rows`; a head's dimensions are dealt over the `parts`
columns of its group. Scores are summed along columns, the softmax and the values along rows.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from emu.wse import (
    copy,
    copy_into,
    exp,
    fold,
    reciprocal,
    rope,
    rsqrt_mean,
    score_map,
    square_sum,
    sram_tile,
    value_map,
    vector,
    vector_scale,
)
from kernels.wse.decode.blocks import gemv, rms_norm
from kernels.wse.decode.mapping import LayerMap
from kernels.wse.decode.sums import all_reduce, zeros

Cache = dict[str, jax.Array]


def append(
    cache: Cache, k: jax.Array, v: jax.Array, pos: jax.Array, rows: int
) -> Cache:
    """Writes the new token's key and value on the row that owns position `pos`.

    Dimensions: `k`, `v` `[dims]`; cache `k` `[dims, slots]`, `v` `[slots, dims]`.
    """
    slot = lax.div(pos, jnp.int32(rows))
    mine = lax.rem(pos, jnp.int32(rows)) == lax.axis_index("row")

    def write(old: Cache, k: jax.Array, v: jax.Array, slot: jax.Array) -> Cache:
        return {
            "k": copy_into(old["k"], k.reshape(-1, 1), slot, axis=1),
            "v": copy_into(old["v"], v.reshape(1, -1), slot, axis=0),
        }

    return lax.cond(mine, write, lambda old, k, v, slot: old, cache, k, v, slot)


def attend(m: LayerMap, q: jax.Array, cache: Cache, pos: jax.Array) -> jax.Array:
    """Softmax attention of `q` over positions 0 to `pos`, `[queries * dims]`, on every row.

    Dimensions: `q` `[queries, dims]`.

    Pseudocode:
      s = all_reduce_col(q @ k[:, :live]);  top = all_reduce_row(max s)
      p = exp((s - top) / sqrt(head_dim))
      [o, z] = all_reduce_row([p @ v[:live], sum p]);  return o / z
    """
    rows, r = jnp.int32(m.rows), m.queries
    live = lax.div(pos + rows - lax.axis_index("row"), rows)
    s = score_map(zeros((r, m.slots)), cache["k"], q, live)
    s = all_reduce(s, "col", group=m.parts, elements=live * r)
    top = fold(sram_tile(shape=(r,), dtype="float32"), s, live, op="max")
    top = all_reduce(top, "row", op="max")
    p = weights(m, s, top, live)
    total = fold(sram_tile(shape=(r,), dtype="float32"), p, live, op="add")
    out = value_map(zeros((r, m.dims)), cache["v"], p, live)
    both = copy_into(sram_tile(shape=(r, m.dims + 1), dtype="float32"), out, 0, axis=1)
    both = copy_into(both, total.reshape(r, 1), m.dims, axis=1)
    both = all_reduce(both, "row")
    total = lax.slice_in_dim(both, m.dims, m.dims + 1, axis=1).reshape(r)
    inverse = reciprocal(sram_tile(shape=(r,), dtype="float32"), total)
    out = lax.slice_in_dim(both, 0, m.dims, axis=1)
    out = vector_scale(sram_tile(shape=(r, m.dims), dtype=m.dtype), out, inverse)
    return out.reshape(r * m.dims)


def weights(m: LayerMap, s: jax.Array, top: jax.Array, live: jax.Array) -> jax.Array:
    """`exp((s - top) / sqrt(head_dim))` of the live slots, 0 beyond, on every column of a group.

    An exponential is scalar code, so each column does `slot_share` slots and a sum over the
    group's columns, in which all others are zero, puts them together.

    Dimensions: `s` float32 `[queries, slots]` and `top` `[queries]`, repeated along the group.
    """
    r, share = m.queries, m.slot_share
    at = lax.rem(lax.axis_index("col"), jnp.int32(m.parts)) * jnp.int32(share)

    def mine(
        out: jax.Array, s: jax.Array, top: jax.Array, live: jax.Array, at: Any
    ) -> jax.Array:
        count = lax.clamp(jnp.int32(0), live - at, jnp.int32(share))
        part = lax.dynamic_slice_in_dim(s, at, share, axis=1)
        tile = sram_tile(shape=(r, share), dtype=m.dtype)
        part = exp(tile, part, top, count, scale=m.head_dim**-0.5)
        return copy_into(out, part, at, axis=1)

    p = zeros((r, m.slots), m.dtype)
    p = lax.cond(at < m.slots, mine, lambda out, *_: out, p, s, top, live, at)
    return all_reduce(p, "col", group=m.parts, elements=live * r)


def normalise_heads(m: LayerMap, qk: jax.Array, weight: jax.Array) -> jax.Array:
    """RMSNorm of every head over `head_dim`, which a group's columns hold together.

    Dimensions: `qk` and `weight` `[queries + 1, dims]`.
    """
    total = square_sum(sram_tile(shape=qk.shape[:1], dtype="float32"), qk)
    total = all_reduce(total, "col", group=m.parts)
    scale = rsqrt_mean(total, total, n=m.head_dim, eps=m.eps)
    qk = vector_scale(sram_tile(shape=qk.shape, dtype="float32"), qk, scale)
    return vector(qk, qk, weight, op="mul")


def attention(
    m: LayerMap,
    x: jax.Array,
    w: dict[str, Any],
    cache: Cache,
    turn: Any,
    pos: jax.Array,
) -> tuple[jax.Array, Cache]:
    """Adds attention of the normalised residual stream to it, in place, and grows the cache.

    Dimensions: `x` float32 `[depth]`; `turn` is `(cos, sin)` of this position, each `[dims / 2]`.
    """
    r = m.queries
    h = rms_norm(x, w["attn_norm"], n=m.hidden, eps=m.eps, dtype=m.dtype)
    qkv = all_reduce(gemv(w["qkv"], h), "row").reshape(r + 2, m.dims)
    qk = lax.slice_in_dim(qkv, 0, r + 1)
    if m.qk_norm:
        qk = normalise_heads(m, qk, w["qk_norm"])
    qk = rope(sram_tile(shape=(r + 1, m.dims), dtype="float32"), qk, *turn)
    k, v = (
        lax.slice_in_dim(t, at, at + 1).reshape(m.dims)
        for t, at in ((qk, r), (qkv, r + 1))
    )
    cache = append(cache, k, v, pos, m.rows)
    q = lax.slice_in_dim(qk, 0, r)
    if m.dtype != "float32":
        q = copy(sram_tile(shape=(r, m.dims), dtype=m.dtype), q)
    y = all_reduce(gemv(w["out"], attend(m, q, cache, pos)), "col")
    return vector(x, x, y, op="add"), cache


__all__ = ["append", "attend", "attention", "normalise_heads"]
