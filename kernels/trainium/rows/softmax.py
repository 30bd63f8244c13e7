"""Softmax over rows in three forms: three passes over HBM, online in two, a whole row in SBUF."""

from collections.abc import Callable
from typing import NamedTuple

import jax.numpy as jnp
from jax import lax

from emu.annotations import DType, KnownInt
from emu.tracing.loop import loop
from emu.trainium.engines.memory import dma_store, sbuf
from emu.trainium.isa import (
    activation_bias,
    activation_reduce,
    memset,
    reciprocal,
    tensor_immediate,
    tensor_reduce,
    tensor_scalar,
    tensor_tensor,
)
from emu.trainium.spaces import Hbm, Sbuf
from kernels.trainium.flash.lanes import in_turn
from kernels.trainium.flash.online_softmax import (
    LOWEST,
    RunningSoftmax,
    absorb,
    add_up,
    begin,
)
from kernels.trainium.streaming import fetch, row_tiles
from kernels.trainium.tiles import largest_divisor, part


class Pieces(NamedTuple):
    """A row tile piece by piece.

    Attributes:
      load: `number -> SBUF`, loads a piece.
      count: of pieces.
      buffers: depth of every ring of tiles.
    """

    load: Callable[[KnownInt], Sbuf]
    count: int
    buffers: int


def softmax_three_pass(x: Hbm, *, piece: int = 2048, buffers: int = 1) -> Hbm:
    """Softmax of long rows as the formula reads: maximum, sum and quotient, each from HBM.

    Dimensions:
      R: rows, in tiles of `r` (≤ 128). N: elements of a row, in pieces of `n` (≤ `piece`); a row
      need not fit SBUF.

    Args:
      x: HBM `[R, N]`.
      piece: most elements of a row in one tile.
      buffers: depth of every ring of tiles.

    Returns:
      HBM `[R/r, N/n, r, n]`, dtype of `x`; exponentials and sums in float32.

    Pseudocode:
      for rows: m = max over pieces; s = sum of exp(x - m) over pieces; y = exp(x - m) / s by piece
    """

    def row_tile(x: Hbm) -> Hbm:
        rows = x.shape[0]
        pieces = _pieces(x, piece, buffers)

        def column() -> Sbuf:
            return sbuf(rows, 1, buffers=buffers)

        def highest(maximum: Sbuf, number: KnownInt) -> Sbuf:
            peak = column()
            peak = tensor_reduce(peak, pieces.load(number), op="max")
            return tensor_tensor(maximum, maximum, peak, op="max")

        def summed(total: Sbuf, number: KnownInt) -> Sbuf:
            exponentials = _exp(pieces.load(number), bias, buffers)
            added = tensor_reduce(column(), exponentials, op="add")
            return tensor_tensor(total, total, added, op="add")

        maximum = memset(column(), value=LOWEST)
        maximum = loop(highest, maximum, pieces.count)
        bias = _negative(maximum, buffers)
        total = memset(column(), value=0.0)
        total = loop(summed, total, pieces.count)
        return _quotients(pieces, bias, total, x.dtype)

    return lax.map(row_tile, row_tiles(x))


def softmax_online(x: Hbm, *, piece: int = 2048, buffers: int = 2) -> Hbm:
    """Softmax of long rows in two passes: maximum and sum together, then the quotient.

    Dimensions:
      As for `softmax_three_pass`.

    Args:
      x: HBM `[R, N]`.
      piece: most elements of a row in one tile.
      buffers: depth of every ring of tiles.

    Returns:
      HBM `[R/r, N/n, r, n]`, dtype of `x`; exponentials and sums in float32.

    Pseudocode:
      for rows: m, s = online softmax of the pieces; y = exp(x - m) / s by piece
    """

    def row_tile(x: Hbm) -> Hbm:
        pieces = _pieces(x, piece, buffers)

        def seen(state: RunningSoftmax, number: KnownInt) -> RunningSoftmax:
            loaded = pieces.load(number)
            weights = sbuf(*loaded.shape, buffers=buffers)  # only their sum is wanted
            lane = absorb(weights, loaded, state, buffers=buffers)
            (taken_in,) = in_turn([lane])
            return add_up(taken_in.added, taken_in.decay, taken_in.state)

        state = begin(x.shape[0], buffers=buffers)
        state = loop(seen, state, pieces.count)
        bias = _negative(state.maximum, buffers)
        return _quotients(pieces, bias, state.total, x.dtype)

    return lax.map(row_tile, row_tiles(x))


def softmax_fused(x: Hbm, *, buffers: int = 2) -> Hbm:
    """Softmax of rows that fit SBUF: loaded once, exponentials and their sum in one instruction.

    Dimensions:
      R: rows, in tiles of at most 128. N: elements of a row.

    Args:
      x: HBM `[R, N]`.
      buffers: depth of every ring of tiles.

    Returns:
      HBM `[R, N]`, dtype of `x`; exponentials and sums in float32.

    Pseudocode:
      for rows: m = max(x); p, s = exp(x - m) and its sum; y = p / s
    """

    def row_tile(x: Hbm) -> Hbm:
        loaded = fetch(x, buffers=buffers)

        def column() -> Sbuf:
            return sbuf(x.shape[0], 1, buffers=buffers)

        maximum = tensor_reduce(column(), loaded, op="max")
        bias = _negative(maximum, buffers)
        exponentials = sbuf(*x.shape, buffers=buffers)
        total = column()
        exponentials, total = activation_reduce(
            exponentials, total, loaded, bias, op="exp"
        )
        inverse = reciprocal(column(), total)
        quotient = sbuf(*x.shape, dtype=x.dtype, buffers=buffers)
        quotient = tensor_scalar(quotient, exponentials, inverse, op="multiply")
        return dma_store(quotient)

    tiles = lax.map(row_tile, row_tiles(x))
    return tiles.reshape(x.shape)


def _pieces(x: Hbm, most: int, buffers: int) -> Pieces:
    """The pieces of a row tile, of at most some elements of a row."""
    row = x.shape[1]
    size = largest_divisor(row, most)

    def load(number: KnownInt) -> Sbuf:
        source = part(x, number * size, size, axis=1)
        return fetch(source, buffers=buffers)

    return Pieces(load, row // size, buffers)


def _negative(column: Sbuf, buffers: int) -> Sbuf:
    negative = sbuf(*column.shape, buffers=buffers)
    return tensor_immediate(negative, column, op="multiply", value=-1.0)


def _exp(piece: Sbuf, bias: Sbuf, buffers: int) -> Sbuf:
    exponentials = sbuf(*piece.shape, buffers=buffers)
    return activation_bias(exponentials, piece, bias, op="exp")


def _quotients(pieces: Pieces, bias: Sbuf, total: Sbuf, dtype: DType) -> Hbm:
    """The last pass: `exp(x + bias) / total`, stored piece by piece."""
    inverse = sbuf(*total.shape, buffers=pieces.buffers)
    inverse = reciprocal(inverse, total)

    def quotient(number: KnownInt) -> Hbm:
        exponentials = _exp(pieces.load(number), bias, pieces.buffers)
        tile = sbuf(*exponentials.shape, dtype=dtype, buffers=pieces.buffers)
        tile = tensor_scalar(tile, exponentials, inverse, op="multiply")
        return dma_store(tile)

    return lax.map(quotient, jnp.arange(pieces.count, dtype=jnp.int32))
