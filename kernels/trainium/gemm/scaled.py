"""Products of codes whose scales are applied where sums leave PSUM: a token's and an output
column's.

A sum of codes is `Σ x/s_x · w/s_w` over the contracted features: as neither scale depends on them,
the product of the numbers is the sum times both. With tokens on partitions the token's is a value a
partition and the column's a row, and one instruction applies both on the way out.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeAlias

import jax.numpy as jnp

from emu.annotations import KnownInt
from emu.tracing.side_by_side import tiles
from emu.trainium.engines.memory import dma_load, sbuf
from emu.trainium.isa import scalar_tensor_tensor, tensor_copy, tensor_tensor
from emu.trainium.spaces import Hbm, Psum, Sbuf
from kernels.trainium.gemm.matmul import block_sums
from kernels.trainium.gemm.operands import Operand, Weight


class ScaledWeight(NamedTuple):
    """A matrix in codes, in HBM, with a scale for each output column.

    Attributes:
      codes: packed, see `gemm.scaled_pack`.
      scale: float32 `[blocks, 1, columns]`.
    """

    codes: Weight
    scale: Hbm


class Scaled(NamedTuple):
    """Activations in codes, in SBUF, with a scale for each token.

    Attributes:
      operand: features on partitions.
      scale: float32 `[rows, token tiles, 1]`, tokens on partitions.
    """

    operand: Operand
    scale: Sbuf


AnyOperand: TypeAlias = Operand | Scaled
AnyWeight: TypeAlias = Weight | ScaledWeight


class Sum(NamedTuple):
    """A tile of a product, `[rows, columns]`, with what it is still to be multiplied by.

    Attributes:
      bank: PSUM float32 `[rows, columns]`.
      token: SBUF float32 `[rows, 1]`, or None.
      column: SBUF float32 `[rows, columns]`, the same in every row, or None.
    """

    bank: Psum
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
    "EmitSums",
    "Scaled",
    "ScaledWeight",
    "Sum",
    "product",
    "put",
    "valued",
]
