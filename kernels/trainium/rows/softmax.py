"""Softmax over rows in three forms: three passes over HBM, online in two, a whole row in SBUF."""

from typing import Any

import jax.numpy as jnp
from jax import lax

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
from kernels.trainium.flash.lanes import in_turn
from kernels.trainium.flash.online_softmax import LOWEST, absorb, add_up, begin
from kernels.trainium.streaming import fetch, row_tiles
from kernels.trainium.tiles import largest_divisor, part


def softmax_three_pass(x: Any, *, piece: int = 2048, buffers: int = 1) -> Any:
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

    def row_tile(_: None, x: Any) -> tuple[None, Any]:
        rows, load, pieces = x.shape[0], *_pieces(x, piece, buffers)

        def highest(m: Any, i: Any) -> tuple[Any, None]:
            peak = tensor_reduce(sbuf(rows, 1, buffers=buffers), load(i), op="max")
            return tensor_tensor(m, m, peak, op="max"), None

        def summed(total: Any, i: Any) -> tuple[Any, None]:
            p = _exp(load(i), bias, buffers)
            added = tensor_reduce(sbuf(rows, 1, buffers=buffers), p, op="add")
            return tensor_tensor(total, total, added, op="add"), None

        m, _ = lax.scan(
            highest, memset(sbuf(rows, 1, buffers=buffers), value=LOWEST), pieces
        )
        bias = _negative(m, buffers)
        total = memset(sbuf(rows, 1, buffers=buffers), value=0.0)
        total, _ = lax.scan(summed, total, pieces)
        return None, _quotients(load, pieces, bias, total, x.dtype, buffers)

    return lax.scan(row_tile, None, row_tiles(x))[1]


def softmax_online(x: Any, *, piece: int = 2048, buffers: int = 2) -> Any:
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

    def row_tile(_: None, x: Any) -> tuple[None, Any]:
        rows, load, pieces = x.shape[0], *_pieces(x, piece, buffers)

        def seen(state: Any, i: Any) -> tuple[Any, None]:
            x = load(i)
            p = sbuf(*x.shape, buffers=buffers)  # only its sum is wanted
            ((_, added, decay, state),) = in_turn(
                [absorb(p, x, state, buffers=buffers)]
            )
            return add_up(added, decay, state), None

        (m, total, _), _ = lax.scan(seen, begin(rows, buffers=buffers), pieces)
        return None, _quotients(
            load, pieces, _negative(m, buffers), total, x.dtype, buffers
        )

    return lax.scan(row_tile, None, row_tiles(x))[1]


def softmax_fused(x: Any, *, buffers: int = 2) -> Any:
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

    def row_tile(_: None, x: Any) -> tuple[None, Any]:
        tile = fetch(x, buffers=buffers)
        column = (x.shape[0], 1)
        bias = _negative(
            tensor_reduce(sbuf(*column, buffers=buffers), tile, op="max"), buffers
        )
        p = sbuf(*x.shape, buffers=buffers)
        total = sbuf(*column, buffers=buffers)
        p, total = activation_reduce(p, total, tile, bias, op="exp")
        inverse = reciprocal(sbuf(*column, buffers=buffers), total)
        y = sbuf(*x.shape, dtype=x.dtype, buffers=buffers)
        return None, dma_store(tensor_scalar(y, p, inverse, op="multiply"))

    return lax.scan(row_tile, None, row_tiles(x))[1].reshape(x.shape)


def _pieces(x: Any, piece: int, buffers: int) -> tuple[Any, Any]:
    """How piece `i` of a row tile is loaded, and the loop over the pieces."""
    n = largest_divisor(x.shape[1], piece)
    load = lambda i: fetch(part(x, i * n, n, axis=1), buffers=buffers)  # noqa: E731
    return load, jnp.arange(x.shape[1] // n)


def _negative(x: Any, buffers: int) -> Any:
    return tensor_immediate(
        sbuf(*x.shape, buffers=buffers), x, op="multiply", value=-1.0
    )


def _exp(x: Any, bias: Any, buffers: int) -> Any:
    return activation_bias(sbuf(*x.shape, buffers=buffers), x, bias, op="exp")


def _quotients(
    load: Any, pieces: Any, bias: Any, total: Any, dtype: Any, buffers: int
) -> Any:
    """The last pass: `exp(x + bias) / total`, stored piece by piece."""
    inverse = reciprocal(sbuf(*total.shape, buffers=buffers), total)

    def quotient(_: None, i: Any) -> tuple[None, Any]:
        p = _exp(load(i), bias, buffers)
        y = sbuf(*p.shape, dtype=dtype, buffers=buffers)
        return None, dma_store(tensor_scalar(y, p, inverse, op="multiply"))

    return lax.scan(quotient, None, pieces)[1]
