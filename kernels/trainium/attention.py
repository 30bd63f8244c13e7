"""Flash attention of one core: online softmax over K/V tiles, causal tiles skipped, not masked."""

import functools
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import lax

from emu.trainium.isa import (
    activation,
    affine_select,
    memset,
    nc_matmul,
    nc_transpose,
    reciprocal,
    scalar_tensor_tensor,
    tensor_copy,
    tensor_scalar,
)
from emu.trainium.memory import dma_load, dma_load_tiles, dma_store, dma_store_at, hbm, psum, sbuf
from emu.trainium.sheet import LOAD_QUEUES
from kernels.trainium.lanes import in_turn
from kernels.trainium.online_softmax import LOWEST, absorb, add_up
from kernels.trainium.tiling import LayerTiling, divide, index, part

OTHER = LOAD_QUEUES[1]  # a stream beside the first: short copies do not fill the engines alone


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
    end = s.heads * tiles - 1
    work, spare = (_work(s) for _ in range(2))

    def head(carry: Any, h: Any) -> tuple[Any, None]:
        def query(carry: Any, i: Any) -> tuple[Any, None]:
            state, (q_tile, *own), spare = carry
            item = h * tiles + i
            own = _over_keys(q_tile, k, v, tuple(own), (h, i), s, diagonal)
            # Fetched before this item is stored: the next item's state does not wait for it.
            ahead = _fetch(spare, q, state, jnp.minimum(item + 1, end), first)
            state = tuple(
                x if last and n == 1 else dma_store_at(x, y, item)
                for n, (x, y) in enumerate(zip(state, own, strict=True))
            )
            return (state, ahead, (q_tile, *own)), None

        return lax.scan(query, carry, jnp.arange(tiles))[0], None

    carry = state, _fetch(work, q, state, jnp.int32(0), first), spare
    return lax.scan(head, carry, jnp.arange(s.heads))[0][0]


def _work(s: LayerTiling) -> tuple[Any, ...]:
    """SBUF tiles of one item: queries, unnormalised output, row maximum, row sum."""
    queries = sbuf(s.head_dim, s.rows, dtype=s.dtype)
    return queries, sbuf(s.rows, s.head_dim), sbuf(s.rows, 1), sbuf(s.rows, 1)


def _fetch(work: Any, q: Any, state: Any, item: Any, first: bool) -> tuple[Any, ...]:
    """Brings one item, a query tile of one head, and its state into SBUF tiles from `_work`."""
    tiles = q.shape[0]
    queries, *own = work
    head, tile = divide(item, tiles)
    queries = dma_load(queries, index(index(q, tile), head))
    if first:
        values = (0.0, LOWEST, 0.0)
        return queries, *(memset(x, value=y) for x, y in zip(own, values, strict=True))
    old = (index(y, item) for y in state)
    return queries, *(dma_load(x, y, queue=OTHER) for x, y in zip(own, old, strict=True))


