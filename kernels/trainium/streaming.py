"""Row tiles of HBM arrays, streamed through SBUF: load, compute, store."""

from collections.abc import Callable

import jax
from jax import lax

from emu.annotations import PyTree
from emu.trainium.engines.memory import dma_load, dma_store, sbuf
from emu.trainium.spaces import Hbm, Sbuf
from kernels.trainium.tiles import PARTITIONS, largest_divisor


def row_count(x: Hbm) -> int:
    """Rows of a tile of `[R, ...]`: the largest divisor of R that fits 128 partitions."""
    return largest_divisor(x.shape[0], PARTITIONS)


def row_tiles(x: Hbm) -> Hbm:
    """`[R, ...]` as `[R/r, r, ...]`, r rows a tile."""
    # Equal tiles need no case for a smaller last one: 300 rows are 3 tiles of 100. It is dear where
    # nothing divides: 131 rows, a prime, are 131 tiles of one row.
    rows = row_count(x)
    _, *rest = x.shape
    return x.reshape(-1, rows, *rest)


def fetch(x: Hbm, *, buffers: int = 1) -> Sbuf:
    """Loads an HBM tile into an SBUF ring of its shape and dtype."""
    tile = sbuf(*x.shape, dtype=x.dtype, buffers=buffers)
    return dma_load(tile, x)


def over_rows(
    compute: Callable[..., PyTree],
    *arrays: Hbm,
    buffers: int,
) -> PyTree:
    """Streams the row tiles of several arrays through a computation.

    Args:
      compute: SBUF row tiles of the arrays to a pytree of SBUF tiles `[r, ...]`.
      arrays: HBM `[R, ...]` each.
      buffers: depth of the rings of loaded tiles.

    Returns:
      The same pytree, HBM `[R, ...]` each.
    """

    def row_tile(parts: tuple[Hbm, ...]) -> PyTree:
        loaded = []
        for part in parts:
            loaded.append(fetch(part, buffers=buffers))
        # Stored by the iteration that computed them, so nothing is carried from tile to tile, and
        # with two buffers the next is loaded meanwhile.
        results = compute(*loaded)
        return jax.tree.map(dma_store, results)

    def joined(tiles: Hbm) -> Hbm:
        _, _, *rest = tiles.shape
        return tiles.reshape(-1, *rest)

    by_tile = tuple(map(row_tiles, arrays))
    stored = lax.map(row_tile, by_tile)
    return jax.tree.map(joined, stored)


__all__ = ["fetch", "over_rows", "row_count", "row_tiles"]
