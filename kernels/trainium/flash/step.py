"""Flash attention's inner step on a NeuronCore, for one query tile and one key tile."""

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import NamedTuple, TypeAlias

import jax.numpy as jnp
from jax import lax

from emu.annotations import DType, KnownInt
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
from emu.trainium.spaces import Hbm, OnChip, Psum, Sbuf
from kernels.trainium.flash.lanes import Lane
from kernels.trainium.flash.online_softmax import (
    LOWEST,
    RunningSoftmax,
    absorb,
    add_up,
    begin,
)
from kernels.trainium.streaming import fetch
from kernels.trainium.tiles import PARTITIONS, index, largest_divisor, part

Masked: TypeAlias = Callable[[Psum], Lane[Sbuf]]
"""A lane that takes scores out of PSUM into SBUF, some of them put far below all others.

It yields before it reads them too: what it can do without them, it does while they are computed."""

# Eight banks. Scores stay the longest, from their matmul until the exponential has read them.
SCORE_BANKS = 4
TURN_BANKS = 2
PRODUCT_BANKS = 2


class Attended(NamedTuple):
    """What a query tile has attended to so far, in SBUF.

    Attributes:
      output: sum of weighted values, not yet divided by the sum of weights, `[rows, value_dim]`.
      softmax: maximum and sum of its rows.
    """

    output: Sbuf
    softmax: RunningSoftmax


class TileRing:
    """Tiles used in turn: as many uses overlap as there are tiles.

    An instruction gives a new array for the tile that it wrote, so the ring is told of it:
    `written = ring.give(nc_transpose(ring.take(), tile))`.
    """

    def __init__(self, *tiles: OnChip):
        self.tiles = list(tiles)

    def take(self) -> OnChip:
        """The tile whose last use is longest ago; what is written to it must be given back."""
        # A matmul that writes waits for the tile's last reader, and of all tiles this one's is
        # longest ago.
        return self.tiles.pop(0)

    def give(self, written: OnChip) -> OnChip:
        """Puts a written tile at the end of the queue, and returns it."""
        self.tiles.append(written)
        return written


@dataclasses.dataclass(frozen=True)
class Banks:
    """PSUM's eight banks, shared by the lanes of a block.

    Attributes:
      scores: `[rows, columns]` in float32; a tile fills a bank.
      turned: transposed weights, `[keys, rows]`; those of one key tile share a bank.
      products: weighted values, `[rows, value_dim]` in float32.
    """

    scores: TileRing
    turned: TileRing
    products: TileRing

    def transposed(self, piece: Sbuf) -> OnChip:
        """A piece of the weights, `[rows, keys]`, turned into the next of the banks for that."""
        bank = self.turned.take()
        bank = nc_transpose(bank, piece)
        return self.turned.give(bank)


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
    dtype: DType
    scale: float
    scalar_copies: int = 0
    turned: DType = None

    @classmethod
    def of(
        cls, q: Hbm, rows: int, columns: int, buffers: int, scalar_copies: int = 0
    ) -> "FlashTiling":
        """The largest tiles within `rows` and `columns` that divide the T of `q [.., D, T]`."""
        *_, head_dim, tokens = q.shape
        columns = largest_divisor(tokens, columns)
        return cls(
            value_dim=head_dim,
            rows=largest_divisor(tokens, rows),
            columns=columns,
            # A transpose puts keys on partitions: 512 of them are four pieces of 128.
            keys=largest_divisor(columns, PARTITIONS),
            buffers=buffers,
            dtype=q.dtype,
            # Takes no instruction: that of the exponential scales on its way.
            scale=1 / math.sqrt(head_dim),
            scalar_copies=scalar_copies,
        )

    @property
    def pieces(self) -> range:
        """Where the pieces of a key tile start that are transposed at once."""
        return range(0, self.columns, self.keys)


# --- load ---


def load_tokens(x: Hbm, place: KnownInt, count: int, tiling: FlashTiling) -> Sbuf:
    """The `place`-th `count` tokens of HBM `[D, T]`, queries or keys: SBUF `[D, count]`."""
    first = place * count
    own = part(x, first, count, axis=1)
    return fetch(own, buffers=tiling.buffers)


