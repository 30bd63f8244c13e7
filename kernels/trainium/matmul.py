"""Tiled matmul: stationary and moving tiles from SBUF, accumulation over K in PSUM."""

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
from jax import lax

from emu.trainium.isa import nc_matmul
from emu.trainium.memory import dma_load, psum, sbuf
from kernels.trainium.tiling import index

Emit = Callable[[Any, Any, Any], Any]


def project(x_t: Any, w: Any, carry: Any, emit: Emit, *, rows: int, buffers: int = 2) -> Any:
    """`x · w` with tokens on the output's partitions: each weight tile serves all token tiles.

    Dimensions:
      K: contraction, `chunks · depth · k` (k ≤ 128).
      T: tokens of `x_t`, a multiple of `rows`; at most four tiles of them.
      N: output columns, `blocks · n` (n ≤ 512).

    Args:
      x_t: SBUF `[k, K/k, T]`, activations with features on partitions.
      w: HBM `[blocks, chunks, k, depth, n]`, from `tiling.pack`.
      carry: state handed to `emit`, such as the SBUF tile that takes the result.
      emit: `(carry, block, psum_tiles) -> carry`, reads the `[rows, n]` float32 sums of one column
        block, one tile per token tile.
      rows: tokens per tile (≤ 128).
      buffers: weight chunks in flight.

    Returns:
      The last carry.

    Pseudocode:
      for block: for chunk: load w[block, chunk]; for depth: for tile: psum[tile] += x_tᵀ · w
    """
    blocks, chunks, k, depth, n = w.shape
    tiles = x_t.shape[2] // rows
    ring = tuple(sbuf(k, depth, n, dtype=w.dtype) for _ in range(buffers))
    banks = tuple(tuple(psum(rows, n) for _ in range(tiles)) for _ in range(2))

    def block(state: Any, b: Any) -> tuple[Any, None]:
        ring, (sums, spare), carry = state

        def step(sums: Any, right: Any, at: Any) -> Any:
            left = index(x_t, at, 1)
            parts = (lax.slice_in_dim(left, m * rows, (m + 1) * rows, axis=1) for m in range(tiles))
            more = (at > 0).astype(jnp.int32)
            return tuple(nc_matmul(s, p, right, more) for s, p in zip(sums, parts, strict=True))

        ring, sums = over_depth(ring, sums, (index(w, b),), step)
        carry = emit(carry, b, sums)
        return (ring, (spare, sums), carry), None

    (_, _, carry), _ = lax.scan(block, ((ring,), banks, carry), jnp.arange(blocks))
    return carry


def over_depth(rings: Any, sums: Any, ws: tuple[Any, ...], step: Callable[..., Any]) -> Any:
    """Streams weight chunks through rings of buffers and calls `step` for each K tile.

    Args:
      rings: one tuple of SBUF tiles `[k, depth, n]` per weight.
      sums: PSUM tiles.
      ws: HBM `[chunks, k, depth, n]` each.
      step: `(sums, *w_tiles [k, n], tile_index) -> sums`.

    Returns:
      `(rings, sums)`.
    """
    chunks, _, depth, _ = ws[0].shape

    def chunk(state: Any, c: Any) -> tuple[Any, None]:
        rings, sums = state
        loaded = tuple(dma_load(r[0], index(w, c)) for r, w in zip(rings, ws, strict=True))

        def tile(sums: Any, d: Any) -> tuple[Any, None]:
            return step(sums, *(index(x, d, 1) for x in loaded), c * depth + d), None

        sums, _ = lax.scan(tile, sums, jnp.arange(depth))
        rings = tuple((*r[1:], x) for r, x in zip(rings, loaded, strict=True))
        return (rings, sums), None

    return lax.scan(chunk, (rings, sums), jnp.arange(chunks))[0]
