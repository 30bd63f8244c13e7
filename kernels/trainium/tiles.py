"""The tiles that a NeuronCore takes, 128 partitions by 512 columns, and views of them.

A dimension is cut into equal tiles, so padding is less than one element a tile. Nothing here
computes: it is the arithmetic every kernel and every weight layout shares.
"""

import math
from types import ModuleType
from typing import TypeAlias, cast

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from emu.annotations import KnownInt, Tile
from emu.program import Known
from emu.trainium.spaces import Hbm

PARTITIONS = 128  # rows of the systolic array, partitions of SBUF and PSUM
BANKS = 8  # of PSUM
BANK_COLUMNS = 512  # float32 columns of one 2 KiB PSUM bank
CHUNK_BYTES = 8 * 1024  # bytes a partition of one weight load

Array: TypeAlias = jax.Array | np.ndarray

KnownTable: TypeAlias = Known | KnownInt
"""Integers that the clock follows, of any shape."""


def split(size: int, limit: int) -> tuple[int, int]:
    """`(count, size)` of the fewest equal tiles of at most `limit` that cover `size`.

    300 columns in tiles of at most 128 are 3 tiles of 100, not two of 128 and one of 44.
    """
    count = math.ceil(size / limit)
    return count, math.ceil(size / count)


def split_for(parts: int, size: int, limit: int) -> tuple[int, int]:
    """`split` into as few tiles as can be whose whole is a multiple of `parts`.

    2,880 columns in tiles of at most 128 are 23 of 126 (2,898), or for 8 parts 24 of 120 (2,880).
    """
    count, each = split(size, limit)
    while count * each % parts:
        count += 1
        each = math.ceil(size / count)
    return count, each


def largest_divisor(size: int, limit: int) -> int:
    """The largest divisor of `size` that is at most `limit` (at least 1)."""
    most = max(1, min(size, limit))
    return max(divisor for divisor in range(1, most + 1) if size % divisor == 0)


def bank_columns(cut: tuple[int, int]) -> int:
    """Columns of a PSUM tile whose features are cut into `(count, size)` contraction tiles.

    Whole contraction tiles in equal blocks: 16 tiles of 128 are 4 blocks of 512 columns, 24 of 120
    are 6 of 480.
    """
    count, size = cut
    return size * largest_divisor(count, BANK_COLUMNS // size)


def pack(weight: Array, rows: int, columns: int, xp: ModuleType = np) -> Array:
    """Lays a weight out so that each load is one contiguous read.

    A chunk is as many tiles as fill `CHUNK_BYTES` of each partition. A bfloat16 weight of
    4096 x 1024 in tiles of 128 x 512 has 32 tiles of rows, 8 of them a chunk, and 2 blocks of
    columns: `[2, 4, 128, 8, 512]`.

    Args:
      weight: `[..., K, N]`.
      rows: contraction rows per tile (≤ 128); K is padded with zeros to a multiple.
      columns: output columns per block; N likewise.
      xp: numpy, or jax.numpy where only shapes are wanted.

    Returns:
      `[..., blocks, chunks, rows, tiles a chunk, columns]`.
    """
    *lead, k, n = weight.shape
    tiles = math.ceil(k / rows)
    blocks = math.ceil(n / columns)
    k_padding = (0, tiles * rows - k)
    n_padding = (0, blocks * columns - n)
    tile_bytes = columns * weight.dtype.itemsize  # a partition
    # A divisor, so that all chunks are alike: one loop goes over them.
    depth = largest_divisor(tiles, CHUNK_BYTES // tile_bytes)
    padded = xp.pad(weight, [(0, 0)] * len(lead) + [k_padding, n_padding])
    tiled = padded.reshape(*lead, tiles // depth, depth, rows, blocks, columns)
    chunks_axis = len(lead)
    depth_axis, rows_axis, blocks_axis, columns_axis = range(
        chunks_axis + 1, chunks_axis + 5
    )
    return tiled.transpose(
        *range(len(lead)),
        blocks_axis,
        chunks_axis,
        rows_axis,
        depth_axis,
        columns_axis,
    )


def with_rows(weight: Array, rows: int, xp: ModuleType = np) -> Array:
    """A weight `[..., K, N]` lengthened by zeros to so many rows, those of a padded operand.

    The last of these may be a whole tile: 32 features in four tiles of 32.
    """
    missing = rows - weight.shape[-2]
    return xp.pad(weight, [(0, 0)] * (weight.ndim - 2) + [(0, missing), (0, 0)])


def index(tile: Tile | Hbm | KnownTable, at: KnownInt, axis: int = 0) -> jax.Array:
    """One slice of a tile, HBM buffer or known table, a view; `at` may be a loop index."""
    # A `Known` is an array by the time that a kernel is traced.
    array = cast(jax.Array, tile)
    # A loop index is one already, and there are thousands of them in a kernel.
    is_int32 = isinstance(at, jax.Array) and at.dtype == np.int32
    place = at if is_int32 else jnp.int32(at)
    return lax.dynamic_index_in_dim(
        array, place, axis, keepdims=False, allow_negative_indices=False
    )


def part(tile: Tile | Hbm, start: KnownInt, size: int, axis: int) -> jax.Array:
    """Elements `[start, start + size)` along `axis`, a view; `start` may be a loop index."""
    return lax.dynamic_slice_in_dim(
        tile, start, size, axis, allow_negative_indices=False
    )


def divide(number: KnownInt, by: int) -> tuple[KnownInt, KnownInt]:
    """Quotient and remainder of a loop index, which is never negative."""
    divisor = jnp.asarray(by, jnp.result_type(number))
    quotient = lax.div(number, divisor)
    rest = lax.rem(number, divisor)
    return quotient, rest


__all__ = [
    "BANKS",
    "BANK_COLUMNS",
    "CHUNK_BYTES",
    "PARTITIONS",
    "bank_columns",
    "divide",
    "index",
    "largest_divisor",
    "pack",
    "part",
    "split",
    "split_for",
    "with_rows",
]
