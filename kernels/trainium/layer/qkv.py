"""From hidden states to rotated queries, keys and values in HBM: norm, projection, RoPE."""

import functools
from typing import Any

import jax.numpy as jnp
from jax import lax

from emu.trainium.datasheets.sheet import LOAD_QUEUES
from emu.trainium.engines.memory import dma_load, dma_load_tiles, dma_store, psum, sbuf
from emu.trainium.isa import (
    nc_transpose,
    tensor_copy,
    tensor_copy_at,
    tensor_tensor,
    tensor_tensor_at,
)
from kernels.trainium.gemm.matmul import project
from kernels.trainium.layer.norm import head_norm, normalised_transposed
from kernels.trainium.layer.tiling import LayerTiling
from kernels.trainium.tiles import PARTITIONS, index, largest_divisor


def load_block(x: Any, s: LayerTiling) -> Any:
    """A block of hidden states, HBM `[tiles, rows, hidden padded]` to SBUF `[rows, tiles, ...]`."""
    return dma_load_tiles(sbuf(s.rows, s.tiles, s.hidden_padded, dtype=s.dtype), x)


def rope(x: Any, cos: Any, sin: Any, *, buffers: int = 1) -> Any:
    """Rotates pairs `(i, i + head_dim/2)` of every head.

    Args:
      x: SBUF `[rows, heads, head_dim]`.
      cos, sin: SBUF float32 `[rows, head_dim/2]`, one row per token.
      buffers: depth of every ring of tiles.
    """
    rows, heads, size = x.shape
    half = (rows, heads, size // 2)
    first, second = (
        lax.slice_in_dim(x, a, a + size // 2, axis=2) for a in (0, size // 2)
    )
    c, s = (lax.broadcast_in_dim(t, half, (0, 2)) for t in (cos, sin))
    tile = functools.partial(sbuf, buffers=buffers)
    a = tensor_tensor(tile(*half), first, c, op="multiply")
    b = tensor_tensor(tile(*half), second, s, op="multiply")
    zero = jnp.int32(0)
    out = tile(*x.shape, dtype=x.dtype)
    out = tensor_tensor_at(out, a, b, zero, zero, op="subtract")
    a = tensor_tensor(tile(*half), second, c, op="multiply")
    b = tensor_tensor(tile(*half), first, s, op="multiply")
    return tensor_tensor_at(out, a, b, zero, jnp.int32(size // 2), op="add")


def store_transposed(x: Any) -> Any:
    """Puts each head's features on partitions and stores it: SBUF `[rows, heads, head_dim]` to HBM
    `[heads, head_dim, rows]`, as many heads a transpose as fill 128 partitions."""
    rows, heads, size = x.shape
    group = largest_divisor(heads, PARTITIONS // size)
    grouped = x.reshape(rows, heads // group, group * size)

    def part(_: None, g: Any) -> tuple[None, Any]:
        bank = nc_transpose(
            psum(group * size, rows, dtype=x.dtype), index(grouped, g, 1)
        )
        return None, dma_store(
            tensor_copy(sbuf(*bank.shape, dtype=x.dtype, buffers=2), bank)
        )

    _, out = lax.scan(part, None, jnp.arange(heads // group))
    return out.reshape(heads, size, rows)


def qkv(x: Any, cos: Any, sin: Any, w: Any, s: LayerTiling) -> tuple[Any, Any, Any]:
    """Queries, keys and values of this core's tokens.

    Args:
      x: HBM `[blocks, tiles, rows, hidden padded]`.
      cos, sin: HBM float32 `[blocks, tiles, rows, head_dim/2]`.
      w: `attn_norm`, packed `wqkv` and, for Qwen3, `q_norm` and `k_norm`.
      s: sizes.

    Returns:
      q `[token tiles, heads, head_dim, rows]`, k `[token tiles, kv_heads, head_dim, rows]`, both
      rotated, and v `[token tiles, rows, kv_heads · head_dim]`, in HBM.
    """
    columns = s.qkv_columns
    width = (s.heads + 2 * s.kv_heads) * s.head_dim

    def emit(out: Any, b: Any, sums: Any) -> Any:
        for m, tile in enumerate(sums):
            out = tensor_copy_at(out, tile, jnp.int32(m), b * columns)
        return out

    def block(_: None, xs: Any) -> tuple[None, Any]:
        x, cos, sin = xs
        h = normalised_transposed(load_block(x, s), w["attn_norm"], s)
        out = sbuf(s.rows, s.tiles, width, dtype=s.dtype)
        out = project(h, w["wqkv"], out, emit, rows=s.rows)

        def tile(_: None, xs: Any) -> tuple[None, Any]:
            m, cos, sin = xs
            return None, _split(index(out, m, 1), cos, sin, w, s)

        return None, lax.scan(tile, None, (jnp.arange(s.tiles), cos, sin))[1]

    _, stored = lax.scan(block, None, (x, cos, sin))
    return tuple(y.reshape(s.blocks * s.tiles, *y.shape[2:]) for y in stored)  # type: ignore


def _split(
    fused: Any, cos: Any, sin: Any, w: Any, s: LayerTiling
) -> tuple[Any, Any, Any]:
    """One token tile's fused projection `[rows, columns]` to stored q, k, v."""
    d = s.head_dim
    turns = zip((cos, sin), LOAD_QUEUES, strict=True)
    c, n = (dma_load(sbuf(s.rows, d // 2), t, queue=queue) for t, queue in turns)
    ends = (0, s.heads * d, (s.heads + s.kv_heads) * d, (s.heads + 2 * s.kv_heads) * d)
    parts = [
        lax.slice_in_dim(fused, a, b, axis=1)
        for a, b in zip(ends, ends[1:], strict=False)
    ]
    q, k = (p.reshape(s.rows, -1, d) for p in parts[:2])
    if s.qk_norm:
        q = head_norm(q, w["q_norm"], eps=s.eps)
        k = head_norm(k, w["k_norm"], eps=s.eps)
    q, k = (store_transposed(rope(t, c, n)) for t in (q, k))
    return q, k, dma_store(parts[2])
