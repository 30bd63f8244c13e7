"""Products of codes whose scales are applied where sums leave PSUM.

A sum of codes is `Σ x/s_x · w/s_w` over the contracted features: where neither scale depends on
them, the product of the numbers is the sum times both. With tokens on partitions a token's is a
value a partition and an output column's a row, and one instruction applies both on the way out.

Where scales are of blocks of features, each block has a sum of its own. It leaves PSUM by
multiply-adds into SBUF, one for each run of columns that share a scale: 512 columns of blocks of
128 are 4, and keep the Vector Engine longer than their product the Tensor Engine.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeAlias

import jax.numpy as jnp
from jax import lax

from emu.annotations import KnownInt
from emu.boxes import old
from emu.tracing.loop import loop
from emu.tracing.side_by_side import tiles
from emu.trainium.engines.memory import dma_load, psum, sbuf
from emu.trainium.isa import (
    memset,
    scalar_tensor_tensor,
    tensor_copy,
    tensor_tensor,
)
from emu.trainium.spaces import Hbm, Psum, Sbuf
from kernels.trainium.gemm.matmul import block_sums
from kernels.trainium.gemm.operands import (
    DoubleRows,
    Operand,
    Weight,
    load_chunk,
    multiply,
    sizes,
    tile_count,
    tile_of,
    tiles_of,
    token_count,
    tokens_of,
)
from kernels.trainium.tiles import index


class ScaledWeight(NamedTuple):
    """A matrix in codes, in HBM, with a scale for each output column.

    Attributes:
      codes: packed, see `gemm.scaled_pack`.
      scale: float32 `[blocks, 1, columns]`.
    """

    codes: Weight
    scale: Hbm


class BlockWeight(NamedTuple):
    """A matrix in codes, in HBM, with a scale for each block of features and of output columns.

    Attributes:
      codes: packed in double rows, a contraction tile for each block of features.
      scale: float32 `[blocks, 1, contraction tiles, runs of columns]`.
    """

    codes: DoubleRows
    scale: Hbm


class Scaled(NamedTuple):
    """Activations in codes, in SBUF, with a scale for each token.

    Attributes:
      operand: features on partitions.
      scale: float32 `[rows, token tiles, 1]`, tokens on partitions; or one for each contraction
        tile, `[rows, token tiles, tiles]`.
    """

    operand: Operand
    scale: Sbuf


AnyOperand: TypeAlias = Operand | Scaled
AnyWeight: TypeAlias = Weight | ScaledWeight | BlockWeight


class Sum(NamedTuple):
    """A tile of a product, `[rows, columns]`, with what it is still to be multiplied by.

    Attributes:
      bank: PSUM float32 `[rows, columns]`; or SBUF, what blocks' sums were added up in.
      token: SBUF float32 `[rows, 1]`, or None.
      column: SBUF float32 `[rows, columns]`, the same in every row, or None.
    """

    bank: Psum | Sbuf
    token: Sbuf | None = None
    column: Sbuf | None = None


EmitSums: TypeAlias = Callable[[Any, KnownInt, Sequence[Sum]], Any]
"""`(into, block, sums of each token tile) -> into`."""


def product(
    h: AnyOperand, matrix: AnyWeight, into: Any, emit: EmitSums, *, rows: int
) -> Any:
    """`gemm.matmul.project` whose sums may have scales.

    Args:
      h: as `project`'s, or with scales of tokens.
      matrix: likewise, or with scales of columns.
      into: buffers that take the result, a part along axis 2 for each block of columns.
      emit: takes sums out of PSUM, by `put` or `valued`.
      rows: tokens of a tile.
    """
    if isinstance(matrix, BlockWeight):
        assert isinstance(h, Scaled)
        return _of_blocks(h, matrix, into, emit, rows)
    of_tokens = None
    if isinstance(h, Scaled):
        h, of_tokens = h
    of_columns = None
    if isinstance(matrix, ScaledWeight):
        matrix, of_columns = matrix

    def block(own: tuple[Weight, Hbm | None]) -> tuple[Sequence[Psum], Sbuf | None]:
        codes, scale = own
        sums = block_sums(h, codes, rows=rows)
        if scale is None:
            return sums, None
        _, columns = scale.shape
        # An engine reads its own partition only, so that each has the row.
        factors = sbuf(rows, columns, buffers=2)
        return sums, dma_load(factors, jnp.broadcast_to(scale, (rows, columns)))

    def emit_sums(
        into: Any, number: KnownInt, made: tuple[Sequence[Psum], Sbuf | None]
    ) -> Any:
        banks, column = made
        scaled = []
        for tile, bank in enumerate(banks):
            token = None if of_tokens is None else of_tokens[:, tile]
            scaled.append(Sum(bank, token, column))
        return emit(into, number, scaled)

    return tiles(block, (matrix, of_columns), into=into, emit=emit_sums, axis=2)


def _of_blocks(
    h: Scaled, matrix: BlockWeight, into: Any, emit: EmitSums, rows: int
) -> Any:
    """`product` where scales are of blocks of features.

    Pseudocode:
      for block of columns: for token tile: sum = 0
        for block of features: for token tile: bank = xᵀ · weight
          for run of columns: sum[run] += bank[run] · scale of token and run
    """

    def block(own: BlockWeight) -> Sequence[Sbuf]:
        count = token_count(h.operand) // rows
        *_, columns = sizes(own.codes)
        _, features, runs = own.scale.shape
        in_every = jnp.broadcast_to(own.scale, (rows, features, runs))
        of_weight = dma_load(sbuf(rows, features, runs, buffers=2), in_every)
        sums, factors = [], []
        for tile in range(count):
            of_tokens = jnp.broadcast_to(h.scale[:, tile, :, None], of_weight.shape)
            factor = sbuf(*of_weight.shape, buffers=2)
            factors.append(tensor_tensor(factor, of_tokens, of_weight, op="multiply"))
            fresh = sbuf(rows, columns, buffers=2)
            sums.append(memset(fresh, value=0.0, engine="gpsimd"))

        def chunk(sums: Sequence[Sbuf], at: Any) -> tuple[Sequence[Sbuf], None]:
            number, source = at
            loaded = load_chunk(source, 0, 2, h.operand)
            depth = tile_count(loaded)
            x = tiles_of(h.operand, number * depth, depth)

            def of_features(sums: Sequence[Sbuf], place: KnownInt) -> Sequence[Sbuf]:
                moving, tokens = tile_of(loaded, place), tiles_of(x, place, 1)
                made = []
                for tile, (own_sum, factor) in enumerate(
                    zip(sums, factors, strict=True)
                ):
                    stationary = tile_of(tokens_of(tokens, tile * rows, rows), 0)
                    bank = psum(rows, columns, buffers=2)
                    bank = multiply(bank, stationary, moving, jnp.int32(0))
                    scale = index(factor, number * depth + place, 1)
                    made.append(_added(own_sum, bank, scale))
                return tuple(made)

            return loop(of_features, sums, depth), None

        chunks, *_ = sizes(own.codes)
        numbers = jnp.arange(chunks, dtype=jnp.int32)
        made, _ = lax.scan(chunk, tuple(sums), (numbers, own.codes))
        return made

    def emit_sums(into: Any, number: KnownInt, sums: Sequence[Sbuf]) -> Any:
        return emit(into, number, [Sum(own) for own in sums])

    return tiles(block, matrix, into=into, emit=emit_sums, axis=2)


def _added(total: Sbuf, bank: Psum, scale: Sbuf) -> Sbuf:
    """`total += bank · scale`, a run of columns after another; scale `[rows, runs]`."""
    _, runs = scale.shape
    width = bank.shape[1] // runs
    for run in range(runs):
        first, end = run * width, (run + 1) * width
        # Every other run and token tile comes between two sums into one place.
        total = scalar_tensor_tensor.at[:, first:end](
            total,
            bank[:, first:end],
            scale[:, run : run + 1],
            old,
            op0="multiply",
            op1="add",
        )
    return total


def put(out: Sbuf, at: tuple[Any, ...], own: Sum) -> Sbuf:
    """A sum times its scales into a part of SBUF, in the dtype of that."""
    bank, token, column = own
    if column is None:
        return tensor_copy.at[at](out, bank)
    if token is None:
        return tensor_tensor.at[at](out, bank, column, op="multiply")
    return scalar_tensor_tensor.at[at](
        out, bank, token, column, op0="multiply", op1="multiply"
    )


def valued(own: Sum) -> Psum | Sbuf:
    """A sum times its scales: the bank itself where it has none, else SBUF float32."""
    if own.column is None:
        return own.bank
    return put(sbuf(*own.bank.shape), (slice(None), slice(None)), own)


__all__ = [
    "AnyOperand",
    "AnyWeight",
    "BlockWeight",
    "EmitSums",
    "Scaled",
    "ScaledWeight",
    "Sum",
    "product",
    "put",
    "valued",
]
