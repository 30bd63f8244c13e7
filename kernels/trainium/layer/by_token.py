"""Activations in codes with a scale for each token, made of tiles with tokens on partitions.

A token's greatest magnitude is then a reduction along its own partition, and its scale a value of
it. Codes are turned behind that, so that features are on partitions as products contract them.
"""

from collections.abc import Callable, Sequence

from jax import lax

from emu.annotations import KnownInt
from emu.boxes import ds
from emu.tracing.loop import loop
from emu.trainium.engines.memory import sbuf
from emu.trainium.isa import (
    memset,
    tensor_copy,
    tensor_immediate,
    tensor_reduce,
    tensor_scalar,
    tensor_tensor,
)
from emu.trainium.spaces import Hbm, Sbuf
from kernels.formats.formats import Format
from kernels.trainium.gemm.operands import ROWS_AT_ONCE, in_double_rows, sizes
from kernels.trainium.gemm.scaled import (
    AnyOperand,
    BlockWeight,
    Scaled,
    ScaledWeight,
    Sum,
    product,
    valued,
)
from kernels.trainium.layer.gate import Gate, activated, raised
from kernels.trainium.layer.norm import (
    in_every_row,
    normalised_transposed,
    rms_norm,
    transposed_into,
)
from kernels.trainium.layer.tiling import LayerTiling
from kernels.trainium.tiles import index

# Of a token of nothing but zeros any scale will do, and 0 would be divided by.
LEAST_GREATEST = 2.0**-100
# Numbers of magnitude up to 2**22 leave a float32 within whole ones' distance where this is added.
WHOLE_ALONE = 1.5 * 2.0**23

Rows = Callable[[KnownInt], Sbuf]
"""From a token tile's number to its features, SBUF `[rows, n]`."""


def quantised(x: Sbuf, held: Format, width: int) -> tuple[Sbuf, Sbuf]:
    """Codes of a tile of tokens, and what each token's stand for times.

    To the bit what `kernels.formats.coding.coded` makes of each token: of one whose greatest
    magnitude is 3.5, FP8's scale is 3.5 / 448.

    Args:
      x: SBUF `[rows, n]`; of a format with scales of blocks of features, whole blocks.
      held: the format, whose elements are floats of 8 bits, or of blocks also integers.
      width: of the codes; behind n they are 0.

    Returns:
      SBUF `[rows, width]` and float32 `[rows, 1]`, or `[rows, blocks]`.
    """
    assert held.block is not None
    together, _ = held.block
    rows, features = x.shape
    blocks = 1 if together is None else features // together
    by_block = x.reshape(rows, blocks, -1)
    greatest = tensor_reduce(sbuf(rows, blocks, 1), by_block, op="absmax")
    greatest = greatest.reshape(rows, blocks)
    scale = tensor_immediate(
        sbuf(rows, blocks),
        greatest,
        op="max",
        value=LEAST_GREATEST,
        op1="divide",
        value1=held.greatest,
    )
    codes = sbuf(rows, width, dtype=held.element)
    if together is not None:
        apart = codes.reshape(by_block.shape)
        # A view: each block's for all its features.
        row, block, _ = range(3)
        of_block = lax.broadcast_in_dim(scale, by_block.shape, (row, block))
        if held.element.startswith("int"):
            quotients = sbuf(*by_block.shape)
            quotients = tensor_tensor(quotients, by_block, of_block, op="divide")
            # Rounded to the nearest, ties to even, where float32 has no bits of a fraction left.
            apart = tensor_immediate(
                apart,
                quotients,
                op="add",
                value=WHOLE_ALONE,
                op1="subtract",
                value1=WHOLE_ALONE,
            )
        else:
            apart = tensor_tensor(apart, by_block, of_block, op="divide")
        return apart.reshape(rows, width), scale
    if features < width:
        codes = memset(codes, value=0.0, engine="gpsimd")
        codes = tensor_scalar.at[:, :features](codes, x, scale, op="divide")
    else:
        codes = tensor_scalar(codes, x, scale, op="divide")
    return codes, scale


def by_token(rows_of: Rows, cut: tuple[int, int], tiling: LayerTiling) -> Scaled:
    """A block of tokens in codes, as products contract them.

    Args:
      rows_of: its features, tile by tile.
      cut: contraction tiles of them, `(count, features)`, an even number.
      tiling: sizes.
    """
    assert tiling.by_token is not None
    held, rows, tiles = tiling.by_token, tiling.rows, tiling.tiles
    count, size = cut

    def of_tile(made: tuple[Sbuf, Sbuf], number: KnownInt) -> tuple[Sbuf, Sbuf]:
        out, scales = made
        codes, scale = quantised(rows_of(number), held, count * size)
        scales = tensor_copy.at[:, number](scales, scale, engine="gpsimd")
        return transposed_into(out, codes, number * rows), scales

    blocks = 1 if held.block == (None, 1) else count // ROWS_AT_ONCE
    out = sbuf(size, count, tiling.block_tokens, dtype=held.element)
    out, scales = loop(of_tile, (out, sbuf(rows, tiles, blocks)), tiles)
    return Scaled(in_double_rows(out), scales)


def normalised_operand(x: Sbuf, weight: Hbm, tiling: LayerTiling) -> AnyOperand:
    """RMSNorm of a block of tokens as products contract it, in codes where they are to be.

    Args:
      x: SBUF `[rows, tiles, hidden padded]`.
      weight: HBM `[1, hidden padded]`.
      tiling: sizes.
    """
    if tiling.by_token is None:
        return normalised_transposed(x, weight, tiling)
    own_weight = in_every_row(weight, tiling.rows)

    def rows_of(number: KnownInt) -> Sbuf:
        own = index(x, number, 1)
        return rms_norm(own, own_weight, size=tiling.hidden, eps=tiling.eps)

    return by_token(rows_of, tiling.hidden_tiles, tiling)


def gated_by_token(
    h: AnyOperand, weight: ScaledWeight | BlockWeight, gate: Gate, tiling: LayerTiling
) -> Scaled:
    """`op(h · w_gate) · (h · w_up)` of a block of tokens, in codes.

    Args:
      h: of the block.
      weight: both projections in one, in each block of columns those of the gate and then as many
        of the other.
      gate: what is made of their products.
      tiling: sizes.
    """
    count, size = tiling.ffn_tiles
    *_, columns = sizes(weight.codes)
    half = columns // 2

    def emit(out: Sbuf, block: KnownInt, sums: Sequence[Sum]) -> Sbuf:
        for number, own in enumerate(sums):
            both = valued(own)
            factor = activated(both[:, :half], None, gate)
            other = raised(both[:, half:], None, gate)
            at = slice(None), number, ds(block * half, half)
            out = tensor_tensor.at[at](out, factor, other, op="multiply")
        return out

    features = sbuf(tiling.rows, tiling.tiles, count * size, dtype=tiling.dtype)
    features = product(h, weight, features, emit, rows=tiling.rows)
    return by_token(lambda number: index(features, number, 1), (count, size), tiling)


__all__ = ["by_token", "gated_by_token", "normalised_operand", "quantised"]
