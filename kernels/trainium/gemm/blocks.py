"""Matmul blocked in all three dimensions: sums live in SBUF while k is gone through in blocks."""

from typing import NamedTuple

import jax.numpy as jnp

from emu.annotations import KnownInt
from emu.boxes import ds, old
from emu.tracing.loop import loop
from emu.trainium.engines.memory import dma_load, dma_store, hbm, psum, sbuf
from emu.trainium.isa import memset, nc_matmul, tensor_copy, tensor_tensor
from emu.trainium.spaces import Hbm, Sbuf
from kernels.trainium.gemm.sizes import BANKS, LHS_QUEUE, RHS_QUEUE, Sizes, over_blocks
from kernels.trainium.tiles import BANK_COLUMNS, PARTITIONS, divide, index, part

# Tiles of a block.
# Those of AWS's fully optimised tutorial kernel, `TILES_IN_BLOCK_N`, `_K` and `_M`.
N_BLOCK = 2
K_BLOCK = 8
M_BLOCK = 16
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


class NBlocks(NamedTuple):
    """Some n-blocks of one size.

    Attributes:
      first: tile of columns with which they begin.
      count: how many.
      n_tiles: tiles of each.
    """

    first: int
    count: int
    n_tiles: int


def all_dims(lhs: Hbm, rhs: Hbm, sizes: Sizes) -> tuple[Hbm, ...]:
    """The variant `block_all_dims`; see `gemm`.

    Args:
      lhs: HBM `[k, m]`.
      rhs: HBM `[k, n]`.
      sizes: in tiles.

    Returns:
      HBM `[m/128, n-blocks, 128, columns of one]`, and the same of a smaller last n-block if there
      is one.

    Pseudocode:
      for n-block: sums = 0
        for k-block: load rhs; for m-block: load lhs; for n, m: sums[m, n] += Σ over k of lhsᵀ · rhs
        for m: pack the n-block's sums; store
    """
    left = lhs.reshape(sizes.depth, PARTITIONS, -1)
    right = rhs.reshape(sizes.depth, PARTITIONS, -1)
    whole, rest = divmod(sizes.columns, N_BLOCK)
    results = []
    if whole:
        # A loop has one shape for all its blocks: 5 tiles of columns are a loop of two blocks of 2
        # and a result of its own for the last.
        alike = NBlocks(first=0, count=whole, n_tiles=N_BLOCK)
        results.append(_n_blocks(left, right, sizes, alike))
    if rest:
        smaller = NBlocks(first=whole * N_BLOCK, count=1, n_tiles=rest)
        results.append(_n_blocks(left, right, sizes, smaller))
    return tuple(results)


def _n_blocks(left: Hbm, right: Hbm, sizes: Sizes, blocks: NBlocks) -> Hbm:
    """The result's columns in some n-blocks: HBM `[m/128, n-blocks, 128, columns of one]`."""
    n_tiles = blocks.n_tiles
    room = _room(sizes, n_tiles)
    width = n_tiles * BANK_COLUMNS

    def n_block(out: Hbm, number: KnownInt) -> Hbm:
        first_tile = blocks.first + number * n_tiles
        start = first_tile * BANK_COLUMNS
        columns = part(right, start, width, axis=2)

        def k_block(sums: Sbuf, k_tile: KnownInt, k_tiles: int) -> Sbuf:
            lefts = part(left, k_tile, k_tiles, axis=0)
            rights = part(columns, k_tile, k_tiles, axis=0)
            return _k_block(sums, lefts, rights, sizes, room)

        # In the operands' dtype, as room is short: at 2048³ 32 sums of 512 columns take 32 KiB of a
        # partition in bfloat16 and 64 in float32. The price is a rounding for each k-block.
        sums = sbuf(
            PARTITIONS,
            sizes.rows * n_tiles,
            BANK_COLUMNS,
            dtype=sizes.dtype,
        )
        # Every k-block adds, the first one too, and a fresh tile holds NaN.
        sums = memset(sums, value=0.0)
        sums = over_blocks(sizes.depth, K_BLOCK, sums, k_block)
        return _store(out, sums, number, blocks.count, sizes)

    result_tiles = sizes.rows * blocks.count
    out = hbm(result_tiles, PARTITIONS, width, dtype=sizes.dtype)
    out = loop(n_block, out, blocks.count)
    return out.reshape(sizes.rows, blocks.count, PARTITIONS, width)


