"""One decoder layer's prefill on one core of the ring."""

from typing import Any

import jax.numpy as jnp
from jax import lax

from emu.trainium.isa import tensor_add_at
from emu.trainium.memory import dma_load_at, dma_store, sbuf
from kernels.trainium.matmul import project
from kernels.trainium.mlp import swiglu
from kernels.trainium.norm import normalised_transposed
from kernels.trainium.qkv import load_block, qkv
from kernels.trainium.ring_attention import ring_attention
from kernels.trainium.tiling import LayerTiling, divide, index


def layer(
    x: Any, cos: Any, sin: Any, w: Any, s: LayerTiling, *, chips: int, axis: str
) -> tuple[Any, Any, Any]:
    """Attention and MLP with their residuals.

    Args:
      x: HBM `[blocks, tiles, rows, hidden padded]`, this chip's hidden states.
      cos, sin: HBM float32 `[blocks, tiles, rows, head_dim/2]`.
      w: this layer's weights, as `models.prefill` packs them.
      s: sizes.
      chips: size of the ring.
      axis: mesh axis of the ring.

    Returns:
      The next hidden states, and k and v as `qkv` gives them, all in HBM.
    """
    q, k, v = qkv(x, cos, sin, w, s)
    attended = ring_attention(q, k, v, s, chips=chips, axis=axis)
    return after_attention(x, attended, w, s), k, v


def after_attention(x: Any, attended: Any, w: Any, s: LayerTiling) -> Any:
    """Output projection, residual, RMSNorm, SwiGLU, residual; `attended` as `ring_attention`'s."""

    def add(out: Any, b: Any, sums: Any) -> Any:
        for m, tile in enumerate(sums):
            out = tensor_add_at(out, tile, jnp.int32(m), b * s.hidden_columns)
        return out

    def block(_: None, xs: Any) -> tuple[None, Any]:
        b, x = xs
        y = load_block(x, s)
        y = project(_load_attended(attended, b, s), w["wo"], y, add, rows=s.rows)
        h = normalised_transposed(y, w["mlp_norm"], s)
        y = project(swiglu(h, w["w_gate"], w["w_up"], s), w["w_down"], y, add, rows=s.rows)
        stored = lax.scan(lambda _, m: (None, dma_store(index(y, m, 1))), None, jnp.arange(s.tiles))
        return None, stored[1]

    return lax.scan(block, None, (jnp.arange(s.blocks), x))[1]


def _load_attended(attended: Any, b: Any, s: LayerTiling) -> Any:
    """A block's attention output: SBUF `[head_dim, heads, tokens]`, one head a contraction tile."""

    def item(out: Any, at: Any) -> tuple[Any, None]:
        h, m = divide(at, s.tiles)
        tile = index(index(attended, h), b * s.tiles + m)
        return dma_load_at(out, tile, h, m * s.rows), None

    out = sbuf(s.head_dim, s.heads, s.block_tokens, dtype=s.dtype)
    return lax.scan(item, out, jnp.arange(s.heads * s.tiles))[0]
