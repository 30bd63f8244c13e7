"""Row tiles of HBM arrays, streamed through SBUF: load, compute, store."""

from collections.abc import Callable
from typing import Any

import jax
from jax import lax

from emu.trainium.engines.memory import dma_load, dma_store, sbuf
from kernels.trainium.tiles import PARTITIONS, largest_divisor


def row_count(x: Any) -> int:
    """Rows of a tile of `[R, ...]`: the largest divisor of R that fits 128 partitions."""
    return largest_divisor(x.shape[0], PARTITIONS)


def row_tiles(x: Any) -> Any:
    """`[R, ...]` as `[R/r, r, ...]`, r rows a tile."""
    return x.reshape(-1, row_count(x), *x.shape[1:])


def fetch(x: Any, *, buffers: int = 1) -> Any:
    """Loads an HBM tile into an SBUF ring of its shape and dtype."""
    return dma_load(sbuf(*x.shape, dtype=x.dtype, buffers=buffers), x)


def over_rows(compute: Callable[..., Any], *xs: Any, buffers: int) -> Any:
    """Streams the row tiles of several arrays through a computation.

    Args:
      compute: SBUF row tiles of `xs` to a pytree of SBUF tiles `[r, ...]`.
      xs: HBM `[R, ...]` each.
      buffers: depth of the rings of loaded tiles.

    Returns:
      The same pytree, HBM `[R, ...]` each.
    """

    def tile(_: None, parts: Any) -> tuple[None, Any]:
        return None, jax.tree.map(
            dma_store, compute(*(fetch(p, buffers=buffers) for p in parts))
        )

    tiles = lax.scan(tile, None, tuple(map(row_tiles, xs)))[1]
    return jax.tree.map(lambda y: y.reshape(-1, *y.shape[2:]), tiles)
