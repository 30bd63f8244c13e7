"""The nest m-block, n-block, m, n, k: each operand is streamed past the matmuls or held in SBUF."""

import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
from jax import lax

from emu.annotations import DType, KnownInt
from emu.tracing import alike
from emu.tracing.once import once
from emu.tracing.side_by_side import is_in_order, tiles
from emu.trainium.engines.memory import (
    dma_load,
    dma_store,
    hbm,
    psum,
    sbuf,
)
from emu.trainium.isa import nc_matmul, nc_transpose, tensor_copy
from emu.trainium.spaces import Hbm, OnChip, Psum, Sbuf
from kernels.trainium.gemm.matmul import Pairs, Sums, add_products
from kernels.trainium.gemm.sizes import (
    BANKS,
    LHS_QUEUE,
    RHS_QUEUE,
    Blocking,
    Sizes,
    fill_blocks,
)
from kernels.trainium.tiles import BANK_COLUMNS, PARTITIONS, index, part

TRANSPOSES = 2  # of the banks, where lhs is transposed


class Tiles(NamedTuple):
    """Some k tiles of one column of an operand.

    Attributes:
      count: how many.
      held: SBUF `[128, count, columns]`, or None where each use of a tile makes it.
      slices: HBM `[count, 128, columns]` for a loop to go through, or None.
      tile: `(i, slice) -> SBUF [128, columns]`: tile `i` of them.
    """

    count: int
    held: Sbuf | None
    slices: Hbm | None
    tile: Callable[[KnownInt, Any], Sbuf]


Column: TypeAlias = list[Tiles]

AddProducts: TypeAlias = Callable[[Sums, Pairs, jax.Array], Sums]
"""`matmul.add_products`, traced once."""


class Product(NamedTuple):
    """One result tile: a column of lhsᵀ by a column of rhs.

    Attributes:
      row, column: of the result, in tiles.
      left, right: what is contracted over k.
    """

    row: KnownInt
    column: KnownInt
    left: Column
    right: Column


def nest(lhs: Hbm, rhs: Hbm, sizes: Sizes, blocking: Blocking) -> tuple[Hbm]:
    """One nest for every variant but `block_all_dims`; see `gemm`.

    Args:
      lhs, rhs: HBM.
      sizes: in tiles.
      blocking: blocks, and which operands are held.

    Pseudocode:
      for m-block: load lhs; for n-block: load rhs; for m, n of the blocks:
        bank = Σ over k of lhs tileᵀ · rhs tile; store bank
    """
    right = rhs.reshape(sizes.depth, PARTITIONS, -1)
    # 8 tiles of columns and 2 loads: lhs is brought for columns 0–3 and once more for 4–7.
    columns_a_load = math.ceil(sizes.columns / blocking.lhs_loads)
    # The same loop over k for each product of a block.
    add = once(add_products)

    def m_block(out: Hbm, row: KnownInt, m_tile: KnownInt, m_tiles: int) -> Hbm:
        for first in range(0, sizes.columns, columns_a_load):
            lefts = _left_columns(lhs, m_tile, m_tiles, sizes, blocking)

            def n_block(
                out: Hbm,
                column: KnownInt,
                n_tile: KnownInt,
                n_tiles: int,
            ) -> Hbm:
                start = n_tile * BANK_COLUMNS
                width = n_tiles * BANK_COLUMNS
                block = part(right, start, width, axis=2)
                rights = _right_columns(block, sizes, blocking)
                products = []
                for m, left_column in enumerate(lefts):
                    of_row = []
                    for n, right_column in enumerate(rights):
                        product = Product(
                            row=row + m,
                            column=column + n,
                            left=left_column,
                            right=right_column,
                        )
                        of_row.append(product)
                    products.append(of_row)
                return _store_products(out, products, sizes, blocking, add)

            columns = min(columns_a_load, sizes.columns - first)
            out = fill_blocks(
                columns,
                blocking.n_tiles,
                out,
                n_block,
                axis=1,
                first=first,
            )
        return out

    out = hbm(
        sizes.rows,
        sizes.columns,
        PARTITIONS,
        BANK_COLUMNS,
        dtype=sizes.dtype,
    )
    out = fill_blocks(sizes.rows, blocking.m_tiles, out, m_block, axis=0)
    return (out,)


# --- operands ---


def _left_columns(
    lhs: Hbm,
    m_tile: KnownInt,
    m_tiles: int,
    sizes: Sizes,
    blocking: Blocking,
) -> list[Column]:
    """The columns of `lhsᵀ` from a tile on."""
    start = m_tile * PARTITIONS
    if blocking.turned:
        # Only `tiled` transposes, whose m-blocks are single tiles: there is one column.
        rows = part(lhs, start, PARTITIONS, axis=0)
        return [_turned(rows, sizes)]
    left = lhs.reshape(sizes.depth, PARTITIONS, -1)
    width = m_tiles * PARTITIONS
    block = part(left, start, width, axis=2)
    if not blocking.hold_lhs:
        return _streamed(block, PARTITIONS, sizes.buffers, LHS_QUEUE)
    return _held(block, PARTITIONS, blocking, blocking.lhs_doubled, LHS_QUEUE)