def _over_keys(q: Any, k: Any, v: Any, own: Any, at: Any, s: LayerTiling, diagonal: bool) -> Any:
    """Online softmax of one query tile over the K/V tiles it may see."""
    h, i = at
    span = s.kv_tiles
    kv_head, _ = divide(h, s.heads // s.kv_heads)

    def tile(own: Any, j: Any) -> tuple[Any, None]:
        k_tile = sbuf(s.head_dim, span, s.rows, dtype=s.dtype, buffers=2)
        v_tile = sbuf(s.rows, span, s.head_dim, dtype=s.dtype, buffers=2)

        def use(own: Any, masked: bool) -> Any:
            loaded = _load_kv(k, v, (k_tile, v_tile), kv_head, j, s)
            offset = (i - j * span) * s.rows if masked else None
            return _attend_tile(q, *loaded, own, s, offset)

        cases = [
            lambda own: own,  # every key follows every query
            functools.partial(use, masked=True),
            functools.partial(use, masked=False),  # every key precedes every query
        ]
        if not diagonal:
            return cases[2](own), None
        before = (j * span <= i).astype(jnp.int32) + ((j + 1) * span <= i).astype(jnp.int32)
        return lax.switch(before, cases, own), None

    return lax.scan(tile, own, jnp.arange(k.shape[0] // span))[0]


def _load_kv(k: Any, v: Any, buffers: Any, head: Any, j: Any, s: LayerTiling) -> tuple[Any, Any]:
    k_tile, v_tile = buffers
    keys, values = (part(x, j * s.kv_tiles, s.kv_tiles, axis=0) for x in (k, v))
    values = part(values, head * s.head_dim, s.head_dim, axis=2)
    k_tile = dma_load_tiles(k_tile, index(keys, head, 1))
    return k_tile, dma_load_tiles(v_tile, values, queue=OTHER)


def _attend_tile(q: Any, k: Any, v: Any, own: Any, s: LayerTiling, offset: Any) -> Any:
    """One flash-attention step: scores, online softmax, weighted values.

    q `[head_dim, rows]`, k `[head_dim, span, rows]`, v `[rows, span, head_dim]`; `offset` is how
    far the first query stands behind the first key, None where no score is masked.
    """
    out, highest, total = own
    columns, scale = s.kv_tiles * s.rows, float(1 / np.sqrt(s.head_dim))
    scores = nc_matmul(psum(s.rows, columns), q, k.reshape(s.head_dim, columns), jnp.int32(0))
    if offset is not None:  # GpSimd cannot read PSUM
        scores = activation(sbuf(s.rows, columns), scores, op="copy")
        scores = affine_select(scores, scores, offset, fill=LOWEST)
    p = sbuf(s.rows, columns, dtype=s.dtype)
    state = highest, total, sbuf(s.rows, 1)
    ((p, added, decay, state),) = in_turn([absorb(p, scores, state, scale=scale)])
    peak, total, _ = add_up(added, decay, state)
    highest = tensor_copy(highest, peak)
    weighted = _times_values(p, v, s)
    out = scalar_tensor_tensor(out, out, decay, weighted, op0="multiply", op1="add")
    return out, highest, total


def _times_values(p: Any, v: Any, s: LayerTiling) -> Any:
    """`p · v` in PSUM; each 128-key part of p is transposed so that keys are on partitions."""
    out = psum(s.rows, s.head_dim)
    for n in range(s.kv_tiles):
        piece = lax.slice_in_dim(p, n * s.rows, (n + 1) * s.rows, axis=1)
        turned = nc_transpose(psum(s.rows, s.rows, dtype=s.dtype), piece)
        turned = tensor_copy(sbuf(s.rows, s.rows, dtype=s.dtype), turned)
        out = nc_matmul(out, turned, index(v, n, 1), jnp.int32(n > 0))
    return out


def finish(state: Any, s: LayerTiling) -> Any:
    """Divides by the row sums and puts features on partitions.

    Returns:
      HBM `[heads, token tiles, head_dim, rows]`.
    """
    tiles = s.blocks * s.tiles

    def item(_: None, at: Any) -> tuple[None, Any]:
        out = dma_load(sbuf(s.rows, s.head_dim, buffers=2), index(state[0], at))
        total = dma_load(sbuf(s.rows, 1, buffers=2), index(state[2], at), queue=OTHER)
        inverse = reciprocal(sbuf(s.rows, 1), total)
        y = tensor_scalar(sbuf(s.rows, s.head_dim, dtype=s.dtype), out, inverse, op="multiply")
        turned = nc_transpose(psum(s.head_dim, s.rows, dtype=s.dtype), y)
        copied = tensor_copy(sbuf(s.head_dim, s.rows, dtype=s.dtype), turned)
        return None, dma_store(copied)

    _, y = lax.scan(item, None, jnp.arange(s.heads * tiles))
    return y.reshape(s.heads, tiles, s.head_dim, s.rows)
