"""Flash attention's inner step on a NeuronCore, for one query tile and one key tile."""

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
from jax import lax

from emu.trainium.engines.memory import dma_load_tiles, psum, sbuf
from emu.trainium.isa import (
    activation,
    affine_select,
    memset,
    nc_matmul,
    nc_transpose,
    reciprocal,
    scalar_tensor_tensor,
    tensor_copy,
    tensor_scalar,
)
from kernels.trainium.flash.lanes import Lane
from kernels.trainium.flash.online_softmax import LOWEST, State, absorb, add_up, begin
from kernels.trainium.streaming import fetch
from kernels.trainium.tiles import PARTITIONS, index, largest_divisor, part

# Unnormalised output [rows, value_dim], online softmax: in SBUF.
Attended = tuple[Any, State]
Masked = Callable[[Any], Lane]  # scores in PSUM to scores in SBUF, some of them masked


class Ring:
    """Tiles used in turn: as many uses overlap as there are tiles."""

    def __init__(self, *tiles: Any):
        self.tiles = list(tiles)

    def take(self) -> Any:
        """The tile whose last use is longest ago; what is written to it must be given back."""
        return self.tiles.pop(0)

    def give(self, written: Any) -> Any:
        """Puts a written tile at the end of the queue, and returns it."""
        self.tiles.append(written)
        return written


Banks = tuple[Ring, Ring, Ring]  # of scores, transposed weights, weighted values


@dataclasses.dataclass(frozen=True)
class FlashTiling:
    """How attention is cut into tiles, and how deep its rings are.

    Attributes:
      value_dim: features of a value, at most 512.
      rows: queries of a tile, at most 128.
      columns: keys of a tile, as many as one matmul moves.
      keys: keys of the part of a tile that is transposed at once, at most 128: they stand on
        partitions then.
      buffers: depth of the rings of tiles.
      dtype: of queries, keys, values and weights; scores and sums are float32.
      scale: factor of the scores.
      scalar_copies: how many of a tile's transposes the Scalar Engine takes out of PSUM, so that
        it relieves the Vector Engine.
      turned: dtype of transposed weights in PSUM, by default the weights' own: 16 bits for 8-bit
        floats, float32 on NeuronCore-v2, whatever they are.
    """

    value_dim: int
    rows: int
    columns: int
    keys: int
    buffers: int
    dtype: Any
    scale: float
    scalar_copies: int = 0
    turned: Any = None

    @classmethod
    def of(
        cls, q: Any, rows: int, columns: int, buffers: int, scalar_copies: int = 0
    ) -> "FlashTiling":
        """The largest tiles within `rows` and `columns` that divide the T of `q [.., D, T]`."""
        head_dim, tokens = q.shape[-2:]
        rows = largest_divisor(tokens, rows)
        columns = largest_divisor(tokens, columns)
        keys = largest_divisor(columns, PARTITIONS)
        scale = 1 / math.sqrt(head_dim)
        return cls(
            head_dim, rows, columns, keys, buffers, q.dtype, scale, scalar_copies
        )


# --- load ---


def load_tokens(x: Any, i: Any, count: int, s: FlashTiling) -> Any:
    """The `i`-th `count` tokens of HBM `[D, T]`, queries or keys: SBUF `[D, count]`."""
    return fetch(part(x, i * count, count, axis=1), buffers=s.buffers)


def load_values(v: Any, j: Any, s: FlashTiling) -> Any:
    """Value tile `j` of HBM `[T, D]` with keys on partitions: SBUF `[keys, columns / keys, D]`."""
    pieces = part(v, j * s.columns, s.columns, axis=0).reshape(-1, s.keys, s.value_dim)
    dst = sbuf(s.keys, len(pieces), s.value_dim, dtype=v.dtype, buffers=s.buffers)
    return dma_load_tiles(dst, pieces)


# --- attend ---


