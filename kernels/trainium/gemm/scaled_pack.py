"""Weights in codes with a scale for each output column, laid out so that each load is one
contiguous read."""

import math
from types import ModuleType
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

from kernels.formats.coding import coded
from kernels.formats.formats import Format
from kernels.trainium.gemm.operands import ROWS_AT_ONCE, DoubleRows, Weight
from kernels.trainium.gemm.scaled import ScaledWeight
from kernels.trainium.tiles import CHUNK_BYTES, Array, largest_divisor, pack


class Columns(NamedTuple):
    """A matrix in codes, as it is dealt out and joined with others along its columns.

    Attributes:
      codes: `[..., K, N]`.
      scale: float32 `[..., 1, N]`; of a format with one for the matrix each column has that.
    """

    codes: Array
    scale: Array


def in_columns(weight: Array, held: Format, xp: ModuleType = np) -> Columns:
    """A matrix `[..., K, N]` in a format whose scales are of columns or of all."""
    codes, scales = coded(weight, held)
    assert scales is not None and scales.shape[-2] == 1
    wide = jnp.broadcast_to(scales, (*scales.shape[:-1], weight.shape[-1]))
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
        packed = jnp.asarray(pack(codes, rows, columns, xp))
    return ScaledWeight(packed, jnp.asarray(by_block))


def _double_rows(codes: Array, rows: int, columns: int, xp: ModuleType) -> Array:
    """`[..., blocks, chunks, rows, depth, 2, columns]`; tile `2 d + t` is place t of depth d."""
    *lead, k, n = codes.shape
    pairs = math.ceil(k / (rows * ROWS_AT_ONCE))
    blocks = math.ceil(n / columns)
    missing = (0, pairs * ROWS_AT_ONCE * rows - k), (0, blocks * columns - n)
    padded = xp.pad(codes, [(0, 0)] * len(lead) + list(missing))
    depth = largest_divisor(pairs, CHUNK_BYTES // (ROWS_AT_ONCE * columns))
    cut = padded.reshape(
        *lead, pairs // depth, depth, ROWS_AT_ONCE, rows, blocks, columns
    )
    chunk, deep, place, row, block, column = range(len(lead), len(lead) + 6)
    order = block, chunk, row, deep, place, column
    return cut.transpose(*range(len(lead)), *order)


__all__ = ["Columns", "in_columns", "pack_scaled"]
