"""From hidden states to rotated queries, keys and values in HBM: norm, projection, RoPE."""

import functools
from collections.abc import Sequence

import jax.numpy as jnp
from jax import lax

from emu.annotations import KnownInt
from emu.trainium.datasheets.sheet import LOAD_QUEUES
from emu.trainium.engines.memory import dma_load, dma_load_tiles, dma_store, psum, sbuf
from emu.trainium.isa import (
    nc_transpose,
    tensor_copy,
    tensor_copy_at,
    tensor_tensor,
    tensor_tensor_at,
)
from emu.trainium.spaces import Hbm, Psum, Sbuf
from kernels.trainium.gemm.matmul import project
from kernels.trainium.layer.norm import head_norm, normalised_transposed
from kernels.trainium.layer.tiling import LayerTiling
from kernels.trainium.layer.weights import LayerWeights
from kernels.trainium.tiles import PARTITIONS, index, largest_divisor


def load_block(x: Hbm, tiling: LayerTiling) -> Sbuf:
    """A block of hidden states, HBM `[tiles, rows, hidden padded]` to SBUF `[rows, tiles, ...]`."""
    shape = tiling.rows, tiling.tiles, tiling.hidden_padded
    return dma_load_tiles(sbuf(*shape, dtype=tiling.dtype), x)


def rope(x: Sbuf, cos: Sbuf, sin: Sbuf, *, buffers: int = 1) -> Sbuf:
    """Rotates pairs `(i, i + head_dim/2)` of every head.

    Args:
      x: SBUF `[rows, heads, head_dim]`.
      cos, sin: SBUF float32 `[rows, head_dim/2]`, one row per token.
      buffers: depth of every ring of tiles.

    Returns:
      SBUF, shape and dtype of `x`; products in float32.

    Pseudocode:
      y[first half] = first · cos - second · sin; y[second half] = second · cos + first · sin
    """
    rows, heads, size = x.shape
    middle = size // 2
    half = rows, heads, middle
    first = lax.slice_in_dim(x, 0, middle, axis=2)
    second = lax.slice_in_dim(x, middle, size, axis=2)
    wide_cos = lax.broadcast_in_dim(cos, half, (0, 2))
    wide_sin = lax.broadcast_in_dim(sin, half, (0, 2))
    tile = functools.partial(sbuf, buffers=buffers)
    zero = jnp.int32(0)

    kept = tensor_tensor(tile(*half), first, wide_cos, op="multiply")
    turned = tensor_tensor(tile(*half), second, wide_sin, op="multiply")
    out = tile(*x.shape, dtype=x.dtype)
    out = tensor_tensor_at(out, kept, turned, zero, zero, op="subtract")

    kept = tensor_tensor(tile(*half), second, wide_cos, op="multiply")
    turned = tensor_tensor(tile(*half), first, wide_sin, op="multiply")
    return tensor_tensor_at(out, kept, turned, zero, jnp.int32(middle), op="add")


def store_transposed(x: Sbuf) -> Hbm:
    """Puts each head's features on partitions and stores it: SBUF `[rows, heads, head_dim]` to HBM
    `[heads, head_dim, rows]`, as many heads a transpose as fill 128 partitions."""
    rows, heads, size = x.shape
    together = largest_divisor(heads, PARTITIONS // size)
    groups = heads // together
    grouped = x.reshape(rows, groups, together * size)

    def store_group(group: KnownInt) -> Hbm:
        bank = psum(together * size, rows, dtype=x.dtype)
        bank = nc_transpose(bank, index(grouped, group, 1))
        copy = sbuf(*bank.shape, dtype=x.dtype, buffers=2)
        return dma_store(tensor_copy(copy, bank))

    out = lax.map(store_group, jnp.arange(groups, dtype=jnp.int32))
    return out.reshape(heads, size, rows)


def qkv(
    x: Hbm, cos: Hbm, sin: Hbm, weights: LayerWeights, tiling: LayerTiling
) -> tuple[Hbm, Hbm, Hbm]:
    """Queries, keys and values of this core's tokens.

    Args:
      x: HBM `[blocks, tiles, rows, hidden padded]`.
      cos, sin: HBM float32 `[blocks, tiles, rows, head_dim/2]`.
      weights: `attn_norm`, packed `wqkv` and, for Qwen3, `q_norm` and `k_norm`.
      tiling: sizes.

    Returns:
      q `[token tiles, heads, head_dim, rows]`, k `[token tiles, kv_heads, head_dim, rows]`, both
      rotated, and v `[token tiles, rows, kv_heads · head_dim]`, in HBM.
    """
    columns = tiling.qkv_columns
    width = (tiling.heads + 2 * tiling.kv_heads) * tiling.head_dim

    def emit(out: Sbuf, column_block: KnownInt, sums: Sequence[Psum]) -> Sbuf:
        for token_tile, bank in enumerate(sums):
            place = jnp.int32(token_tile), column_block * columns
            out = tensor_copy_at(out, bank, *place)
        return out

    # Each iteration stores what it computed, so the results of all are stacked in HBM.
    def of_block(given: tuple[Hbm, Hbm, Hbm]) -> tuple[Hbm, Hbm, Hbm]:
        x, cos, sin = given
        block = load_block(x, tiling)
        h = normalised_transposed(block, weights["attn_norm"], tiling)
        fused = sbuf(tiling.rows, tiling.tiles, width, dtype=tiling.dtype)
        fused = project(h, weights["wqkv"], fused, emit, rows=tiling.rows)

        def of_tile(given: tuple[KnownInt, Hbm, Hbm]) -> tuple[Hbm, Hbm, Hbm]:
            token_tile, cos, sin = given
            own = index(fused, token_tile, 1)
            return _split(own, cos, sin, weights, tiling)

        return lax.map(of_tile, (jnp.arange(tiling.tiles, dtype=jnp.int32), cos, sin))

    q, k, v = lax.map(of_block, (x, cos, sin))
    token_tiles = tiling.blocks * tiling.tiles

    def joined(stored: Hbm) -> Hbm:
        _, _, *shape = stored.shape
        return stored.reshape(token_tiles, *shape)

    return joined(q), joined(k), joined(v)


def _split(
    fused: Sbuf, cos: Hbm, sin: Hbm, weights: LayerWeights, tiling: LayerTiling
) -> tuple[Hbm, Hbm, Hbm]:
    """One token tile's fused projection `[rows, columns]` to stored q, k, v."""
    rows, head_dim = tiling.rows, tiling.head_dim
    own_cos, own_sin = (
        dma_load(sbuf(rows, head_dim // 2), table, queue=queue)
        for table, queue in zip((cos, sin), LOAD_QUEUES, strict=True)
    )
    q_end = tiling.heads * head_dim
    k_end = q_end + tiling.kv_heads * head_dim
    v_end = k_end + tiling.kv_heads * head_dim
    q = lax.slice_in_dim(fused, 0, q_end, axis=1)
    k = lax.slice_in_dim(fused, q_end, k_end, axis=1)
    v = lax.slice_in_dim(fused, k_end, v_end, axis=1)
    q = q.reshape(rows, tiling.heads, head_dim)
    k = k.reshape(rows, tiling.kv_heads, head_dim)
    if tiling.qk_norm:
        q = head_norm(q, weights["q_norm"], eps=tiling.eps)
        k = head_norm(k, weights["k_norm"], eps=tiling.eps)
    stored_q = store_transposed(rope(q, own_cos, own_sin))
    stored_k = store_transposed(rope(k, own_cos, own_sin))
    return stored_q, stored_k, dma_store(v)


__all__ = ["load_block", "qkv", "rope", "store_transposed"]
