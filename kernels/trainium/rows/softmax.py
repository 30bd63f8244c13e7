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
            loaded = pieces.load(number)
            peak = tensor_reduce(peak, loaded, op="max")
            return tensor_tensor(maximum, maximum, peak, op="max")

        def summed(total: Sbuf, number: KnownInt) -> Sbuf:
            loaded = pieces.load(number)
            # Thrown away once summed, since a row need not fit SBUF; the last pass computes them
            # again.
            exponentials = _exp(loaded, bias, buffers)
            added = column()
            added = tensor_reduce(added, exponentials, op="add")
            return tensor_tensor(total, total, added, op="add")

        # Below any element, so that the first piece needs no case of its own.
        maximum = memset(column(), value=LOWEST)
        maximum = loop(highest, maximum, pieces.count)
        bias = _negative(maximum, buffers)
        total = memset(column(), value=0.0)
        total = loop(summed, total, pieces.count)
        return _quotients(pieces, bias, total, x.dtype)

    by_tile = row_tiles(x)
    return lax.map(row_tile, by_tile)


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
            # Pieces (1, 2) and (4): e⁻¹ + 1 = 1.368 to begin with; then the maximum rises by 2, and
            # 1.368 · e⁻² + 1 = 1.185, as e⁻³ + e⁻² + 1 would have been at once.
            lane = absorb(weights, loaded, state, buffers=buffers)
            # Alone it has nobody to take turns with: pieces overlap by their buffers instead.
            (taken_in,) = in_turn([lane])
            return add_up(
                taken_in.added,
                taken_in.decay,
                taken_in.state,
            )

        rows = x.shape[0]
        state = begin(rows, buffers=buffers)
        state = loop(seen, state, pieces.count)
        bias = _negative(state.maximum, buffers)
        return _quotients(pieces, bias, state.total, x.dtype)

    by_tile = row_tiles(x)
    return lax.map(row_tile, by_tile)


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
        rows = x.shape[0]
        loaded = fetch(x, buffers=buffers)

        def column() -> Sbuf:
            return sbuf(rows, 1, buffers=buffers)

        maximum = column()
        maximum = tensor_reduce(maximum, loaded, op="max")
        bias = _negative(maximum, buffers)
        exponentials = sbuf(*x.shape, buffers=buffers)
        total = column()
        # The Scalar Engine adds up what it writes, so the sum costs no pass of its own.
        exponentials, total = activation_reduce(
            exponentials,
            total,
            loaded,
            bias,
            op="exp",
        )
        inverse = column()
        inverse = reciprocal(inverse, total)
        quotient = sbuf(*x.shape, dtype=x.dtype, buffers=buffers)
        quotient = tensor_scalar(
            quotient,
            exponentials,
            inverse,
            op="multiply",
        )
        return dma_store(quotient)

    by_tile = row_tiles(x)
    quotients = lax.map(row_tile, by_tile)
    return quotients.reshape(x.shape)


def _pieces(x: Hbm, most: int, buffers: int) -> Pieces:
    """The pieces of a row tile, of at most some elements of a row."""
    row = x.shape[1]
    # Equal pieces, for one loop: of 5,000 elements at most 2,048 are 1,250.
    size = largest_divisor(row, most)
    count = row // size

    def load(number: KnownInt) -> Sbuf:
        start = number * size
        source = part(x, start, size, axis=1)
        return fetch(source, buffers=buffers)

    return Pieces(load, count, buffers)


def _negative(column: Sbuf, buffers: int) -> Sbuf:
    """`exp(x - m)` is an activation with the bias `-m`: the Scalar Engine adds it on its way."""
    negative = sbuf(*column.shape, buffers=buffers)
    return tensor_immediate(
        negative,
        column,
        op="multiply",
        value=-1.0,
    )


def _exp(piece: Sbuf, bias: Sbuf, buffers: int) -> Sbuf:
    exponentials = sbuf(*piece.shape, buffers=buffers)
    return activation_bias(exponentials, piece, bias, op="exp")


def _quotients(
    pieces: Pieces,
    bias: Sbuf,
    total: Sbuf,
    dtype: DType,
) -> Hbm:
    """The last pass: `exp(x + bias) / total`, stored piece by piece."""
    buffers = pieces.buffers
    # One reciprocal a row, then a product an element.
    inverse = sbuf(*total.shape, buffers=buffers)
    inverse = reciprocal(inverse, total)

    def quotient(number: KnownInt) -> Hbm:
        loaded = pieces.load(number)
        exponentials = _exp(loaded, bias, buffers)
        tile = sbuf(*exponentials.shape, dtype=dtype, buffers=buffers)
        tile = tensor_scalar(tile, exponentials, inverse, op="multiply")
        return dma_store(tile)

    numbers = jnp.arange(pieces.count, dtype=jnp.int32)
    return lax.map(quotient, numbers)