def _right_columns(block: Hbm, sizes: Sizes, blocking: Blocking) -> list[Column]:
    """The columns of a block of rhs, HBM `[depth, 128, columns · 512]`."""
    if not blocking.hold_rhs:
        return _streamed(block, BANK_COLUMNS, sizes.buffers, RHS_QUEUE)
    return _held(block, BANK_COLUMNS, blocking, blocking.rhs_doubled, RHS_QUEUE)


def _streamed(block: Hbm, width: int, buffers: int, queue: str) -> list[Column]:
    """Columns of HBM `[depth, 128, columns · width]`: each use of a tile loads it."""
    depth, _, wide = block.shape

    # Called where a product wants it, inside the loop over k: the load is a part of that loop, and
    # with `buffers` tiles as many loads are ahead of the matmuls.
    def tile(_: KnownInt, source: Hbm) -> Sbuf:
        room = sbuf(*source.shape, dtype=source.dtype, buffers=buffers)
        return dma_load(room, source, queue=queue)

    columns = []
    for start in range(0, wide, width):
        slices = lax.slice_in_dim(block, start, start + width, axis=2)
        made = Tiles(depth, held=None, slices=slices, tile=tile)
        columns.append([made])
    return columns


def _held(
    block: Hbm,
    width: int,
    blocking: Blocking,
    doubled: int,
    queue: str,
) -> list[Column]:
    """Loads a block, HBM `[depth, 128, columns · width]`, in pieces of some k tiles.

    With `row_loads` a DMA brings a k tile of all columns, and so a piece holds all columns.

    Args:
      block: of an operand.
      width: of a column.
      blocking: k tiles of a piece.
      doubled: pieces that have a second buffer, so that the next block's can be loaded while these
        are in use.
      queue: that loads.
    """
    depth, _, wide = block.shape
    columns: list[Column] = []
    loaded = 0
    step = wide if blocking.row_loads else width
    for start in range(0, wide, step):
        # Not the block but a piece is what a buffer holds: when the last product with it is done,
        # that of the next block may land, while the block's other pieces are still in use.
        pieces = []
        for first in range(0, depth, blocking.piece):
            k_tiles = slice(first, first + blocking.piece)
            loaded_columns = slice(start, start + step)
            slices = block[k_tiles, :, loaded_columns]
            # Doubled from the front, as the next block is loaded from the front.
            buffers = 2 if loaded < doubled else 1
            pieces.append(_load(slices, buffers, queue))
            loaded += 1
        for inside in range(0, step, width):
            column = [_column_of(piece, inside, width) for piece in pieces]
            columns.append(column)
    return columns


def _load(slices: Hbm, buffers: int, queue: str) -> Sbuf:
    """HBM `[count, 128, columns]` to an SBUF tile `[128, count, columns]`, one DMA a k tile."""
    count, rows, columns = slices.shape

    def source(k_tile: Hbm) -> Hbm:
        return k_tile

    def load(piece: Sbuf, number: KnownInt, k_tile: Hbm) -> Sbuf:
        return dma_load.at[:, number](piece, k_tile, queue=queue)

    # One tile of many DMAs: a product reads slices of it, which cost nothing.
    piece = sbuf(
        rows,
        count,
        columns,
        dtype=slices.dtype,
        buffers=buffers,
    )
    return tiles(source, slices, into=piece, emit=load, axis=1)


def _column_of(piece: Sbuf, start: int, width: int) -> Tiles:
    """A column of a piece, SBUF `[128, count, columns · width]`."""
    column = lax.slice_in_dim(piece, start, start + width, axis=2)

    def tile(number: KnownInt, _: None) -> Sbuf:
        return index(column, number, 1)

    count = piece.shape[1]
    return Tiles(count, held=column, slices=None, tile=tile)


def _turned(rows: Hbm, sizes: Sizes) -> Column:
    """HBM `[128 m, k]`: each use of a tile loads it and transposes it on the Tensor Engine."""

    def room() -> Sbuf:
        return sbuf(PARTITIONS, PARTITIONS, dtype=sizes.dtype, buffers=sizes.buffers)

    def tile(number: KnownInt, _: None) -> Sbuf:
        start = number * PARTITIONS
        source = part(rows, start, PARTITIONS, axis=1)
        loaded = room()
        loaded = dma_load(loaded, source, queue=LHS_QUEUE)
        # Two banks: a transpose goes on into one while the other is copied out.
        bank = psum(
            PARTITIONS,
            PARTITIONS,
            dtype=sizes.turned_dtype,
            buffers=TRANSPOSES,
        )
        # Out of PSUM again: a matmul takes its operands from SBUF.
        turned = room()
        bank = nc_transpose(bank, loaded)
        return tensor_copy(turned, bank)

    made = Tiles(sizes.depth, held=None, slices=None, tile=tile)
    return [made]


