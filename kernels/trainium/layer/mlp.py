"""SwiGLU with features on partitions: the up projections' output is the down projection's input."""

from emu.annotations import KnownInt
from emu.tracing.side_by_side import tiles
from emu.trainium.engines.memory import psum, sbuf
from emu.trainium.isa import activation, tensor_tensor
from emu.trainium.spaces import Hbm, Psum, Sbuf
from kernels.trainium.gemm.matmul import Pairs, over_chunks
from kernels.trainium.layer.tiling import LayerTiling


def swiglu(
    h: Sbuf, w_gate: Hbm, w_up: Hbm, tiling: LayerTiling, *, buffers: int = 2
) -> Sbuf:
    """`silu(h · w_gate) · (h · w_up)`, transposed.

    Weights are stationary and tokens move, so that a product comes out with FFN features on
    partitions: as `w_down` will contract them, without a transpose.

    Args:
      h: SBUF `[hidden tile, hidden tiles, tokens]`.
      w_gate, w_up: HBM packed `[ffn tiles, chunks, hidden tile, depth, ffn tile]`.
      tiling: sizes.
      buffers: weight chunks in flight.

    Returns:
      SBUF `[ffn tile, ffn tiles, tokens]`; products accumulate in float32.
    """
    count, _, _, _, size = w_gate.shape
    tokens = h.shape[2]

    def pairs(h: Sbuf, gate: Sbuf, up: Sbuf) -> Pairs:
        # The stationary operand first: its columns become the product's partitions.
        gate_pair = gate, h
        up_pair = up, h
        return gate_pair, up_pair

    def ffn_tile(weights: tuple[Hbm, Hbm]) -> tuple[Sbuf, Psum]:
        # Two banks each: the next tile's sums begin while these are still read.
        gate_bank = psum(size, tokens, buffers=2)
        up_bank = psum(size, tokens, buffers=2)
        gate, up = over_chunks(
            (gate_bank, up_bank),
            h,
            weights,
            pairs,
            buffers=buffers,
        )
        activated = sbuf(size, tokens)
        # Only the gate leaves PSUM by itself; `up` is read from its bank by the product.
        activated = activation(activated, gate, op="silu")
        return activated, up

    def emit(
        out: Sbuf,
        place: KnownInt,
        halves: tuple[Sbuf, Psum],
    ) -> Sbuf:
        activated, up = halves
        return tensor_tensor.at[:, place](out, activated, up, op="multiply")

    # As the down projection takes it: a contraction tile for each of these tiles of features.
    out = sbuf(size, count, tokens, dtype=tiling.dtype)
    weights = w_gate, w_up
    return tiles(ffn_tile, weights, into=out, emit=emit, axis=1)


__all__ = ["swiglu"]
