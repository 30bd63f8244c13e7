"""Flash attention of one core: online softmax over K/V tiles, causal tiles skipped, not masked."""

from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import lax

from emu.trainium.isa import (
    activation,
    activation_bias,
    activation_reduce,
    affine_select,
    memset,
    nc_matmul,
    nc_transpose,
    reciprocal,
    scalar_tensor_tensor,
    tensor_copy,
    tensor_immediate,
    tensor_reduce,
    tensor_scalar,
    tensor_tensor,
)
from emu.trainium.memory import dma_load, dma_load_at, dma_store, dma_store_at, hbm, psum, sbuf
from kernels.trainium.tiling import LayerTiling, index

LOWEST = -1e30  # below any score, yet exp() of differences stays finite


def empty_state(s: LayerTiling) -> tuple[Any, Any, Any]:
    """HBM buffers of unnormalised output, row maximum and row sum, float32.

    `[heads · token tiles, rows, head_dim]`, and twice `[heads · token tiles, rows, 1]`.
    """
    items = s.heads * s.blocks * s.tiles
    return hbm(items, s.rows, s.head_dim), hbm(items, s.rows, 1), hbm(items, s.rows, 1)


def attend_block(
    q: Any, k: Any, v: Any, state: Any, s: LayerTiling, *, diagonal: bool, first: bool, last: bool
) -> Any:
    """Attends all of this core's queries to one core's keys and values.

    Args:
      q: HBM `[token tiles, heads, head_dim, rows]`.
      k: HBM `[token tiles, kv_heads, head_dim, rows]`, not repeated per query head.
      v: HBM `[token tiles, rows, kv_heads · head_dim]`.
      state: from `empty_state`, or the previous block's.
      s: sizes.
      diagonal: the keys are this core's own: tiles above the diagonal are skipped and tiles on it
        masked. False: every key precedes every query.
      first: the state holds nothing yet.
      last: nobody needs the row maxima any more, so they are not stored.

    Returns:
      The state, in the same buffers.
    """
    tiles = s.blocks * s.tiles

    def head(state: Any, h: Any) -> tuple[Any, None]:
        def query(state: Any, i: Any) -> tuple[Any, None]:
            item = h * tiles + i
            q_tile = dma_load(sbuf(s.head_dim, s.rows, dtype=s.dtype), index(index(q, i), h))
            own = _start(s) if first else _resume(state, item)
            own = _over_keys(q_tile, k, v, own, (h, i), s, diagonal)
            out, highest, total = (
                x if last and n == 1 else dma_store_at(x, y, item)
                for n, (x, y) in enumerate(zip(state, own, strict=True))
            )
            return (out, highest, total), None

        return lax.scan(query, state, jnp.arange(tiles))[0], None

    return lax.scan(head, state, jnp.arange(s.heads))[0]


def _start(s: LayerTiling) -> tuple[Any, Any, Any]:
    return (
        memset(sbuf(s.rows, s.head_dim), value=0.0),
        memset(sbuf(s.rows, 1), value=LOWEST),
        memset(sbuf(s.rows, 1), value=0.0),
    )


def _resume(state: Any, item: Any) -> tuple[Any, ...]:
    return tuple(dma_load(sbuf(*x.shape[1:]), index(x, item)) for x in state)


def _over_keys(q: Any, k: Any, v: Any, own: Any, at: Any, s: LayerTiling, diagonal: bool) -> Any:
    """Online softmax of one query tile over the K/V tiles it may see."""
    h, i = at
    span = s.kv_tiles
    kv_head = h // (s.heads // s.kv_heads)

    def tile(state: Any, j: Any) -> tuple[Any, None]:
        own, (buffers, spare) = state

        def use(own: Any, buffers: Any) -> Any:
            loaded = _load_kv(k, v, buffers, kv_head, j, s)
            offset = (i - j * span) * s.rows
            return _attend_tile(q, *loaded, own, offset, s, diagonal), loaded

        def skip(own: Any, buffers: Any) -> Any:
            return own, buffers

        if diagonal:
            own, buffers = lax.cond(j * span <= i, use, skip, own, buffers)
        else:
            own, buffers = use(own, buffers)
        return (own, (spare, buffers)), None

    rings = tuple(
        (
            sbuf(s.head_dim, span, s.rows, dtype=s.dtype),
            sbuf(s.rows, span, s.head_dim, dtype=s.dtype),
        )
        for _ in range(2)
    )
    count = k.shape[0] // span
    (own, _), _ = lax.scan(tile, (own, rings), jnp.arange(count))
    return own


