"""Weights in codes with scales of output columns, or of blocks, laid out so that each load is one
contiguous read."""

import math
from types import ModuleType
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

from emu.trainium.datasheets.limits import QUADRANT
from kernels.formats.coding import coded
from kernels.formats.formats import Format
from kernels.trainium.gemm.operands import ROWS_AT_ONCE, DoubleRows, Weight
from kernels.trainium.gemm.scaled import BlockWeight, ScaledWeight
from kernels.trainium.gemm.widened import NIBBLE_ZERO, Nibbles
from kernels.trainium.tiles import CHUNK_BYTES, Array, largest_divisor

WIDE_BYTES = 2  # of bfloat16
# Integers of 4 bits of a partition that are made wide at once: with their scales, which are float32
# and spread over partitions, they take more than ten bytes each on the way.
NIBBLES_AT_ONCE = 1024
BLOCK = 128  # features and columns that share a scale, where these are of blocks


class Columns(NamedTuple):
    """A matrix in codes, as it is dealt out and joined with others along its columns.

    Attributes:
      codes: `[..., K, N]`.
      scale: float32 `[..., blocks of K, N]`, one block or several; each column has that of its
        block of columns, or of the matrix.
    """

    codes: Array
    scale: Array

    def of_rows(self, rows: np.ndarray, codes: Array, xp: ModuleType) -> "Columns":
        """A part with some rows, or several parts.

        Args:
          rows: int `[parts, n]`, which of K, negative where there is none; those of one of the
            part's blocks are all of one block.
          codes: of the parts, `[..., parts, n, N]`, of one part `[..., n, N]`.
          xp: numpy, or jax.numpy.
        """
        parts, count = rows.shape
        if self.scale.shape[-2] == 1:
            own = np.zeros((parts, 1), int)
        else:
            missing = [(0, 0), (0, -count % BLOCK)]
            padded = np.pad(rows, missing, constant_values=-1)
            own = np.maximum(padded.reshape(parts, -1, BLOCK).max(-1), 0) // BLOCK
        scale = xp.take(self.scale, own.ravel(), axis=-2)
        if parts > 1:
            *lead, _, columns = scale.shape
            scale = scale.reshape(*lead, parts, -1, columns)
        return Columns(codes, scale)


def in_columns(weight: Array, held: Format, xp: ModuleType = np) -> Columns:
    """A matrix `[..., K, N]` in a format whose scales are of columns, of all, or of blocks."""
    codes, scales = coded(weight, held)
    assert scales is not None and held.block is not None
    _, across = held.block
    columns = weight.shape[-1]
    wide = jnp.repeat(scales, across or columns, axis=-1)[..., :columns]
    if across == 1:
        wide = scales
    return Columns(xp.asarray(codes), xp.asarray(wide))


def pack_scaled(
    matrix: Columns, rows: int, columns: int, *, double: bool, xp: ModuleType = np
) -> ScaledWeight:
    """As `gemm.scaled.product` loads it.

    4,096 x 1,024 in FP8 on tiles of 128 x 512 has 16 double rows of 256, 8 of them a chunk, and 2
    blocks of columns: codes `[2, 2, 128, 8, 2, 512]` and scales `[2, 1, 512]`.

    Args:
      matrix: in codes.
      rows: of a contraction tile; K is padded with zeros to a multiple.
      columns: output columns a block; N likewise, its scales too.
      double: whether tiles enter the Tensor Engine two at once.
      xp: numpy, or jax.numpy where only shapes are wanted.
    """
    codes, scale = matrix
    *lead, _, n = scale.shape
    blocks = math.ceil(n / columns)
    missing = [(0, 0)] * (scale.ndim - 1) + [(0, blocks * columns - n)]
    by_block = xp.pad(scale, missing).reshape(*lead, blocks, 1, columns)
    packed: Weight
    if double:
        packed = DoubleRows(jnp.asarray(_double_rows(codes, rows, columns, xp)))
    else:
        # They are made wide, to two bytes each, and what is made wide at once should be a chunk.
        most = CHUNK_BYTES // (WIDE_BYTES * columns)
        packed = jnp.asarray(_tiles(codes, rows, columns, 1, most, xp)[..., 0, :])
    return ScaledWeight(packed, jnp.asarray(by_block))


