"""From hidden states to rotated queries, keys and values in HBM: norm, projection, RoPE."""

from collections.abc import Sequence

import jax.numpy as jnp
from jax import lax

from emu.annotations import KnownInt
from emu.boxes import ds
from emu.trainium.datasheets.sheet import LOAD_QUEUES
from emu.trainium.engines.memory import dma_load, dma_load_tiles, dma_store, psum, sbuf
from emu.trainium.isa import (
    nc_transpose,
    tensor_copy,
    tensor_tensor,
)
from emu.trainium.spaces import Hbm, Psum, Sbuf
from kernels.trainium.gemm.matmul import project
from kernels.trainium.layer.norm import head_norm, normalised_transposed
from kernels.trainium.layer.tiling import LayerTiling
from kernels.trainium.layer.weights import LayerWeights
from kernels.trainium.tiles import PARTITIONS, index, largest_divisor


def load_block(x: Hbm, tiling: LayerTiling) -> Sbuf:
    """A block of hidden states, HBM `[tiles, rows, hidden padded]` to SBUF `[rows, tiles, ...]`."""
    tile = sbuf(
        tiling.rows,
        tiling.tiles,
        tiling.hidden_padded,
        dtype=tiling.dtype,
    )
    return dma_load_tiles(tile, x)


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
    # Halves, not neighbours: Llama's checkpoints in Hugging Face's order pair feature i with i +
    # head_dim/2, which makes each operand one contiguous view.
    first = lax.slice_in_dim(x, 0, middle, axis=2)
    second = lax.slice_in_dim(x, middle, size, axis=2)
    # Views: every head turns by its token's angles.
    row, _, feature = range(3)
    wide_cos = lax.broadcast_in_dim(cos, first.shape, (row, feature))
    wide_sin = lax.broadcast_in_dim(sin, first.shape, (row, feature))

    def half() -> Sbuf:
        return sbuf(rows, heads, middle, buffers=buffers)

    kept = tensor_tensor(half(), first, wide_cos, op="multiply")
    turned = tensor_tensor(half(), second, wide_sin, op="multiply")
    # Both products are float32, and only their difference is rounded.
    out = sbuf(*x.shape, dtype=x.dtype, buffers=buffers)
    out = tensor_tensor.at[..., :middle](out, kept, turned, op="subtract")

    kept = tensor_tensor(half(), second, wide_cos, op="multiply")
    turned = tensor_tensor(half(), first, wide_sin, op="multiply")
    return tensor_tensor.at[..., middle:](out, kept, turned, op="add")


def store_transposed(x: Sbuf) -> Hbm:
    """Puts each head's features on partitions and stores it: SBUF `[rows, heads, head_dim]` to HBM
    `[heads, head_dim, rows]`, as many heads a transpose as fill 128 partitions.

    32 heads of 64 features are 16 transposes of two heads; of 128 features, 32 of one.
    """
    rows, heads, size = x.shape
    # A transpose takes as long for 64 rows of the result as for 128.
    heads_together = largest_divisor(heads, PARTITIONS // size)
    features = heads_together * size
    groups = heads // heads_together
    grouped = x.reshape(rows, groups, features)

    def store_group(group: KnownInt) -> Hbm:
        bank = psum(features, rows, dtype=x.dtype)
        own = index(grouped, group, 1)
        bank = nc_transpose(bank, own)
        copy = sbuf(*bank.shape, dtype=x.dtype, buffers=2)
        copy = tensor_copy(copy, bank)
        return dma_store(copy)

    numbers = jnp.arange(groups, dtype=jnp.int32)
    out = lax.map(store_group, numbers)
    return out.reshape(heads, size, rows)


def qkv(
    x: Hbm,
    cos: Hbm,
    sin: Hbm,
    weights: LayerWeights,
    tiling: LayerTiling,
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
    all_heads = tiling.heads + 2 * tiling.kv_heads
    width = all_heads * tiling.head_dim

    def emit(
        out: Sbuf,
        column_block: KnownInt,
        sums: Sequence[Psum],
    ) -> Sbuf:
        for number, bank in enumerate(sums):
            column = ds(column_block * columns, columns)
            out = tensor_copy.at[:, number, column](out, bank)
        return out

    # Each iteration stores what it computed, so the results of all are stacked in HBM.
    def of_block(given: tuple[Hbm, Hbm, Hbm]) -> tuple[Hbm, Hbm, Hbm]:
        x, cos, sin = given
        block = load_block(x, tiling)
        # The norm is computed with tokens on partitions, where a sum over features is one
        # instruction; the projection contracts features, which must be on partitions then.
        h = normalised_transposed(block, weights["attn_norm"], tiling)
        # q, k and v contract the same features: as one matrix their weights are one stream, without
        # a pause between three.
        fused = sbuf(tiling.rows, tiling.tiles, width, dtype=tiling.dtype)
        fused = project(h, weights["wqkv"], fused, emit, rows=tiling.rows)

        def of_tile(given: tuple[KnownInt, Hbm, Hbm]) -> tuple[Hbm, Hbm, Hbm]:
            token_tile, cos, sin = given
            own = index(fused, token_tile, 1)
            return _split(own, cos, sin, weights, tiling)

        numbers = jnp.arange(tiling.tiles, dtype=jnp.int32)
        return lax.map(of_tile, (numbers, cos, sin))

    q, k, v = lax.map(of_block, (x, cos, sin))
    token_tiles = tiling.blocks * tiling.tiles

    def joined(stored: Hbm) -> Hbm:
        _, _, *rest = stored.shape
        return stored.reshape(token_tiles, *rest)

    return joined(q), joined(k), joined(v)


def _split(
    fused: Sbuf,
    cos: Hbm,
    sin: Hbm,
    weights: LayerWeights,
    tiling: LayerTiling,
) -> tuple[Hbm, Hbm, Hbm]:
    """One token tile's fused projection `[rows, columns]` to stored q, k, v."""
    rows = tiling.rows
    head_dim = tiling.head_dim

    def angles(table: Hbm, queue: str) -> Sbuf:
        tile = sbuf(rows, head_dim // 2)
        return dma_load(tile, table, queue=queue)

    # By two queues, so that neither table waits for the other.
    cos_queue, sin_queue = LOAD_QUEUES
    own_cos = angles(cos, cos_queue)
    own_sin = angles(sin, sin_queue)
    # With 4 query heads over 2 KV heads of 16 features the columns are q 0-63, k 64-95, v 96-127.
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
    # After the norm of each head, as Qwen3 does; v has no position.
    rotated_q = rope(q, own_cos, own_sin)
    stored_q = store_transposed(rotated_q)
    rotated_k = rope(k, own_cos, own_sin)
    stored_k = store_transposed(rotated_k)
    stored_v = dma_store(v)
    return stored_q, stored_k, stored_v


__all__ = ["load_block", "qkv", "rope", "store_transposed"]