def load_values(v: Hbm, key_tile: KnownInt, tiling: FlashTiling) -> Sbuf:
    """A value tile of HBM `[T, D]` with keys on partitions: SBUF `[keys, columns / keys, D]`."""
    first = key_tile * tiling.columns
    own = part(v, first, tiling.columns, axis=0)
    # `p v` contracts keys, so they go on partitions, at most 128 a piece.
    pieces = own.reshape(-1, tiling.keys, tiling.value_dim)
    tile = sbuf(
        tiling.keys,
        len(pieces),
        tiling.value_dim,
        dtype=v.dtype,
        buffers=tiling.buffers,
    )
    return dma_load_tiles(tile, pieces)


# --- attend ---


def step_banks(tiling: FlashTiling) -> Banks:
    """PSUM's eight banks: scores, transposed weights (one bank for those of a tile), products."""
    dtype = tiling.turned or tiling.dtype
    scores = [psum(tiling.rows, tiling.columns) for _ in range(SCORE_BANKS)]
    turned = []
    for bank in range(TURN_BANKS):
        for _ in tiling.pieces:
            # Four pieces of 128 columns fit one bank, in 16 bits in half of its 2 KiB, in float32
            # in all of it.
            tile = psum(tiling.keys, tiling.rows, dtype=dtype, bank=bank)
            turned.append(tile)
    products = [psum(tiling.rows, tiling.value_dim) for _ in range(PRODUCT_BANKS)]
    return Banks(
        scores=TileRing(*scores),
        turned=TileRing(*turned),
        products=TileRing(*products),
    )


def empty(tiling: FlashTiling) -> Attended:
    """What a query tile has attended to before its first key."""
    # In float32: it takes a sum for every key tile, and would lose what is small beside it.
    output = sbuf(tiling.rows, tiling.value_dim, buffers=tiling.buffers)
    output = memset(output, value=0.0, engine="gpsimd")
    return Attended(output, begin(tiling.rows, buffers=tiling.buffers))


def attend(
    q: Sequence[Sbuf],
    k: Sequence[Sbuf],
    v: Sbuf,
    done: Attended,
    masked: Masked | None,
    banks: Banks,
    tiling: FlashTiling,
    factor: Sbuf | None = None,
) -> Lane[Attended]:
    """A lane that attends one query tile to one key tile.

    Args:
      q: SBUF `[features, rows]` for each part of the contracted features; at most 128 to a part, so
        that up to a head_dim of 128 there is one.
      k: SBUF `[features, columns]`, likewise.
      v: SBUF `[keys, columns / keys, value_dim]`.
      done: what the query tile attended to before.
      masked: takes the scores out of PSUM with those that do not count put far below all others;
        None masks nothing, and leaves them there.
      banks: from `step_banks`.
      tiling: sizes.
      factor: of each row's scores in place of the tiling's scale, see `absorb`.

    Returns:
      What it attended to now.

    Pseudocode:
      x = q k; p = online softmax of x; pᵀ by 128 keys; out = out · decay + p v
    """
    scores: OnChip = scores_of(q, k, banks)
    if masked is None:
        yield
    else:
        scores = yield from masked(scores)
    weights = sbuf(
        *scores.shape,
        dtype=tiling.dtype,
        buffers=tiling.buffers,
    )
    # Weights are rounded to the operands' dtype; their sum `added` is of the unrounded ones.
    weights, added, decay, softmax = yield from absorb(
        weights,
        scores,
        done.softmax,
        scale=tiling.scale,
        factor=factor,
        buffers=tiling.buffers,
    )
    yield
    products = yield from mixed(weights, v, banks, tiling)
    yield
    # Only now, so that the Vector Engine has brought the transposes out of PSUM first.
    softmax = add_up(added, decay, softmax)
    output = scalar_tensor_tensor(
        done.output,
        done.output,
        decay,
        products,
        op0="multiply",
        op1="add",
    )
    return Attended(output, softmax)


