"""SwiGLU with features on partitions: the up projections' output is the down projection's input."""

import jax.numpy as jnp

from emu.annotations import KnownInt
from emu.tracing.side_by_side import tiles
from emu.trainium.engines.memory import psum, sbuf
from emu.trainium.isa import activation, tensor_tensor_at
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
        return (gate, h), (up, h)

    def ffn_tile(weights: tuple[Hbm, Hbm]) -> tuple[Sbuf, Psum]:
        banks = psum(size, tokens, buffers=2), psum(size, tokens, buffers=2)
        gate, up = over_chunks(banks, h, weights, pairs, buffers=buffers)
        return activation(sbuf(size, tokens), gate, op="silu"), up

    def emit(out: Sbuf, place: KnownInt, halves: tuple[Sbuf, Psum]) -> Sbuf:
        gate, up = halves
        return tensor_tensor_at(out, gate, up, place, jnp.int32(0), op="multiply")

    out = sbuf(size, count, tokens, dtype=tiling.dtype)
    return tiles(ffn_tile, (w_gate, w_up), into=out, emit=emit, axis=1)


__all__ = ["swiglu"]
