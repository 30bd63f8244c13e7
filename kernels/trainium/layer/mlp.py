"""SwiGLU with features on partitions: the up projections' output is the down projection's input."""

from typing import Any

import jax.numpy as jnp

from emu.tracing.side_by_side import tiles
from emu.trainium.engines.memory import psum, sbuf
from emu.trainium.isa import activation, tensor_tensor_at
from kernels.trainium.gemm.matmul import Pairs, over_chunks
from kernels.trainium.layer.tiling import LayerTiling


def swiglu(h: Any, w_gate: Any, w_up: Any, s: LayerTiling, *, buffers: int = 2) -> Any:
    """`silu(h · w_gate) · (h · w_up)`, transposed.

    Args:
      h: SBUF `[hidden tile, hidden tiles, tokens]`.
      w_gate, w_up: HBM packed `[ffn tiles, chunks, hidden tile, depth, ffn tile]`.
      s: sizes.
      buffers: weight chunks in flight.

    Returns:
      SBUF `[ffn tile, ffn tiles, tokens]`; products accumulate in float32.
    """
    count = w_gate.shape[0]
    size = w_gate.shape[4]
    tokens = h.shape[2]

    def pairs(h: Any, gate: Any, up: Any) -> Pairs:
        return (gate, h), (up, h)

    def tile(ws: Any) -> tuple[Any, Any]:
        sums = tuple(psum(size, tokens, buffers=2) for _ in range(2))
        gate, up = over_chunks(sums, h, ws, pairs, buffers=buffers)
        return activation(sbuf(size, tokens), gate, op="silu"), up

    def emit(out: Any, f: Any, y: Any) -> Any:
        return tensor_tensor_at(out, *y, f, jnp.int32(0), op="multiply")

    out = sbuf(size, count, tokens, dtype=s.dtype)
    return tiles(tile, (w_gate, w_up), into=out, emit=emit, axis=1)