def scores_of(q: Sequence[Sbuf], k: Sequence[Sbuf], banks: Banks) -> OnChip:
    """`q k` in the next of the banks for that, accumulated over parts of the features."""
    bank = banks.scores.take()
    for place, (queries, keys) in enumerate(zip(q, k, strict=True)):
        accumulate = jnp.int32(place > 0)
        bank = nc_matmul(bank, queries, keys, accumulate)
    # Given back before it is read: the ring orders uses, and whoever takes the bank next waits for
    # its readers.
    return banks.scores.give(bank)


def mixed(weights: Sbuf, v: Sbuf, banks: Banks, tiling: FlashTiling) -> Lane[OnChip]:
    """A lane that sums values by weights `[rows, columns]`: PSUM `[rows, value_dim]`."""
    # Weights become stationary in `p v`: keys, which are contracted, must stand on partitions.
    pieces = []
    for start in tiling.pieces:
        end = start + tiling.keys
        piece = lax.slice_in_dim(weights, start, end, axis=1)
        pieces.append(piece)
    # The array sums over partitions, where queries stand now.
    turned = [banks.transposed(piece) for piece in pieces]
    yield
    copies = []
    for place, bank in enumerate(turned):
        copies.append(_copied(place, bank, tiling))
    bank = banks.products.take()
    bank = _products(bank, copies, v)
    # In a bank of its own, not on top of the output: that lies in SBUF, since it must decay in
    # between.
    return banks.products.give(bank)


def after_diagonal(scores: Psum, offset: KnownInt, tiling: FlashTiling) -> Lane[Sbuf]:
    """Masks keys that follow their query; PSUM to SBUF, as GpSimd cannot read PSUM.

    Args:
      scores: PSUM `[rows, columns]`.
      offset: first query's position minus first key's, a known integer.
      tiling: sizes.
    """
    copied = sbuf(*scores.shape, buffers=tiling.buffers)
    yield
    copied = activation(copied, scores, op="copy")
    yield
    # Key tiles come in order, so every query has met key 0 before a tile of which it sees nothing;
    # beside that score LOWEST weighs exp(−2¹⁰⁰ · scale) = 0. Masks in another order put
    # `MASKED` there.
    copied = affine_select(copied, copied, offset, fill=LOWEST)
    yield
    return copied


def _copied(place: int, bank: Psum, tiling: FlashTiling) -> Sbuf:
    """A piece of the transposed weights, out of PSUM; the first ones by the Scalar Engine."""
    by_scalar = place < tiling.scalar_copies
    engine = "scalar" if by_scalar else "vector"
    copy = sbuf(*bank.shape, dtype=tiling.dtype, buffers=tiling.buffers)
    return tensor_copy(copy, bank, engine=engine)


def _products(bank: Psum, weights: Sequence[Sbuf], v: Sbuf) -> Psum:
    """`p v` in PSUM, accumulated over the pieces of p."""
    for place, piece in enumerate(weights):
        accumulate = jnp.int32(place > 0)
        # The pieces of p and of v are cut alike, each with its own keys.
        values = index(v, place, 1)
        bank = nc_matmul(bank, piece, values, accumulate)
    return bank


def normalised(lanes: Sequence[Attended], tiling: FlashTiling) -> list[Sbuf]:
    """The attention output of query tiles: SBUF `[rows, value_dim]` each."""
    # All sums first: the reciprocal of one lane runs while others are multiplied.
    inverses = []
    for lane in lanes:
        column = sbuf(tiling.rows, 1, buffers=tiling.buffers)
        column = reciprocal(column, lane.softmax.total)
        inverses.append(column)
    outputs = []
    for lane, inverse in zip(lanes, inverses, strict=True):
        tile = sbuf(
            tiling.rows,
            tiling.value_dim,
            dtype=tiling.dtype,
            buffers=tiling.buffers,
        )
        tile = tensor_scalar(tile, lane.output, inverse, op="multiply")
        outputs.append(tile)
    return outputs


__all__ = [
    "Attended",
    "Banks",
    "FlashTiling",
    "Masked",
    "TileRing",
    "after_diagonal",
    "attend",
    "empty",
    "load_tokens",
    "load_values",
    "mixed",
    "normalised",
    "scores_of",
    "step_banks",
]
