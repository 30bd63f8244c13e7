"""A tiled matmul's sizes in tiles, what of it is held in SBUF, and loops over its blocks."""

import dataclasses
from collections.abc import Callable
from typing import TypeAlias, TypeVar

import jax.numpy as jnp

from emu.annotations import DType, KnownInt, PyTree
from emu.tracing.loop import loop
from emu.tracing.side_by_side import tiles
from emu.trainium.spaces import Hbm
from kernels.refusal import refuse
from kernels.trainium.tiles import BANK_COLUMNS, PARTITIONS

PIECE = 8  # k tiles of one buffer: fewer are freed sooner, more are read faster
RESULTS = 4  # result tiles on their way to HBM
BANKS = 8  # of PSUM
# A queue starts one load after another: with one each, tiles of lhs never stand behind those of
# rhs.
LHS_QUEUE = "load_queue2"
RHS_QUEUE = "load_queue"

Carry = TypeVar("Carry", bound=PyTree)

BlockBody: TypeAlias = Callable[[Carry, KnownInt, int], Carry]
"""`(carry, first tile of a block, its tiles) -> carry`."""

FillBody: TypeAlias = Callable[[Hbm, KnownInt, KnownInt, int], Hbm]
"""`(into, where its part begins, first tile of a block, its tiles) -> into`."""


@dataclasses.dataclass(frozen=True)
class Sizes:
    """A matmul `[m, k] · [k, n]` in tiles of 128 x 128 and 128 x 512.

    Attributes:
      rows, depth, columns: m, k and n in tiles.
      dtype: of operands and result; sums are float32.
      buffers: depth of the rings of streamed tiles.
      room: bytes of one SBUF partition.
      turned_dtype: of a transposed tile in PSUM.
    """

    rows: int
    depth: int
    columns: int
    dtype: DType
    buffers: int
    room: int
    turned_dtype: DType

    @staticmethod
    def of(
        lhs: Hbm, rhs: Hbm, turned: bool, buffers: int, room: int, turned_dtype: DType
    ) -> "Sizes":
        """The sizes of two operands; `lhs` is `[k, m]`, or `[m, k]` if it is still to be turned.

        Raises:
          LimitExceeded: shapes or dtypes that do not go together, or are not whole tiles.
        """
        k, m = reversed(lhs.shape) if turned else lhs.shape
        rhs_k, n = rhs.shape
        if k != rhs_k or lhs.dtype != rhs.dtype:
            refuse(
                f"gemm: lhs is {lhs.dtype}{list(lhs.shape)} and rhs {rhs.dtype}{list(rhs.shape)}, "
                "must share k and the dtype"
            )
        for name, size, tile in (
            ("m", m, PARTITIONS),
            ("k", k, PARTITIONS),
            ("n", n, BANK_COLUMNS),
        ):
            if not size or size % tile:
                refuse(f"gemm: {name} is {size}, must be a multiple of {tile}; pad it")
        return Sizes(
            rows=m // PARTITIONS,
            depth=k // PARTITIONS,
            columns=n // BANK_COLUMNS,
            dtype=rhs.dtype,
            buffers=buffers,
            room=room,
            turned_dtype=turned_dtype or rhs.dtype,
        )

    def nbytes(self, columns: int) -> int:
        """Bytes of one partition that `columns` elements of the operands' dtype take."""
        return columns * jnp.dtype(self.dtype).itemsize


@dataclasses.dataclass(frozen=True)
class Blocking:
    """How `nest.nest` goes through a matmul.

    Attributes:
      m_tiles, n_tiles: of an m-block and of an n-block.
      hold_lhs, hold_rhs: a block of the operand stays in SBUF while it is used; else each use of a
        tile loads it.
      row_loads: one DMA brings a k tile of all columns of a block.
      lhs_loads: how often lhs is loaded in a row of blocks.
      turned: lhs is `[m, k]` and is transposed on its way.
      piece: k tiles of one buffer of what is held.
      lhs_doubled, rhs_doubled: pieces that have a second buffer, to load ahead.
      results: result tiles on their way to HBM.
    """

    m_tiles: int = 1
    n_tiles: int = 1
    hold_lhs: bool = False
    hold_rhs: bool = False
    row_loads: bool = False
    lhs_loads: int = 1
    turned: bool = False
    piece: int = 1
    lhs_doubled: int = 0
    rhs_doubled: int = 0
    results: int = RESULTS


