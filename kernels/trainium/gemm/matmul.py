"""Tiled matmul: stationary and moving tiles from SBUF, accumulation over K in PSUM."""

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
from jax import lax

from emu.tracing.side_by_side import is_in_order, tiles
from emu.trainium.datasheets.sheet import LOAD_QUEUES
from emu.trainium.engines.memory import dma_load, psum, sbuf
from emu.trainium.isa import nc_matmul
from kernels.trainium.tiles import index, part

Emit = Callable[[Any, Any, Any], Any]
Pairs = tuple[tuple[Any, Any], ...]


def project(
    x_t: Any,
    w: Any,
    into: Any,
    emit: Emit,
    *,
    rows: int,
    axis: int = 2,
    buffers: int = 2,
) -> Any:
    """`x · w` with tokens on the output's partitions: each weight tile serves all token tiles.

    Dimensions:
      K: contraction, `chunks · depth · k` (k ≤ 128).
      T: tokens of `x_t`, a multiple of `rows`; at most four tiles of them.
      N: output columns, `blocks · n` (n ≤ 512).

    Args:
      x_t: SBUF `[k, K/k, T]`, activations with features on partitions.
      w: HBM `[blocks, chunks, k, depth, n]`, from `tiling.pack`.
      into: buffers that take the result, such as SBUF `[rows, tiles, N]`: a part for each block.
      emit: `(into, block, psum_tiles) -> into`, writes one column block's part from its sums,
        `[rows, n]` float32 for each token tile.
      rows: tokens per tile (≤ 128).
      axis: along which `into` has its parts.
      buffers: weight chunks in flight.

    Returns:
      `into`, filled.

    Pseudocode:
      for block: for chunk: load w[block, chunk]; for depth: for tile: psum[tile] += x_tᵀ · w
    """
    count, n = x_t.shape[2] // rows, w.shape[4]

    def pairs(x: Any, w: Any) -> Pairs:
        token_tiles = (
            lax.slice_in_dim(x, m * rows, (m + 1) * rows, axis=2) for m in range(count)
        )
        return tuple((tile, w) for tile in token_tiles)

    def block(w: Any) -> tuple[Any, ...]:
        sums = tuple(psum(rows, n, buffers=2) for _ in range(count))
        return over_chunks(sums, x_t, (w,), pairs, buffers=buffers)

    return tiles(block, w, into=into, emit=emit, axis=axis)


def over_chunks(
    sums: tuple[Any, ...],
    x_t: Any,
    ws: tuple[Any, ...],
    pairs: Callable[..., Pairs],
    *,
    buffers: int,
) -> Any:
    """Streams chunks of weights into SBUF and adds their products to PSUM tiles.

    Args:
      sums: PSUM tiles, overwritten.
      x_t: SBUF `[k, chunks · depth, T]`.
      ws: HBM `[chunks, k, depth, n]` each.
      pairs: `(x [k, depth, T], *weights [k, depth, n]) -> pairs`, from views of one chunk in SBUF,
        as `add_products` takes them.
      buffers: chunks of each weight in flight.

    Returns:
      The sums.
    """
    if not is_in_order():
        x_t, ws = _one_chunk(x_t, ws)
    depth = ws[0].shape[2]

    def chunk(sums: Any, at: Any) -> tuple[Any, None]:
        c, *ws = at
        loaded = [
            dma_load(sbuf(*w.shape, dtype=w.dtype, buffers=buffers), w, queue=queue)
            for w, queue in zip(ws, LOAD_QUEUES)
        ]
        x = part(x_t, c * depth, depth, axis=1)
        return add_products(sums, pairs(x, *loaded), c * depth), None

    return lax.scan(chunk, sums, (jnp.arange(len(ws[0])), *ws))[0]


def _one_chunk(x_t: Any, ws: tuple[Any, ...]) -> tuple[Any, tuple[Any, ...]]:
    """The same operands as one chunk, whose tiles have as many rows as those of all chunks."""
    chunks, k, depth, n = ws[0].shape
    x = jnp.swapaxes(x_t.reshape(k, chunks, depth, -1), 0, 1)
    return x.reshape(chunks * k, depth, -1), tuple(
        w.reshape(1, chunks * k, depth, n) for w in ws
    )


def add_products(sums: tuple[Any, ...], pairs: Pairs, done: Any) -> tuple[Any, ...]:
    """`sum (+)= Σ over tiles of stationaryᵀ · moving`, for each PSUM tile.

    A K tile fills the partitions once, so the machine needs one matmul for each; a bank adds them
    up in float32. Side by side they are one product over all of them.

    Args:
      sums: PSUM `[m, n]` each.
      pairs: for each sum SBUF stationary `[k, tiles, m]` and moving `[k, tiles, n]`.
      done: K tiles that the sums hold already, a known integer; at 0 they are overwritten.

    Returns:
      The sums.
    """

    def tile(sums: Any, t: Any) -> tuple[Any, None]:
        more = (done + t > 0).astype(jnp.int32)
        at_tile = [(index(a, t, 1), index(b, t, 1)) for a, b in pairs]
        return tuple(
            nc_matmul(s, *xs, more) for s, xs in zip(sums, at_tile, strict=True)
        ), None

    if is_in_order():
        count = pairs[0][0].shape[1]
        return lax.scan(tile, sums, jnp.arange(count, dtype=done.dtype))[0]
    more = (done > 0).astype(jnp.int32)
    return tuple(nc_matmul(s, *xs, more) for s, xs in zip(sums, pairs, strict=True))
