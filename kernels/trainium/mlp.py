"""SwiGLU with features on partitions: the up projections' output is the down projection's input."""

from typing import Any

import jax.numpy as jnp
from jax import lax

from emu.trainium.isa import activation, nc_matmul, tensor_tensor_at
from emu.trainium.memory import psum, sbuf
from kernels.trainium.matmul import over_depth
from kernels.trainium.tiling import LayerTiling, index


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
    count, _, k, depth, size = w_gate.shape
    tokens = h.shape[2]
    rings = tuple(
        tuple(sbuf(k, depth, size, dtype=s.dtype) for _ in range(buffers)) for _ in range(2)
    )
    banks = tuple((psum(size, tokens), psum(size, tokens)) for _ in range(2))

    def step(sums: Any, gate: Any, up: Any, at: Any) -> Any:
        moving, more = index(h, at, 1), (at > 0).astype(jnp.int32)
        return nc_matmul(sums[0], gate, moving, more), nc_matmul(sums[1], up, moving, more)

    def tile(state: Any, f: Any) -> tuple[Any, None]:
        rings, (sums, spare), out = state
        rings, sums = over_depth(rings, sums, (index(w_gate, f), index(w_up, f)), step)
        gated = activation(sbuf(size, tokens), sums[0], op="silu")
        zero = jnp.int32(0)
        out = tensor_tensor_at(out, gated, sums[1], f, zero, op="multiply")
        return (rings, (spare, sums), out), None

    out = sbuf(size, count, tokens, dtype=s.dtype)
    (_, _, out), _ = lax.scan(tile, (rings, banks, out), jnp.arange(count))
    return out