def held(
    sizes: Sizes,
    m_tiles: int,
    n_tiles: int,
    *,
    row_loads: bool = False,
    lhs_loads: int = 1,
) -> Blocking:
    """Holds a block of lhs, and of rhs where that is used twice and fits beside it.

    A block of rhs that does not fit is loaded again for each m. The room that is left is spent on
    second buffers, for rhs first, whose blocks change more often.

    A bfloat16 matmul of 2048³ with blocks of 8 by 2 holds 8 · 16 tiles of lhs, 32 KiB of each
    partition, and 2 · 16 of rhs, again 32 KiB. Beside four results of 1 KiB, 124 of Trainium1's
    192 KiB are left, and every piece of both gets a second buffer.
    """
    m_tiles = min(m_tiles, sizes.rows)
    n_tiles = min(n_tiles, sizes.columns)
    lhs_bytes = sizes.nbytes(m_tiles * sizes.depth * PARTITIONS)
    rhs_bytes = sizes.nbytes(n_tiles * sizes.depth * BANK_COLUMNS)
    results_bytes = sizes.nbytes(RESULTS * BANK_COLUMNS)
    free = sizes.room - lhs_bytes - results_bytes
    # With one m tile a block each rhs tile is used once: to hold it would save no load.
    hold_rhs = m_tiles > 1 and rhs_bytes <= free
    if hold_rhs:
        free -= rhs_bytes
        # Smaller than the whole depth: a buffer is free for the next block as soon as its own k
        # tiles are used.
        piece = min(PIECE, sizes.depth)
    else:
        # A streamed column is one run of all k tiles, and products pair pieces of both sides, so
        # lhs is one piece too.
        free -= sizes.nbytes(sizes.buffers * BANK_COLUMNS)
        piece = sizes.depth

    m_tiles_a_piece = m_tiles if row_loads else 1
    n_tiles_a_piece = n_tiles if row_loads else 1
    lhs_piece_bytes = sizes.nbytes(piece * PARTITIONS * m_tiles_a_piece)
    rhs_piece_bytes = sizes.nbytes(piece * BANK_COLUMNS * n_tiles_a_piece)
    rhs_doubled = 0
    if hold_rhs:
        # At most one more buffer each: a third would hold a block that nobody wants yet.
        for_rhs = max(0, min(free, rhs_bytes))
        rhs_doubled = for_rhs // rhs_piece_bytes
    free -= rhs_doubled * rhs_piece_bytes
    for_lhs = max(0, min(free, lhs_bytes))
    return Blocking(
        m_tiles,
        n_tiles,
        hold_lhs=True,
        hold_rhs=hold_rhs,
        row_loads=row_loads,
        lhs_loads=lhs_loads,
        piece=piece,
        lhs_doubled=for_lhs // lhs_piece_bytes,
        rhs_doubled=rhs_doubled,
    )


def over_blocks(
    count: int,
    size: int,
    carry: Carry,
    body: BlockBody[Carry],
    first: int = 0,
) -> Carry:
    """Calls `body(carry, first tile, tiles)` for each block of up to `size` of `count` tiles.

    Whole blocks are one loop; a smaller last one follows it: 11 tiles in blocks of 4 are a loop of
    two and a call with 3.
    """
    size = min(size, count)
    whole, rest = divmod(count, size)

    def block(carry: Carry, number: KnownInt) -> Carry:
        return body(carry, first + number * size, size)

    carry = loop(block, carry, whole)
    if not rest:
        return carry
    last = jnp.int32(first + whole * size)
    return body(carry, last, rest)


def fill_blocks(
    count: int,
    size: int,
    into: Hbm,
    body: FillBody,
    *,
    axis: int,
    first: int = 0,
) -> Hbm:
    """`over_blocks` for blocks that each fill their own part of `into` along `axis`.

    `body(into, part, first tile, tiles)` writes to `into` from index `part` on: side by side it is
    given the block's part alone.
    """
    size = min(size, count)
    # Side by side every block is given an equal part of `into`; 11 tiles in blocks of 4, or only
    # some of the tiles, have none and go in order.
    fills_all = count == into.shape[axis]
    if count % size or not fills_all:

        def in_order(into: Hbm, tile: KnownInt, tiles: int) -> Hbm:
            return body(into, tile, tile, tiles)

        return over_blocks(count, size, into, in_order, first)

    def number_of(number: KnownInt) -> KnownInt:
        return number

    def block(into: Hbm, at: KnownInt, number: KnownInt) -> Hbm:
        return body(into, at * size, number * size, size)

    numbers = jnp.arange(count // size, dtype=jnp.int32)
    return tiles(number_of, numbers, into=into, emit=block, axis=axis)