# --- results ---


def _store_products(
    out: Hbm,
    products: list[list[Product]],
    sizes: Sizes,
    blocking: Blocking,
    add: AddProducts,
) -> Hbm:
    """Sums each product of each row over k in a PSUM bank of its own, and stores the results."""
    if not is_in_order():
        return _store_at_once(out, products, sizes, add)
    in_turn = [product for of_row in products for product in of_row]
    count = len(in_turn)
    banks = BANKS - TRANSPOSES if blocking.turned else BANKS
    # As many banks as can be: the Tensor Engine sums into one while the others are copied out.
    sums = _ring(psum, count, banks, jnp.float32)
    results = _ring(sbuf, count, blocking.results, sizes.dtype)
    for number, product in enumerate(in_turn):
        # What an instruction wrote takes the tile's place in its list.
        bank = number % len(sums)
        sums[bank] = _over_depth(sums[bank], product.left, product.right, add)
        result = number % len(results)
        results[result] = tensor_copy(results[result], sums[bank])
        out = _stored(out, product, results[result])
    return out


def _store_at_once(
    out: Hbm, products: list[list[Product]], sizes: Sizes, add: AddProducts
) -> Hbm:
    """The same where only values count: one product of all columns of both operands."""

    def alone(product: Product) -> Sbuf:
        (bank,) = _ring(psum, 1, 1, jnp.float32)
        (result,) = _ring(sbuf, 1, 1, sizes.dtype)
        bank = _over_depth(bank, product.left, product.right, add)
        return tensor_copy(result, bank)

    # Products of a row share their left column and those of a column their right one, so each
    # operand is stacked once: a row's products first, then all rows.
    def of_row(row: list[Product]) -> list[Sbuf]:
        return alike.each([functools.partial(alone, product) for product in row])

    results = alike.each([functools.partial(of_row, row) for row in products])
    for row, tiles_of_row in zip(products, results, strict=True):
        for product, result in zip(row, tiles_of_row, strict=True):
            out = _stored(out, product, result)
    return out


def _stored(out: Hbm, product: Product, result: Sbuf) -> Hbm:
    """The result with one of its tiles written."""
    _, columns, *tile_shape = out.shape
    place = product.row * columns + product.column
    flat = out.reshape(-1, *tile_shape)
    flat = dma_store.at[place](flat, result)
    return flat.reshape(out.shape)


def _ring(
    space: Callable[..., OnChip],
    uses: int,
    depth: int,
    dtype: DType,
) -> list[OnChip]:
    """Output tiles for `uses` in a row, `depth` of them in all.

    16 products take 8 banks twice; 2 products take 2 banks with 4 buffers each.
    """
    # Fewer uses than room: the rest are buffers of the loop around, for its next iterations.
    buffers = max(1, depth // uses)
    ring = []
    for _ in range(min(uses, depth)):
        tile = space(
            PARTITIONS,
            BANK_COLUMNS,
            dtype=dtype,
            buffers=buffers,
        )
        ring.append(tile)
    return ring


def _over_depth(bank: Psum, left: Column, right: Column, add: AddProducts) -> Psum:
    """`bank = Σ left tileᵀ · right tile` over k."""
    done = 0
    for left_tiles, right_tiles in zip(left, right, strict=True):
        stationary = left_tiles.held
        moving = right_tiles.held
        # Held on both sides nothing is loaded between matmuls, and where only values are wanted a
        # piece is one product.
        if stationary is not None and moving is not None:
            pair = stationary, moving
            (bank,) = add((bank,), (pair,), jnp.int32(done))
        else:
            bank = _add_made(bank, left_tiles, right_tiles, done)
        done += left_tiles.count
    return bank


def _add_made(bank: Psum, left: Tiles, right: Tiles, done: int) -> Psum:
    """Adds the products of tiles of which some are made for each use, after `done` others."""

    def step(bank: Psum, at: Any) -> tuple[Psum, None]:
        number, left_slice, right_slice = at
        # Only the very first product of a sum overwrites; `done` counts those of the pieces before.
        accumulate = (number + done > 0).astype(jnp.int32)
        stationary = left.tile(number, left_slice)
        moving = right.tile(number, right_slice)
        bank = nc_matmul(bank, stationary, moving, accumulate)
        return bank, None

    numbers = jnp.arange(left.count, dtype=jnp.int32)
    # An operand without slices has None here, which a scan passes on as it is.
    along = numbers, left.slices, right.slices
    bank, _ = lax.scan(step, bank, along)
    return bank
