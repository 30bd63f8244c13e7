"""Flash attention's inner step on a NeuronCore, for one query tile and one key tile."""

import dataclasses
import math
from typing import Any

import jax.numpy as jnp
from jax import lax

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
from emu.trainium.memory import dma_load_tiles, psum, sbuf
from kernels.trainium.lanes import Lane
from kernels.trainium.online_softmax import LOWEST, State, absorb, add_up, begin
from kernels.trainium.streaming import fetch
from kernels.trainium.tiling import PARTITIONS, index, largest_divisor, part

Attended = tuple[Any, State]  # unnormalised output [rows, D] and online softmax, in SBUF


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
      head_dim: features of a head, at most 128.
      rows: queries of a tile, at most 128.
      columns: keys of a tile, as many as one matmul moves.
      buffers: depth of the rings of tiles.
      dtype: of queries, keys, values and weights; scores and sums are float32.
      scalar_copies: how many of a tile's transposes the Scalar Engine takes out of PSUM, so that
        it relieves the Vector Engine.
    """

    head_dim: int
    rows: int
    columns: int
    buffers: int
    dtype: Any
    scalar_copies: int = 0

    @classmethod
    def of(
        cls, q: Any, rows: int, columns: int, buffers: int, scalar_copies: int = 0
    ) -> "FlashTiling":
        """The largest tiles within `rows` and `columns` that divide the T of `q [.., D, T]`."""
        head_dim, tokens = q.shape[-2:]
        rows, columns = largest_divisor(tokens, rows), largest_divisor(tokens, columns)
        return cls(head_dim, rows, columns, buffers, q.dtype, scalar_copies)

    @property
    def keys(self) -> int:
        """Keys of the part of a tile that is transposed at once: keys stand on partitions then."""
        return largest_divisor(self.columns, PARTITIONS)

    @property
    def scale(self) -> float:
        return 1 / math.sqrt(self.head_dim)


# --- load ---


def load_tokens(x: Any, i: Any, count: int, s: FlashTiling) -> Any:
    """The `i`-th `count` tokens of HBM `[D, T]`, queries or keys: SBUF `[D, count]`."""
    return fetch(part(x, i * count, count, axis=1), buffers=s.buffers)


def load_values(v: Any, j: Any, s: FlashTiling) -> Any:
    """Value tile `j` of HBM `[T, D]` with keys on partitions: SBUF `[keys, columns / keys, D]`."""
    pieces = part(v, j * s.columns, s.columns, axis=0).reshape(-1, s.keys, s.head_dim)
    dst = sbuf(s.keys, len(pieces), s.head_dim, dtype=v.dtype, buffers=s.buffers)
    return dma_load_tiles(dst, pieces)


# --- attend ---


def step_banks(s: FlashTiling) -> Banks:
    """PSUM's eight banks: scores, transposed weights (one bank for those of a tile), products."""
    scores = [psum(s.rows, s.columns) for _ in range(4)]
    shape, pieces = (s.keys, s.rows), range(s.columns // s.keys)
    turned = [psum(*shape, dtype=s.dtype, bank=n) for n in range(2) for _ in pieces]
    products = [psum(s.rows, s.head_dim) for _ in range(2)]
    return Ring(*scores), Ring(*turned), Ring(*products)


def empty(s: FlashTiling) -> Attended:
    """What a query tile has attended to before its first key."""
    out = sbuf(s.rows, s.head_dim, buffers=s.buffers)
    return memset(out, value=0.0, engine="gpsimd"), begin(s.rows, buffers=s.buffers)


def attend(
    q: Any, k: Any, v: Any, done: Attended, offset: Any, banks: Banks, s: FlashTiling
) -> Lane:
    """A lane that attends one query tile to one key tile.

    Args:
      q: SBUF `[D, rows]`.
      k: SBUF `[D, columns]`.
      v: SBUF `[keys, columns / keys, D]`.
      done: what the query tile attended to before.
      offset: first query's position minus first key's, where keys that follow their query are
        masked; None masks nothing.
      banks: from `step_banks`.
      s: sizes.

    Returns:
      What it attended to now.

    Pseudocode:
      x = q k; p = online softmax of x; pᵀ by 128 keys; out = out · decay + p v
    """
    score_banks, turn_banks, product_banks = banks
    out, state = done
    x = score_banks.give(nc_matmul(score_banks.take(), q, k, jnp.int32(0)))
    yield
    if offset is not None:
        x = yield from _masked(x, offset, s)
    p = sbuf(*x.shape, dtype=s.dtype, buffers=s.buffers)
    softmax = absorb(p, x, state, scale=s.scale, buffers=s.buffers)
    p, added, decay, state = yield from softmax
    yield
    starts = range(0, s.columns, s.keys)
    pieces = [lax.slice_in_dim(p, a, a + s.keys, axis=1) for a in starts]
    pieces = [turn_banks.give(nc_transpose(turn_banks.take(), piece)) for piece in pieces]
    yield
    pieces = [_copied(n, bank, s) for n, bank in enumerate(pieces)]
    products = product_banks.give(_products(product_banks.take(), pieces, v))
    yield
    state = add_up(added, decay, state)
    return scalar_tensor_tensor(out, out, decay, products, op0="multiply", op1="add"), state


def _masked(x: Any, offset: Any, s: FlashTiling) -> Lane:
    """Puts -1e30 where a key follows its query; PSUM to SBUF, as GpSimd cannot read PSUM."""
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
    """The attention output of query tiles: SBUF `[rows, D]` each."""

    def scaled(out: Any, inverse: Any) -> Any:
        y = sbuf(s.rows, s.head_dim, dtype=s.dtype, buffers=s.buffers)
        return tensor_scalar(y, out, inverse, op="multiply")

    columns = (sbuf(s.rows, 1, buffers=s.buffers) for _ in lanes)
    totals = [total for _, (_, total, _) in lanes]
    inverses = [reciprocal(*x) for x in zip(columns, totals, strict=True)]
    return [scaled(out, inverse) for (out, _), inverse in zip(lanes, inverses, strict=True)]
