"""A gated MLP with features on partitions: the up projections' output is the down projection's
input."""

from typing import NamedTuple

from emu.annotations import DType, KnownInt
from emu.tracing.side_by_side import tiles
from emu.trainium.engines.memory import dma_load, psum, sbuf
from emu.trainium.isa import (
    activation_scaled,
    memset,
    scalar_tensor_tensor,
    tensor_scalar,
    tensor_tensor,
)
from emu.trainium.spaces import Hbm, Psum, Sbuf
from kernels.trainium.gemm.matmul import Pairs, over_chunks
from kernels.trainium.gemm.operands import (
    Operand,
    Weight,
    axes_of_tiles,
    fresh,
    place,
    ready,
    sizes,
    token_count,
)
from kernels.trainium.gemm.scaled import ScaledWeight
from kernels.trainium.layer.gate import Gate, activated, raised


class UpWeights(NamedTuple):
    """The two up projections of an MLP, in HBM.

    Attributes:
      gate, up: packed `[ffn tiles, chunks, hidden tile, depth, ffn tile]`; or MX; or codes with a
        scale for each feature.
      gate_bias, up_bias: float32 `[ffn tiles, ffn tile, 1]`, or None.
    """

    gate: Weight | ScaledWeight
    up: Weight | ScaledWeight
    gate_bias: Hbm | None = None
    up_bias: Hbm | None = None


class _Half(NamedTuple):
    """What the products of one tile of features become."""

    gate: Sbuf
    up: Psum | Sbuf
    bias: Sbuf | None = None  # still to be added to `up`
    scale: Sbuf | None = None  # `up` is still to be multiplied by


def gated(
    h: Operand,
    weights: UpWeights,
    gate: Gate,
    *,
    dtype: DType,
    elements: DType | None = None,
    buffers: int = 2,
) -> Operand:
    """`op(h · w_gate) · (h · w_up)`, transposed, or what else a gate makes of the two products.

    Weights are stationary and tokens move, so that a product comes out with FFN features on
    partitions: as `w_down` will contract them, without a transpose.

    Args:
      h: SBUF `[hidden tile, hidden tiles, tokens]`; or MX.
      weights: of both projections.
      gate: what is made of their products.
      dtype: of the features.
      elements: dtype of MX elements that the features are quantised to; None: they are not.
      buffers: weight chunks in flight.

    Returns:
      SBUF `[ffn tile, ffn tiles, tokens]`, or MX; products accumulate in float32.
    """
    count, _, _, _, size = sizes(_codes(weights.gate))
    tokens = token_count(h)

    def pairs(h: Operand, gate: Operand, up: Operand) -> Pairs:
        # The stationary operand first: its columns become the product's partitions.
        gate_pair = gate, h
        up_pair = up, h
        return gate_pair, up_pair

    def column(bias: Hbm | None) -> Sbuf | None:
        if bias is None:
            return None
        tile = sbuf(*bias.shape, dtype=bias.dtype, buffers=buffers)
        return dma_load(tile, bias)

    def ffn_tile(own: UpWeights) -> _Half:
        # Two banks each: the next tile's sums begin while these are still read.
        gate_bank = psum(size, tokens, buffers=2)
        up_bank = psum(size, tokens, buffers=2)
        gate_sum, up_sum = over_chunks(
            (gate_bank, up_bank),
            h,
            (_codes(own.gate), _codes(own.up)),
            pairs,
            buffers=buffers,
        )
        if isinstance(own.gate, ScaledWeight) and isinstance(own.up, ScaledWeight):
            scales = _of_features(own.gate, buffers), _of_features(own.up, buffers)
            return _scaled_half(gate_sum, up_sum, *scales, gate)
        factor = activated(gate_sum, column(own.gate_bias), gate)
        bias = column(own.up_bias)
        other = raised(up_sum, bias, gate)
        # Where `up` is read from its bank by the product, that adds the bias too.
        return _Half(factor, other, bias if other is up_sum else None)

    def emit(out: Sbuf, number: KnownInt, half: _Half) -> Sbuf:
        at = place(out, number)
        if half.scale is not None:
            return scalar_tensor_tensor.at[at](
                out, half.up, half.scale, half.gate, op0="multiply", op1="multiply"
            )
        if half.bias is None:
            return tensor_tensor.at[at](out, half.gate, half.up, op="multiply")
        return scalar_tensor_tensor.at[at](
            out, half.up, half.bias, half.gate, op0="add", op1="multiply"
        )

    # As the down projection takes it: a contraction tile for each of these tiles of features, or a
    # quarter of one.
    out = fresh(size, count, tokens, dtype=dtype, quads=elements is not None)
    axis = axes_of_tiles(out)
    out = tiles(ffn_tile, weights, into=out, emit=emit, axis=axis)
    return ready(out, elements)


def _codes(weight: Weight | ScaledWeight) -> Weight:
    return weight.codes if isinstance(weight, ScaledWeight) else weight


def _of_features(weight: ScaledWeight, buffers: int) -> Sbuf:
    """Scales of a tile of features, which are on partitions here: `[1, n]` as `[n, 1]`."""
    column = weight.scale.reshape(-1, 1)
    return dma_load(sbuf(*column.shape, buffers=buffers), column)


def _scaled_half(
    gate_sum: Psum, up_sum: Psum, of_gate: Sbuf, of_up: Sbuf, form: Gate
) -> _Half:
    """What sums of codes become: the gate's scale is a factor of its activation."""
    if form.limit is None:
        zero = memset(sbuf(len(of_gate), 1), value=0.0, engine="gpsimd")
        factor = sbuf(*gate_sum.shape)
        factor = activation_scaled(factor, gate_sum, of_gate, zero, op=form.op)
        return _Half(factor, up_sum, scale=of_up)
    gate_value, up_value = (
        tensor_scalar(sbuf(*x.shape), x, scale, op="multiply")
        for x, scale in ((gate_sum, of_gate), (up_sum, of_up))
    )
    return _Half(activated(gate_value, None, form), raised(up_value, None, form))


__all__ = ["UpWeights", "gated"]
