"""The nest m-block, n-block, m, n, k: each operand is streamed past the matmuls or held in SBUF."""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax.numpy as jnp
from jax import lax

from emu.tracing.side_by_side import tiles
from emu.trainium.engines.memory import (
    dma_load,
    dma_load_at,
    dma_store_at,
    hbm,
    psum,
    sbuf,
)
from emu.trainium.isa import nc_matmul, nc_transpose, tensor_copy
from kernels.trainium.gemm.matmul import add_products
from kernels.trainium.gemm.sizes import (
    BANKS,
    LHS_QUEUE,
    RHS_QUEUE,
    Plan,
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
    held: Any
    slices: Any
    tile: Callable[[Any, Any], Any]


Column = list[Tiles]
Pair = tuple[Column, Column]  # of lhs and of rhs
Place = tuple[Any, Any]  # row and column of a result tile


def nest(lhs: Any, rhs: Any, s: Sizes, plan: Plan) -> tuple[Any]:
    """One nest for every variant but `block_all_dims`; see `gemm`.

    Args:
      lhs, rhs: HBM.
      s: sizes.
      plan: blocks, and which operands are held.
    """
    right = rhs.reshape(s.depth, PARTITIONS, -1)
    group = math.ceil(s.columns / plan.lhs_loads)

    def m_block(out: Any, row: Any, i: Any, a: int) -> Any:
        for first in range(0, s.columns, group):
            lefts = _lefts(lhs, i, a, s, plan)

            def n_block(out: Any, column: Any, j: Any, b: int) -> Any:
                block = part(right, j * BANK_COLUMNS, b * BANK_COLUMNS, axis=2)
                doubled = plan.rhs_doubled if plan.hold_rhs else None
                rights = _columns(block, BANK_COLUMNS, doubled, RHS_QUEUE, s, plan)
                pairs = [(x, y) for x in lefts for y in rights]
                places = [(row + m, column + n) for m in range(a) for n in range(b)]
                return _contract(out, places, pairs, s, plan)

            columns = min(group, s.columns - first)
            out = fill_blocks(columns, plan.b, out, n_block, axis=1, first=first)
        return out

    out = hbm(s.rows, s.columns, PARTITIONS, BANK_COLUMNS, dtype=s.dtype)
    return (fill_blocks(s.rows, plan.a, out, m_block, axis=0),)


# --- operands ---


def _lefts(lhs: Any, i: Any, a: int, s: Sizes, plan: Plan) -> list[Column]:
    """The columns of `lhsᵀ` from tile `i` on, `a` of them."""
    if plan.turned:
        return [_turned(part(lhs, i * PARTITIONS, PARTITIONS, axis=0), s)]
    left = lhs.reshape(s.depth, PARTITIONS, -1)
    block = part(left, i * PARTITIONS, a * PARTITIONS, axis=2)
    doubled = plan.lhs_doubled if plan.hold_lhs else None
    return _columns(block, PARTITIONS, doubled, LHS_QUEUE, s, plan)


def _columns(
    block: Any, width: int, doubled: int | None, queue: str, s: Sizes, plan: Plan
) -> list[Column]:
    """Columns of HBM `[depth, 128, columns · width]`, held with `doubled` second buffers or not."""
    if doubled is None:
        return _streamed(block, width, s, queue)
    return _held(block, width, plan.piece, doubled, plan.row_loads, queue)


def _streamed(block: Any, width: int, s: Sizes, queue: str) -> list[Column]:
    """Columns of HBM `[depth, 128, columns · width]`: each use of a tile loads it."""

    def tile(_: Any, x: Any) -> Any:
        return dma_load(
            sbuf(*x.shape, dtype=x.dtype, buffers=s.buffers), x, queue=queue
        )

    starts = range(0, block.shape[2], width)
    return [
        [Tiles(s.depth, None, lax.slice_in_dim(block, c, c + width, axis=2), tile)]
        for c in starts
    ]


def _held(
    block: Any, width: int, piece: int, doubled: int, whole_rows: bool, queue: str
) -> list[Column]:
    """Loads a block, HBM `[depth, 128, columns · width]`, in pieces of `piece` k tiles.

    `doubled` pieces have a second buffer, so that the next block's can be loaded while these are
    in use. `whole_rows`: a DMA brings a k tile of all columns.
    """
    depth, _, wide = block.shape
    loaded, columns = 0, []
    step = wide if whole_rows else width
    for c in range(0, wide, step):
        pieces = []
        for k in range(0, depth, piece):
            slices = block[k : k + piece, :, c : c + step]
            pieces.append(_load(slices, 2 if loaded < doubled else 1, queue))
            loaded += 1
        columns += [
            [_slice_of(p, x, width) for p in pieces] for x in range(0, step, width)
        ]
    return columns


def _load(slices: Any, buffers: int, queue: str) -> Any:
    """HBM `[count, 128, columns]` to an SBUF tile `[128, count, columns]`, one DMA a k tile."""
    count, rows, columns = slices.shape

    def load(tile: Any, i: Any, x: Any) -> Any:
        return dma_load_at(tile, x, i, jnp.int32(0), queue=queue)

    tile = sbuf(rows, count, columns, dtype=slices.dtype, buffers=buffers)
    return tiles(lambda x: x, slices, into=tile, emit=load, axis=1)


def _slice_of(piece: Any, start: int, width: int) -> Tiles:
    column = lax.slice_in_dim(piece, start, start + width, axis=2)
    return Tiles(piece.shape[1], column, None, lambda i, _: index(column, i, 1))


def _turned(rows: Any, s: Sizes) -> Column:
    """HBM `[128 m, k]`: each use of a tile loads it and transposes it on the Tensor Engine."""

    def tile(i: Any, _: Any) -> Any:
        new = lambda: sbuf(PARTITIONS, PARTITIONS, dtype=s.dtype, buffers=s.buffers)  # noqa: E731
        x = part(rows, i * PARTITIONS, PARTITIONS, axis=1)
        x = dma_load(new(), x, queue=LHS_QUEUE)
        bank = psum(PARTITIONS, PARTITIONS, dtype=s.turned_dtype, buffers=TRANSPOSES)
        return tensor_copy(new(), nc_transpose(bank, x))

    return [Tiles(s.depth, None, None, tile)]


# --- results ---


def _contract(
    out: Any, places: list[Place], pairs: list[Pair], s: Sizes, plan: Plan
) -> Any:
    """Sums each pair of columns over k in a PSUM bank of its own, and stores the results."""
    banks = BANKS - TRANSPOSES if plan.turned else BANKS
    sums = _ring(psum, len(pairs), banks, jnp.float32)
    results = _ring(sbuf, len(pairs), plan.results, s.dtype)
    for p, ((row, column), (left, right)) in enumerate(zip(places, pairs, strict=True)):
        i, r = p % len(sums), p % len(results)
        sums[i] = _over_depth(sums[i], left, right)
        results[r] = tensor_copy(results[r], sums[i])
        flat = out.reshape(-1, *out.shape[2:])
        flat = dma_store_at(flat, results[r], row * out.shape[1] + column)
        out = flat.reshape(out.shape)
    return out


def _ring(space: Callable[..., Any], uses: int, depth: int, dtype: Any) -> list[Any]:
    """Output tiles for `uses` in a row, `depth` of them in all."""
    buffers = max(1, depth // uses)
    return [
        space(PARTITIONS, BANK_COLUMNS, dtype=dtype, buffers=buffers)
        for _ in range(min(uses, depth))
    ]


def _over_depth(bank: Any, left: Column, right: Column) -> Any:
    """`bank = Σ left tileᵀ · right tile` over k."""
    start = 0
    for x, y in zip(left, right, strict=True):
        if x.held is not None and y.held is not None:
            (bank,) = add_products((bank,), ((x.held, y.held),), jnp.int32(start))
        else:
            bank = _add_made(bank, x, y, start)
        start += x.count
    return bank


def _add_made(bank: Any, left: Tiles, right: Tiles, start: int) -> Any:
    """Adds the products of tiles of which some are made for each use, after `start` others."""

    def step(bank: Any, at: Any) -> tuple[Any, None]:
        i, a, b = at
        more = (i + start > 0).astype(jnp.int32)
        return nc_matmul(bank, left.tile(i, a), right.tile(i, b), more), None

    return lax.scan(step, bank, (jnp.arange(left.count), left.slices, right.slices))[0]