def pack_blocks(
    matrix: Columns, columns: int, run: int, xp: ModuleType = np
) -> BlockWeight:
    """As `gemm.scaled.product` loads it: a contraction tile for each block of 128 of K.

    Args:
      matrix: in codes with scales of such blocks.
      columns: output columns a block; N is padded with zeros to a multiple.
      run: of these, how many neighbours share a scale.
      xp: numpy, or jax.numpy where only shapes are wanted.
    """
    codes, scale = matrix
    *lead, features, n = scale.shape
    blocks = math.ceil(n / columns)
    missing = [(0, 0)] * (scale.ndim - 1) + [(0, blocks * columns - n)]
    of_runs = xp.pad(scale, missing)[..., ::run]
    by_block = of_runs.reshape(*lead, features, blocks, columns // run)
    by_block = xp.moveaxis(by_block, -3, -2)[..., None, :, :]
    rows = BLOCK // ROWS_AT_ONCE
    packed = DoubleRows(jnp.asarray(_double_rows(codes, rows, columns, xp)))
    return BlockWeight(packed, jnp.asarray(by_block))


def pack_nibbles(
    weight: Array, held: Format, rows: int, columns: int, xp: ModuleType = np
) -> Nibbles:
    """A matrix `[..., K, N]` in integers of 4 bits as `gemm.operands.load_chunk` loads it.

    Args:
      weight: floats.
      held: the format, with a scale for each 32 rows of a column.
      rows: of a contraction tile, a multiple of 32; K is padded with zeros to whole tiles.
      columns: output columns a block, an even number; N likewise.
      xp: numpy, or jax.numpy where only shapes are wanted.
    """
    assert held.block == (QUADRANT, 1) and not rows % QUADRANT and not columns % 2
    *lead, k, n = weight.shape
    missing = [(0, 0)] * len(lead) + [(0, -k % rows), (0, -n % columns)]
    elements, scales = coded(xp.pad(weight, missing), held)
    assert scales is not None
    most = NIBBLES_AT_ONCE // columns
    integers = xp.asarray(elements) + NIBBLE_ZERO
    codes = xp.asarray(integers, np.uint8)
    tiled = _tiles(codes, rows, columns, 1, most, xp)[..., 0, :]
    low, high = tiled[..., : columns // 2], tiled[..., columns // 2 :]
    of_groups = _tiles(xp.asarray(scales), rows // QUADRANT, columns, 1, most, xp)[
        ..., 0, :
    ]
    return Nibbles(jnp.asarray(low | high << 4), jnp.asarray(of_groups))


def widened_bytes(held: Format) -> int:
    """Bytes of a partition that a chunk of codes takes in SBUF besides its wide form."""
    if held.element_bits == 8:
        return CHUNK_BYTES // WIDE_BYTES
    # Half a byte of a code, one of it apart, two of its integer, and twice four of scales.
    return NIBBLES_AT_ONCE * (1 + 2 + 4 + 8 + 8) // 2


def _double_rows(codes: Array, rows: int, columns: int, xp: ModuleType) -> Array:
    """`[..., blocks, chunks, rows, depth, 2, columns]`; tile `2 d + t` is place t of depth d."""
    most = CHUNK_BYTES // (ROWS_AT_ONCE * columns)
    return _tiles(codes, rows, columns, ROWS_AT_ONCE, most, xp)


def _tiles(
    codes: Array, rows: int, columns: int, at_once: int, most: int, xp: ModuleType
) -> Array:
    """`[..., K, N]` as `[..., blocks, chunks, rows, depth, at once, columns]`.

    Tile `at_once · d + t` is place t of depth d, of which a chunk has `most` at most.
    """
    *lead, k, n = codes.shape
    deep_tiles = math.ceil(k / (rows * at_once))
    blocks = math.ceil(n / columns)
    missing = (0, deep_tiles * at_once * rows - k), (0, blocks * columns - n)
    padded = xp.pad(codes, [(0, 0)] * len(lead) + list(missing))
    depth = largest_divisor(deep_tiles, most)
    shape = deep_tiles // depth, depth, at_once, rows, blocks, columns
    cut = padded.reshape(*lead, *shape)
    chunk, deep, place, row, block, column = range(len(lead), len(lead) + 6)
    order = block, chunk, row, deep, place, column
    return cut.transpose(*range(len(lead)), *order)


__all__ = [
    "BLOCK",
    "Columns",
    "in_columns",
    "pack_blocks",
    "pack_nibbles",
    "pack_scaled",
    "widened_bytes",
]