def _load_kv(k: Any, v: Any, buffers: Any, head: Any, j: Any, s: LayerTiling) -> tuple[Any, Any]:
    k_tile, v_tile = buffers
    zero = jnp.int32(0)
    for part in range(s.kv_tiles):
        at = j * s.kv_tiles + part
        values = lax.dynamic_slice_in_dim(index(v, at), head * s.head_dim, s.head_dim, axis=1)
        k_tile = dma_load_at(k_tile, index(index(k, at), head), jnp.int32(part), zero)
        v_tile = dma_load_at(v_tile, values, jnp.int32(part), zero)
    return k_tile, v_tile


def _attend_tile(
    q: Any, k: Any, v: Any, own: Any, offset: Any, s: LayerTiling, diagonal: bool
) -> Any:
    """One flash-attention step: scores, online softmax, weighted values.

    q `[head_dim, rows]`, k `[head_dim, span, rows]`, v `[rows, span, head_dim]`; `offset` is how
    far the first query stands behind the first key.
    """
    out, highest, total = own
    columns, scale = s.kv_tiles * s.rows, float(1 / np.sqrt(s.head_dim))
    scores = nc_matmul(psum(s.rows, columns), q, k.reshape(s.head_dim, columns), jnp.int32(0))
    moved = _masked if diagonal else _plain
    scores = moved(scores, offset, columns)
    peak = tensor_reduce(sbuf(s.rows, 1), scores, op="max")
    peak = tensor_tensor(sbuf(s.rows, 1), highest, peak, op="max")
    bias = tensor_immediate(sbuf(s.rows, 1), peak, op="multiply", value=-scale)
    p, row = activation_reduce(
        sbuf(s.rows, columns, dtype=s.dtype), sbuf(s.rows, 1), scores, bias, op="exp", scale=scale
    )
    decay = activation_bias(sbuf(s.rows, 1), highest, bias, op="exp", scale=scale)
    total = scalar_tensor_tensor(total, total, decay, row, op0="multiply", op1="add")
    highest = tensor_copy(highest, peak)
    weighted = _times_values(p, v, s)
    out = scalar_tensor_tensor(out, out, decay, weighted, op0="multiply", op1="add")
    return out, highest, total


def _masked(scores: Any, offset: Any, columns: int) -> Any:
    """Only tiles that the diagonal crosses pay for the select."""
    crosses = offset < columns

    def select(dst: Any, scores: Any) -> Any:
        return affine_select(dst, scores, offset, fill=LOWEST)

    def copy(dst: Any, scores: Any) -> Any:
        return activation(dst, scores, op="copy")

    return lax.cond(crosses, select, copy, sbuf(*scores.shape), scores)


def _plain(scores: Any, offset: Any, columns: int) -> Any:
    return activation(sbuf(*scores.shape), scores, op="copy")


def _times_values(p: Any, v: Any, s: LayerTiling) -> Any:
    """`p · v` in PSUM; each 128-key part of p is transposed so that keys are on partitions."""
    out = psum(s.rows, s.head_dim)
    for part in range(s.kv_tiles):
        piece = lax.slice_in_dim(p, part * s.rows, (part + 1) * s.rows, axis=1)
        turned = nc_transpose(psum(s.rows, s.rows, dtype=s.dtype), piece)
        turned = tensor_copy(sbuf(s.rows, s.rows, dtype=s.dtype), turned)
        out = nc_matmul(out, turned, index(v, part, 1), jnp.int32(part > 0))
    return out


def finish(state: Any, s: LayerTiling) -> Any:
    """Divides by the row sums and puts features on partitions.

    Returns:
      HBM `[heads, token tiles, head_dim, rows]`.
    """
    tiles = s.blocks * s.tiles

    def item(_: None, at: Any) -> tuple[None, Any]:
        out, total = _resume((state[0], state[2]), at)
        inverse = reciprocal(sbuf(s.rows, 1), total)
        y = tensor_scalar(
            sbuf(s.rows, s.head_dim, dtype=s.dtype), out, inverse, op="multiply"
        )
        turned = nc_transpose(psum(s.head_dim, s.rows, dtype=s.dtype), y)
        return None, dma_store(tensor_copy(sbuf(s.head_dim, s.rows, dtype=s.dtype), turned))

    _, y = lax.scan(item, None, jnp.arange(s.heads * tiles))
    return y.reshape(s.heads, tiles, s.head_dim, s.rows)
