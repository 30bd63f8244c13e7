"""Matmul blocked in all three dimensions: sums live in SBUF while k is gone through in blocks."""

from typing import Any, NamedTuple

import jax.numpy as jnp
from jax import lax

from emu.trainium.engines.memory import dma_load, dma_store_at, hbm, psum, sbuf
from emu.trainium.isa import memset, nc_matmul, tensor_add_at, tensor_copy_at
from kernels.trainium.gemm.sizes import BANKS, LHS_QUEUE, RHS_QUEUE, Sizes, over_blocks
from kernels.trainium.tiles import BANK_COLUMNS, PARTITIONS, divide, index, part

N_BLOCK, K_BLOCK, M_BLOCK = 2, 8, 16  # tiles
PACKS = 2  # result tiles on their way to HBM


class Room(NamedTuple):
    """What SBUF has room for beside an n-block's sums.

    Attributes:
      m_block: tiles of an m-block.
      lhs, rhs: how many k tiles of a block have a second buffer, to load the next block's ahead.
    """

    m_block: int
    lhs: int
    rhs: int


def all_dims(lhs: Any, rhs: Any, s: Sizes) -> tuple[Any, ...]:
    """The variant `block_all_dims`; see `gemm`.

    Args:
      lhs: HBM `[k, m]`.
      rhs: HBM `[k, n]`.
      s: sizes.

    Returns:
      HBM `[m/128, n-blocks, 128, columns of one]`, and the same of a smaller last n-block if there
      is one.

    Pseudocode:
      for n-block: sums = 0
        for k-block: load rhs; for m-block: load lhs; for n, m: sums[m, n] += Σ over k of lhsᵀ · rhs
        for m: pack the n-block's sums; store
    """
    left, right = (x.reshape(s.depth, PARTITIONS, -1) for x in (lhs, rhs))
    whole, rest = divmod(s.columns, N_BLOCK)
    runs = [(0, whole, N_BLOCK)] * (whole > 0) + [(whole * N_BLOCK, 1, rest)] * (
        rest > 0
    )
    return tuple(_n_blocks(left, right, s, *run) for run in runs)


def _n_blocks(left: Any, right: Any, s: Sizes, first: int, count: int, b: int) -> Any:
    """`count` n-blocks of `b` tiles from tile `first` on."""
    room = _room(s, b)

    def n_block(out: Any, j: Any) -> tuple[Any, None]:
        columns = part(right, (first + j * b) * BANK_COLUMNS, b * BANK_COLUMNS, axis=2)

        def k_block(sums: Any, i: Any, c: int) -> Any:
            return _k_block(
                sums, part(left, i, c, axis=0), part(columns, i, c, axis=0), s, room
            )

        sums = sbuf(PARTITIONS, s.rows * b, BANK_COLUMNS, dtype=s.dtype)
        sums = over_blocks(s.depth, K_BLOCK, memset(sums, value=0.0), k_block)
        return _store(out, sums, j, count, s), None

    out = hbm(s.rows * count, PARTITIONS, b * BANK_COLUMNS, dtype=s.dtype)
    out, _ = lax.scan(n_block, out, jnp.arange(count))
    return out.reshape(s.rows, count, PARTITIONS, b * BANK_COLUMNS)


def _room(s: Sizes, b: int) -> Room:
    """An m-block of lhs that can be loaded ahead, smaller if need be; then as much of rhs."""
    c, a = min(K_BLOCK, s.depth), min(M_BLOCK, s.rows)
    rhs = s.nbytes(b * BANK_COLUMNS)
    free = s.room - s.nbytes(s.rows * b * BANK_COLUMNS) - c * rhs
    while a > 1 and 2 * c * s.nbytes(a * PARTITIONS) > free:
        a //= 2
    lhs = s.nbytes(a * PARTITIONS)
    free = max(0, free - c * lhs)
    doubled = min(c, free // lhs)
    return Room(a, doubled, min(c, (free - doubled * lhs) // rhs))


def _load(tile: Any, doubled: bool, queue: str) -> Any:
    return dma_load(
        sbuf(*tile.shape, dtype=tile.dtype, buffers=1 + doubled), tile, queue=queue
    )


def _k_block(sums: Any, left: Any, right: Any, s: Sizes, room: Room) -> Any:
    """Adds one k-block, HBM `[tiles, 128, m]` and `[tiles, 128, columns]`, to all sums."""
    tiles = right.shape[0]
    b = right.shape[2] // BANK_COLUMNS
    rights = [_load(index(right, k), k < room.rhs, RHS_QUEUE) for k in range(tiles)]

    def m_block(sums: Any, i: Any, a: int) -> Any:
        block = part(left, i * PARTITIONS, a * PARTITIONS, axis=2)
        lefts = [_load(index(block, k), k < room.lhs, LHS_QUEUE) for k in range(tiles)]

        def pair(sums: Any, at: Any) -> tuple[Any, None]:
            n, m = divide(at, a)
            bank = psum(PARTITIONS, BANK_COLUMNS, buffers=BANKS)
            for k, (x, y) in enumerate(zip(lefts, rights, strict=True)):
                x = part(x, m * PARTITIONS, PARTITIONS, axis=1)
                y = part(y, n * BANK_COLUMNS, BANK_COLUMNS, axis=1)
                bank = nc_matmul(bank, x, y, jnp.int32(k > 0))
            return tensor_add_at(sums, bank, (i + m) * b + n, jnp.int32(0)), None

        return lax.scan(pair, sums, jnp.arange(a * b))[0]

    return over_blocks(s.rows, room.m_block, sums, m_block)


def _store(out: Any, sums: Any, j: Any, count: int, s: Sizes) -> Any:
    """Packs each row of n-block `j`, SBUF `[128, rows · tiles, 512]`, into one store."""
    b = sums.shape[1] // s.rows

    def row(out: Any, m: Any) -> tuple[Any, None]:
        pack = sbuf(PARTITIONS, 1, b * BANK_COLUMNS, dtype=s.dtype, buffers=PACKS)
        for n in range(b):
            pack = tensor_copy_at(
                pack,
                index(sums, m * b + n, 1),
                jnp.int32(0),
                jnp.int32(n * BANK_COLUMNS),
            )
        packed = pack.reshape(PARTITIONS, b * BANK_COLUMNS)
        return dma_store_at(out, packed, m * count + j), None

    return lax.scan(row, out, jnp.arange(s.rows))[0]