def _room(sizes: Sizes, n_tiles: int) -> Room:
    """An m-block of lhs that can be loaded ahead, smaller if need be; then as much of rhs.

    A bfloat16 matmul of 2048³: an n-block of 2 keeps 16 · 2 sums of 1 KiB a partition. A k-block
    of 8 takes 8 · 2 KiB of rhs, and with m-blocks of 16 tiles 8 · 4 KiB of lhs. Of 192 KiB, 144
    are left for lhs: twice 32 fit, so all of it is doubled, and then all of rhs.
    """
    k_tiles = min(K_BLOCK, sizes.depth)
    m_tiles = min(M_BLOCK, sizes.rows)
    # `lhs_bytes` and `rhs_bytes` are of one k tile.
    rhs_bytes = sizes.nbytes(n_tiles * BANK_COLUMNS)
    sums_bytes = sizes.rows * rhs_bytes
    free = sizes.room - sums_bytes - k_tiles * rhs_bytes
    lhs_bytes = sizes.nbytes(m_tiles * PARTITIONS)
    # Halved until two m-blocks fit, one in use and one on its way.
    while m_tiles > 1 and 2 * k_tiles * lhs_bytes > free:
        m_tiles //= 2
        lhs_bytes = sizes.nbytes(m_tiles * PARTITIONS)
    free = max(0, free - k_tiles * lhs_bytes)
    # lhs first: its blocks change with every m-block, those of rhs only with every k-block.
    lhs_doubled = min(k_tiles, free // lhs_bytes)
    free -= lhs_doubled * lhs_bytes
    rhs_doubled = min(k_tiles, free // rhs_bytes)
    return Room(m_tiles, lhs_doubled, rhs_doubled)


def _load(block: Hbm, doubled: int, queue: str) -> list[Sbuf]:
    """The k tiles of a block, HBM `[tiles, 128, columns]`, of which the first are doubled."""
    loaded = []
    for k_tile in range(block.shape[0]):
        source = index(block, k_tile)
        buffers = 2 if k_tile < doubled else 1
        tile = sbuf(*source.shape, dtype=source.dtype, buffers=buffers)
        loaded.append(dma_load(tile, source, queue=queue))
    return loaded


def _k_block(
    sums: Sbuf,
    left: Hbm,
    right: Hbm,
    sizes: Sizes,
    room: Room,
) -> Sbuf:
    """Adds one k-block, HBM `[tiles, 128, m]` and `[tiles, 128, columns]`, to all sums."""
    n_tiles = right.shape[2] // BANK_COLUMNS
    rights = _load(right, room.rhs, RHS_QUEUE)

    def m_block(sums: Sbuf, first: KnownInt, m_tiles: int) -> Sbuf:
        start = first * PARTITIONS
        block = part(left, start, m_tiles * PARTITIONS, axis=2)
        lefts = _load(block, room.lhs, LHS_QUEUE)

        def result_tile(sums: Sbuf, number: KnownInt) -> Sbuf:
            n, m = divide(number, m_tiles)
            bank = psum(PARTITIONS, BANK_COLUMNS, buffers=BANKS)
            k_tiles = zip(lefts, rights, strict=True)
            for k, (left_tile, right_tile) in enumerate(k_tiles):
                row = m * PARTITIONS
                stationary = part(left_tile, row, PARTITIONS, axis=1)
                column = n * BANK_COLUMNS
                moving = part(right_tile, column, BANK_COLUMNS, axis=1)
                # A bank sums one k-block in float32; what it held before is another tile's and is
                # overwritten.
                accumulate = jnp.int32(k > 0)
                bank = nc_matmul(bank, stationary, moving, accumulate)
            # Row by row, so that the tiles of a row are neighbours when they are packed.
            place = (first + m) * n_tiles + n
            return tensor_tensor.at[:, place](sums, old, bank, op="add")

        result_tiles = m_tiles * n_tiles
        return loop(result_tile, sums, result_tiles)

    return over_blocks(sizes.rows, room.m_block, sums, m_block)


def _store(
    out: Hbm,
    sums: Sbuf,
    number: KnownInt,
    count: int,
    sizes: Sizes,
) -> Hbm:
    """Packs each row of an n-block, SBUF `[128, rows · tiles, 512]`, into one store."""
    n_tiles = sums.shape[1] // sizes.rows
    width = n_tiles * BANK_COLUMNS

    def row(out: Hbm, m: KnownInt) -> Hbm:
        # A DMA costs as much to start for one tile as for a row of them.
        pack = sbuf(
            PARTITIONS,
            1,
            width,
            dtype=sizes.dtype,
            buffers=PACKS,
        )
        for n in range(n_tiles):
            place = m * n_tiles + n
            tile = index(sums, place, 1)
            column = n * BANK_COLUMNS
            pack = tensor_copy.at[:, 0, ds(column, BANK_COLUMNS)](pack, tile)
        packed = pack.reshape(PARTITIONS, width)
        target = m * count + number
        return dma_store.at[target](out, packed)

    return loop(row, out, sizes.rows)
