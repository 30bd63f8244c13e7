"""One decoder layer's prefill on one core of a chip of the ring.

Where several cores of a chip share a layer (tensor parallelism), each computes the query heads and
FFN columns that its weights hold. Every core has the chip's hidden states; what `wo` and `w_down`
give is summed over the cores, a block's sum travelling while the next block is computed.
"""

from typing import Any

import jax.numpy as jnp
from jax import lax

from emu.trainium.datasheets.sheet import LOAD_QUEUES
from emu.trainium.engines.memory import dma_load, dma_load_at, dma_store, hbm, sbuf
from emu.trainium.isa import tensor_add_at, tensor_copy_at, tensor_tensor
from emu.trainium.links.collectives import all_reduce
from kernels.trainium.context.ring import Ring, ring_attention
from kernels.trainium.gemm.matmul import project
from kernels.trainium.layer.mlp import swiglu
from kernels.trainium.layer.norm import normalised_transposed
from kernels.trainium.layer.qkv import load_block, qkv
from kernels.trainium.layer.ring import attention_tiling
from kernels.trainium.layer.tiling import LayerTiling
from kernels.trainium.tiles import divide, index


def layer(
    x: Any,
    cos: Any,
    sin: Any,
    w: Any,
    work: Any,
    patterns: Any,
    s: LayerTiling,
    *,
    ring: Ring,
    core_axis: str | None = None,
) -> tuple[Any, Any, Any]:
    """Attention and MLP with their residuals.

    Args:
      x: HBM `[blocks, tiles, rows, hidden padded]`, this chip's hidden states.
      cos, sin: HBM float32 `[blocks, tiles, rows, head_dim/2]`.
      w: this layer's weights, as `models.machines.pack` packs them.
      work, patterns: see `ring_attention`.
      s: sizes; heads and FFN are this core's share.
      ring: of the chips.
      core_axis: mesh axis of the chip's cores that share the layer; None where one has it all.

    Returns:
      The next hidden states, and k and v as `qkv` gives them, all in HBM.
    """
    q, k, v = qkv(x, cos, sin, w, s)
    attended = ring_attention(
        (q,), ((k,), v), work, patterns, attention_tiling(s), ring, transposed=True
    )
    if core_axis is None:
        return after_attention(x, attended, w, s), k, v
    return after_shared_attention(x, attended, w, s, axis=core_axis), k, v


def after_attention(x: Any, attended: Any, w: Any, s: LayerTiling) -> Any:
    """Output projection, residual, RMSNorm, SwiGLU, residual; `attended` as `ring_attention`'s."""

    def block(_: None, xs: Any) -> tuple[None, Any]:
        b, x = xs
        y = load_block(x, s)
        y = _product(tensor_add_at, y, _load_attended(attended, b, s), w["wo"])
        h = normalised_transposed(y, w["mlp_norm"], s)
        y = _product(
            tensor_add_at, y, swiglu(h, w["w_gate"], w["w_up"], s), w["w_down"]
        )
        return None, _store_block(y)

    return lax.scan(block, None, (jnp.arange(s.blocks), x))[1]


def after_shared_attention(
    x: Any, attended: Any, w: Any, s: LayerTiling, *, axis: str
) -> Any:
    """`after_attention` on each of the cores along `axis`, from its heads and FFN columns.

    Pseudocode:
      for block: sum[block] = all_reduce(attended · wo)
      for block: y = x + sum[block]; x[block] = y; sum[block] = all_reduce(swiglu(norm(y)) · w_down)
      for block: x[block] += sum[block]
    """

    def total(x_t: Any, w: Any) -> Any:
        part = sbuf(s.rows, s.tiles, s.hidden_padded, dtype=s.dtype)
        part = dma_store(_product(tensor_copy_at, part, x_t, w))
        return all_reduce(hbm(*part.shape, dtype=s.dtype), part, axis=axis)

    def plus(x: Any, total: Any) -> Any:
        y = load_block(x, s)
        return tensor_tensor(
            y, y, dma_load(sbuf(*y.shape, dtype=s.dtype), total), op="add"
        )

    def attention(_: None, b: Any) -> tuple[None, Any]:
        return None, total(_load_attended(attended, b, s), w["wo"])

    def mlp(_: None, xs: Any) -> tuple[None, Any]:
        y = plus(*xs)
        h = normalised_transposed(y, w["mlp_norm"], s)
        return None, (
            _store_block(y),
            total(swiglu(h, w["w_gate"], w["w_up"], s), w["w_down"]),
        )

    sums = lax.scan(attention, None, jnp.arange(s.blocks))[1]
    x, sums = lax.scan(mlp, None, (x, sums))[1]
    return lax.scan(lambda _, xs: (None, _store_block(plus(*xs))), None, (x, sums))[1]


def _product(write: Any, out: Any, x_t: Any, w: Any) -> Any:
    """`x · w` copied to or added to SBUF `[rows, tiles, hidden padded]`; x_t as `project`'s."""

    def emit(out: Any, b: Any, sums: Any) -> Any:
        for m, tile in enumerate(sums):
            out = write(out, tile, jnp.int32(m), b * tile.shape[1])
        return out

    return project(x_t, w, out, emit, rows=out.shape[0])


def _store_block(y: Any) -> Any:
    """A block of hidden states: SBUF `[rows, tiles, ...]` to HBM `[tiles, rows, ...]`."""
    tiles = jnp.arange(y.shape[1])
    return lax.scan(lambda _, m: (None, dma_store(index(y, m, 1))), None, tiles)[1]


def _load_attended(attended: Any, b: Any, s: LayerTiling) -> Any:
    """A block's attention output: SBUF `[head_dim, heads, tokens]`, one head a contraction tile."""

    def item(out: Any, at: Any) -> tuple[Any, None]:
        h, m = divide(at, s.tiles)
        tile = index(index(attended, h), b * s.tiles + m)
        return dma_load_at(out, tile, h, m * s.rows, queue=LOAD_QUEUES[1]), None

    out = sbuf(s.head_dim, s.heads, s.block_tokens, dtype=s.dtype)
    return lax.scan(item, out, jnp.arange(s.heads * s.tiles))[0]
