"""A tiled matmul's sizes in tiles, what of it is held in SBUF, and loops over its blocks."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
from jax import lax

from emu.tracing.side_by_side import tiles
from kernels.trainium.tiles import BANK_COLUMNS, PARTITIONS

PIECE = 8  # k tiles of one buffer: fewer are freed sooner, more are read faster
RESULTS = 4  # result tiles on their way to HBM
BANKS = 8  # of PSUM
LHS_QUEUE, RHS_QUEUE = "load_queue2", "load_queue"


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
    dtype: Any
    buffers: int
    room: int
    turned_dtype: Any

    @staticmethod
    def of(
        lhs: Any, rhs: Any, turned: bool, buffers: int, room: int, turned_dtype: Any
    ) -> "Sizes":
        """The sizes of two operands; `lhs` is `[k, m]`, or `[m, k]` if it is still to be turned.

        Raises:
          ValueError: shapes or dtypes that do not go together, or are not whole tiles.
        """
        (k, m), n = lhs.shape[::-1] if turned else lhs.shape, rhs.shape[1]
        if k != rhs.shape[0] or lhs.dtype != rhs.dtype:
            raise ValueError(
                f"gemm: lhs is {lhs.dtype}{list(lhs.shape)} and rhs {rhs.dtype}{list(rhs.shape)}, "
                "must share k and the dtype"
            )
        for name, size, tile in (
            ("m", m, PARTITIONS),
            ("k", k, PARTITIONS),
            ("n", n, BANK_COLUMNS),
        ):
            if not size or size % tile:
                raise ValueError(
                    f"gemm: {name} is {size}, must be a multiple of {tile}; pad it"
                )
        return Sizes(
            m // PARTITIONS,
            k // PARTITIONS,
            n // BANK_COLUMNS,
            rhs.dtype,
            buffers,
            room,
            turned_dtype or rhs.dtype,
        )

    def nbytes(self, columns: int) -> int:
        """Bytes of one partition that `columns` elements of the operands' dtype take."""
        return columns * jnp.dtype(self.dtype).itemsize


@dataclasses.dataclass(frozen=True)
class Plan:
    """How `gemm_nest.nest` goes through a matmul.

    Attributes:
      a, b: tiles of an m-block and of an n-block.
      hold_lhs, hold_rhs: a block of the operand stays in SBUF while it is used; else each use of a
        tile loads it.
      row_loads: one DMA brings a k tile of all columns of a block.
      lhs_loads: how often lhs is loaded in a row of blocks.
      turned: lhs is `[m, k]` and is transposed on its way.
      piece: k tiles of one buffer of what is held.
      lhs_doubled, rhs_doubled: pieces that have a second buffer, to load ahead.
      results: result tiles on their way to HBM.
    """

    a: int = 1
    b: int = 1
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
    s: Sizes, a: int, b: int, *, row_loads: bool = False, lhs_loads: int = 1
) -> Plan:
    """Holds a block of lhs, and of rhs where that is used twice and fits beside it.

    A block of rhs that does not fit is loaded again for each m. The room that is left is spent on
    second buffers, for rhs first, whose blocks change more often.
    """
    a, b = min(a, s.rows), min(b, s.columns)
    lhs = s.nbytes(a * s.depth * PARTITIONS)
    rhs = s.nbytes(b * s.depth * BANK_COLUMNS)
    free = s.room - lhs - s.nbytes(RESULTS * BANK_COLUMNS)
    hold_rhs = a > 1 and rhs <= free
    free -= rhs if hold_rhs else s.nbytes(s.buffers * BANK_COLUMNS)
    piece = min(PIECE, s.depth) if hold_rhs else s.depth
    rhs_piece = s.nbytes(piece * BANK_COLUMNS * (b if row_loads else 1))
    lhs_piece = s.nbytes(piece * PARTITIONS * (a if row_loads else 1))
    rhs_doubled = max(0, min(free, rhs)) // rhs_piece if hold_rhs else 0
    lhs_doubled = max(0, min(free - rhs_doubled * rhs_piece, lhs)) // lhs_piece
    return Plan(
        a,
        b,
        True,
        hold_rhs,
        row_loads,
        lhs_loads,
        piece=piece,
        lhs_doubled=lhs_doubled,
        rhs_doubled=rhs_doubled,
    )


def over_blocks(
    count: int,
    size: int,
    carry: Any,
    body: Callable[[Any, Any, int], Any],
    first: int = 0,
) -> Any:
    """Calls `body(carry, first tile, tiles)` for each block of up to `size` of `count` tiles.

    Whole blocks are one loop; a smaller last one follows it.
    """
    size = min(size, count)
    whole, rest = divmod(count, size)

    def block(carry: Any, i: Any) -> tuple[Any, None]:
        return body(carry, first + i * size, size), None

    carry, _ = lax.scan(block, carry, jnp.arange(whole))
    return body(carry, jnp.int32(first + whole * size), rest) if rest else carry


def fill_blocks(
    count: int,
    size: int,
    into: Any,
    body: Callable[[Any, Any, Any, int], Any],
    *,
    axis: int,
    first: int = 0,
) -> Any:
    """`over_blocks` for blocks that each fill their own part of `into` along `axis`.

    `body(into, part, first tile, tiles)` writes to `into` from index `part` on: side by side it is
    given the block's part alone.
    """
    size = min(size, count)
    if count % size or count != into.shape[axis]:
        return over_blocks(count, size, into, lambda x, i, n: body(x, i, i, n), first)

    def block(into: Any, at: Any, i: Any) -> Any:
        return body(into, at * size, i * size, size)

    blocks = jnp.arange(count // size)
    return tiles(lambda i: i, blocks, into=into, emit=block, axis=axis)