def step_banks(s: FlashTiling) -> Banks:
    """PSUM's eight banks: scores, transposed weights (one bank for those of a tile), products."""
    scores = [psum(s.rows, s.columns) for _ in range(4)]
    shape = (s.keys, s.rows)
    pieces = range(s.columns // s.keys)
    dtype = s.turned or s.dtype
    turned = [psum(*shape, dtype=dtype, bank=n) for n in range(2) for _ in pieces]
    products = [psum(s.rows, s.value_dim) for _ in range(2)]
    return Ring(*scores), Ring(*turned), Ring(*products)


def empty(s: FlashTiling) -> Attended:
    """What a query tile has attended to before its first key."""
    out = sbuf(s.rows, s.value_dim, buffers=s.buffers)
    return memset(out, value=0.0, engine="gpsimd"), begin(s.rows, buffers=s.buffers)


def attend(
    q: Any,
    k: Any,
    v: Any,
    done: Attended,
    masked: Masked | None,
    banks: Banks,
    s: FlashTiling,
) -> Lane:
    """A lane that attends one query tile to one key tile.

    Args:
      q: SBUF `[D, rows]`; where more than 128 features are contracted, a list of such parts.
      k: SBUF `[D, columns]`, likewise.
      v: SBUF `[keys, columns / keys, value_dim]`.
      done: what the query tile attended to before.
      masked: takes scores out of PSUM with those that do not count put far below all others;
        None masks nothing.
      banks: from `step_banks`.
      s: sizes.

    Returns:
      What it attended to now.

    Pseudocode:
      x = q k; p = online softmax of x; pᵀ by 128 keys; out = out · decay + p v
    """
    score_banks, turn_banks, product_banks = banks
    out, state = done
    x = score_banks.give(_scores(score_banks.take(), q, k))
    yield
    if masked is not None:
        x = yield from masked(x)
    p = sbuf(*x.shape, dtype=s.dtype, buffers=s.buffers)
    softmax = absorb(p, x, state, scale=s.scale, buffers=s.buffers)
    p, added, decay, state = yield from softmax
    yield
    starts = range(0, s.columns, s.keys)
    pieces = [lax.slice_in_dim(p, a, a + s.keys, axis=1) for a in starts]
    pieces = [
        turn_banks.give(nc_transpose(turn_banks.take(), piece)) for piece in pieces
    ]
    yield
    pieces = [_copied(n, bank, s) for n, bank in enumerate(pieces)]
    products = product_banks.give(_products(product_banks.take(), pieces, v))
    yield
    state = add_up(added, decay, state)
    return scalar_tensor_tensor(
        out, out, decay, products, op0="multiply", op1="add"
    ), state


def _scores(bank: Any, q: Any, k: Any) -> Any:
    """`q k` in PSUM, accumulated over parts of the features."""
    parts = zip(q, k, strict=True) if isinstance(q, list) else [(q, k)]
    for n, (rows, columns) in enumerate(parts):
        bank = nc_matmul(bank, rows, columns, jnp.int32(n > 0))
    return bank


def after_diagonal(x: Any, offset: Any, s: FlashTiling) -> Lane:
    """Masks keys that follow their query; PSUM to SBUF, as GpSimd cannot read PSUM.

    Args:
      x: PSUM scores `[rows, columns]`.
      offset: first query's position minus first key's, a known integer.
      s: sizes.
    """
    copied = activation(sbuf(*x.shape, buffers=s.buffers), x, op="copy")
    yield
    copied = affine_select(copied, copied, offset, fill=LOWEST)
    yield
    return copied


def _copied(n: int, bank: Any, s: FlashTiling) -> Any:
    """Piece `n` of the transposed weights, out of PSUM."""
    dst = sbuf(*bank.shape, dtype=s.dtype, buffers=s.buffers)
    return tensor_copy(dst, bank, engine="scalar" if n < s.scalar_copies else "vector")


def _products(sums: Any, pieces: list[Any], v: Any) -> Any:
    """`p v` in PSUM, accumulated over the pieces of p."""
    for n, piece in enumerate(pieces):
        sums = nc_matmul(sums, piece, index(v, n, 1), jnp.int32(n > 0))
    return sums


def normalised(lanes: list[Attended], s: FlashTiling) -> list[Any]:
    """The attention output of query tiles: SBUF `[rows, value_dim]` each."""

    def scaled(out: Any, inverse: Any) -> Any:
        y = sbuf(s.rows, s.value_dim, dtype=s.dtype, buffers=s.buffers)
        return tensor_scalar(y, out, inverse, op="multiply")

    columns = (sbuf(s.rows, 1, buffers=s.buffers) for _ in lanes)
    totals = [total for _, (_, total, _) in lanes]
    inverses = [reciprocal(*x) for x in zip(columns, totals, strict=True)]
    return [
        scaled(out, inverse) for (out, _), inverse in zip(lanes, inverses, strict=True)
    ]
