"""The tiles that a NeuronCore takes, 128 partitions by 512 columns, and views of them.

A dimension is cut into equal tiles, so padding is less than one element a tile. Nothing here
computes: it is the arithmetic every kernel and every weight layout shares.
"""

import math
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import lax

PARTITIONS = 128  # rows of the systolic array, partitions of SBUF and PSUM
BANKS = 8  # of PSUM
BANK_COLUMNS = 512  # float32 columns of one 2 KiB PSUM bank
CHUNK_BYTES = 8 * 1024  # bytes a partition of one weight load


def split(n: int, limit: int) -> tuple[int, int]:
    """`(count, size)` of the fewest equal tiles of at most `limit` that cover `n`."""
    count = math.ceil(n / limit)
    return count, math.ceil(n / count)


def largest_divisor(n: int, limit: int) -> int:
    """The largest divisor of `n` that is at most `limit` (at least 1)."""
    return max(d for d in range(1, n + 1) if n % d == 0 and (d <= limit or d == 1))


def pack(w: Any, rows: int, columns: int, xp: Any = np) -> Any:
    """Lays a weight out so that each load is one contiguous read.

    Args:
      w: `[..., K, N]`.
      rows: contraction rows per tile (≤ 128); K is padded with zeros to a multiple.
      columns: output columns per block; N likewise.
      xp: numpy, or jax.numpy where only shapes are wanted.

    Returns:
      `[..., blocks, chunks, rows, tiles a chunk, columns]`.
    """
    *lead, k, n = w.shape
    tiles = math.ceil(k / rows)
    blocks = math.ceil(n / columns)
    padding = [(0, 0)] * len(lead) + [(0, tiles * rows - k), (0, blocks * columns - n)]
    chunk = largest_divisor(tiles, max(1, CHUNK_BYTES // (columns * w.dtype.itemsize)))
    x = xp.pad(w, padding).reshape(*lead, tiles // chunk, chunk, rows, blocks, columns)
    a = len(lead)
    return x.transpose(*range(a), a + 3, a, a + 2, a + 1, a + 4)


def index(x: Any, i: Any, axis: int = 0) -> Any:
    """Slice `i` of a tile or HBM buffer along `axis`, a view; `i` may be a loop index."""
    return lax.dynamic_index_in_dim(
        x, jnp.int32(i), axis, keepdims=False, allow_negative_indices=False
    )


def part(x: Any, start: Any, size: int, axis: int) -> Any:
    """Elements `[start, start + size)` of a tile along `axis`, a view; start may be known only."""
    return lax.dynamic_slice_in_dim(x, start, size, axis, allow_negative_indices=False)


def divide(n: Any, by: int) -> tuple[Any, Any]:
    """Quotient and remainder of a loop index, which is never negative."""
    divisor = jnp.asarray(by, n.dtype)
    return lax.div(n, divisor), lax.rem(n, divisor)
