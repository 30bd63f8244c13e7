"""From hidden states to rotated queries, keys and values in HBM: norm, projection, RoPE."""

from collections.abc import Callable, Sequence
from typing import TypeAlias

import jax.numpy as jnp
from jax import lax

from emu.annotations import KnownInt
from emu.boxes import ds
from emu.tracing.loop import loop
from emu.trainium.datasheets.sheet import LOAD_QUEUES
from emu.trainium.engines.memory import (
    dma_load,
    dma_load_tiles,
    dma_store,
    hbm,
    psum,
    sbuf,
)
from emu.trainium.isa import (
    nc_transpose,
    tensor_copy,
    tensor_reduce,
    tensor_scalar,
    tensor_tensor,
)
from emu.trainium.links.collectives import all_reduce
from emu.trainium.spaces import Hbm, Sbuf
from kernels.trainium.gemm.scaled import Sum, product, put, valued
from kernels.trainium.layer.by_token import normalised_operand
from kernels.trainium.layer.form import PLAIN, Positions, PrefillForm
from kernels.trainium.layer.norm import (
    head_norm,
    in_every_row,
    wide_norm,
)
from kernels.trainium.layer.tiling import LayerTiling
from kernels.trainium.layer.weights import LayerWeights
from kernels.trainium.tiles import PARTITIONS, index, largest_divisor, part, split

Queries: TypeAlias = Hbm | tuple[Hbm, Hbm]
"""As `qkv` gives them; where keys are made of latents, their plain and their turned features apart,
`[token tiles, heads, features, rows]` each."""

Project: TypeAlias = Callable[[Hbm, LayerWeights], tuple[Queries, Hbm, Hbm]]
"""From hidden states and a layer's weights to its q, k and v, as `qkv` gives them, or
`kernels.trainium.stages.latent.latent_qkv`."""


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
    """Rotates pairs `(i, i + n)` of the first `2 n` features of every head.

    Args:
      x: SBUF `[rows, heads, head_dim]`.
      cos, sin: SBUF float32 `[rows, n]`, one row per token.
      buffers: depth of every ring of tiles.

    Returns:
      SBUF, shape and dtype of `x`; products in float32.

    Pseudocode:
      y[first] = x[first] · cos - x[second] · sin; y[second] = x[second] · cos + x[first] · sin
      y[other features] = x[other features]
    """
    rows, heads, size = x.shape
    middle = cos.shape[1]
    end = 2 * middle
    # Halves, not neighbours: Llama's checkpoints in Hugging Face's order pair feature i with i +
    # head_dim/2, which makes each operand one contiguous view.
    first = lax.slice_in_dim(x, 0, middle, axis=2)
    second = lax.slice_in_dim(x, middle, end, axis=2)
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
    out = tensor_tensor.at[..., middle:end](out, kept, turned, op="add")
    if end == size:
        return out
    rest = lax.slice_in_dim(x, end, size, axis=2)
    # By the Scalar Engine, as all else here is the Vector Engine's.
    return tensor_copy.at[..., end:](out, rest, engine="scalar")


def store_transposed(x: Sbuf) -> Hbm:
    """Puts each head's features on partitions and stores it: SBUF `[rows, heads, head_dim]` to HBM
    `[heads, head_dim, rows]`, as many heads a transpose as fill 128 partitions.

    32 heads of 64 features are 16 transposes of two heads; of 128 features, 32 of one; of 256, 64
    of half a head.
    """
    rows, all_heads, head_dim = x.shape
    parts, size = split(head_dim, PARTITIONS)
    heads = all_heads * parts
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
    return out.reshape(all_heads, head_dim, rows)


def qkv(
    x: Hbm,
    weights: LayerWeights,
    positions: Positions,
    tiling: LayerTiling,
    form: PrefillForm = PLAIN,
    *,
    core_axis: str | None = None,
) -> tuple[Hbm, Hbm, Hbm]:
    """Queries, keys and values of this core's tokens.

    Args:
      x: HBM `[blocks, tiles, rows, hidden padded]`.
      weights: `attn_norm`, packed `wqkv`, and `bqkv` and norms of queries and keys where there are
        any.
      positions: of the tokens.
      tiling: sizes.
      form: what is done to queries and keys.
      core_axis: mesh axis of the chip's cores that have the other heads, for a norm over all heads;
        None where there are no others.

    Returns:
      q `[token tiles, heads, head_dim, rows]`, k `[token tiles, kv_heads, head_dim, rows]`, both
      as attention takes them, and v `[token tiles, rows, kv_heads · head_dim]`, in HBM.
    """
    columns = tiling.qkv_columns
    all_heads = tiling.heads + 2 * tiling.kv_heads
    width = all_heads * tiling.head_dim

    # Each iteration stores what it computed, so the results of all are stacked in HBM.
    def of_block(given: tuple[Hbm, Positions]) -> tuple[Hbm, Hbm, Hbm]:
        x, positions = given
        block = load_block(x, tiling)
        # The norm is computed with tokens on partitions, where a sum over features is one
        # instruction; the projection contracts features, which must be on partitions then.
        h = normalised_operand(block, weights["attn_norm"], tiling)

        def copy(out: Sbuf, block: KnownInt, sums: Sequence[Sum]) -> Sbuf:
            for number, own in enumerate(sums):
                out = put(out, (slice(None), number, ds(block * columns, columns)), own)
            return out

        def add(
            both: tuple[Sbuf, Sbuf], block: KnownInt, sums: Sequence[Sum]
        ) -> tuple[Sbuf, Sbuf]:
            out, bias = both
            first = block * columns
            # Added where the sums leave PSUM anyway, before they are rounded.
            own_bias = part(bias, first, columns, axis=2)[:, 0]
            for number, own in enumerate(sums):
                at = slice(None), number, ds(first, columns)
                out = tensor_tensor.at[at](out, valued(own), own_bias, op="add")
            return out, bias

        # q, k and v contract the same features: as one matrix their weights are one stream, without
        # a pause between three.
        fused = sbuf(tiling.rows, tiling.tiles, width, dtype=tiling.dtype)
        if "bqkv" in weights:
            # Beside the result, so that each block of columns is given its own part of it.
            bias = in_every_row(weights["bqkv"], tiling.rows)[:, None]
            both = fused, bias
            fused, _ = product(h, weights["wqkv"], both, add, rows=tiling.rows)
        else:
            fused = product(h, weights["wqkv"], fused, copy, rows=tiling.rows)

        squares = None
        if form.qk_norm == "width":
            squares = _squares(fused, tiling, core_axis)

        def of_tile(given: tuple[KnownInt, Positions]) -> tuple[Hbm, Hbm, Hbm]:
            token_tile, positions = given
            own = index(fused, token_tile, 1)
            own_squares = None if squares is None else index(squares, token_tile, 1)
            return _split(own, own_squares, weights, positions, tiling, form)

        numbers = jnp.arange(tiling.tiles, dtype=jnp.int32)
        return lax.map(of_tile, (numbers, positions))

    q, k, v = lax.map(of_block, (x, positions))
    token_tiles = tiling.blocks * tiling.tiles

    def joined(stored: Hbm) -> Hbm:
        _, _, *rest = stored.shape
        return stored.reshape(token_tiles, *rest)

    return joined(q), joined(k), joined(v)


def _squares(fused: Sbuf, tiling: LayerTiling, core_axis: str | None) -> Sbuf:
    """Sums of the squares of a block's queries and of its keys, over the heads of all cores.

    Each core has the sums of its own heads; what is exchanged is two numbers a token, once for a
    block of tokens. Fewer exchanges would need queries, keys and values to wait in HBM: 512 tokens
    of 1,024 bfloat16 features, written and read again, are 2 MiB for 4 KiB that are exchanged.

    Args:
      fused: SBUF `[rows, tiles, columns]`.
      tiling: sizes.
      core_axis: as for `qkv`.

    Returns:
      SBUF float32 `[rows, tiles, 2]`.
    """
    rows, tiles, _ = fused.shape
    q_end = tiling.heads * tiling.head_dim
    k_end = q_end + tiling.kv_heads * tiling.head_dim

    def of_tile(sums: Sbuf, token_tile: KnownInt) -> Sbuf:
        own = index(fused, token_tile, 1)
        for place, (start, end) in enumerate(((0, q_end), (q_end, k_end))):
            x = lax.slice_in_dim(own, start, end, axis=1)
            square = sbuf(*x.shape)
            square = tensor_tensor(square, x, x, op="multiply")
            total = sbuf(rows, 1)
            total = tensor_reduce(total, square, op="add")
            at = slice(place, place + 1)
            sums = tensor_copy.at[:, token_tile, at](sums, total)
        return sums

    sums = loop(of_tile, sbuf(rows, tiles, 2), tiles)
    if core_axis is None:
        return sums
    stored = dma_store(sums)
    received = hbm(*stored.shape, dtype=stored.dtype)
    received = all_reduce(received, stored, axis=core_axis)
    return dma_load(sbuf(rows, tiles, 2), received)


def _split(
    fused: Sbuf,
    squares: Sbuf | None,
    weights: LayerWeights,
    positions: Positions,
    tiling: LayerTiling,
    form: PrefillForm,
) -> tuple[Hbm, Hbm, Hbm]:
    """One token tile's fused projection `[rows, columns]` to stored q, k, v; see `_squares`."""
    rows = tiling.rows
    head_dim = tiling.head_dim

    def loaded(table: Hbm | None, queue: str) -> Sbuf:
        assert table is not None
        tile = sbuf(rows, table.shape[-1])
        return dma_load(tile, table, queue=queue)

    # By two queues, so that neither table waits for the other.
    first_queue, second_queue = LOAD_QUEUES
    own_cos = own_sin = None
    if form.turns:
        own_cos = loaded(positions.cos, first_queue)
        own_sin = loaded(positions.sin, second_queue)
    # With 4 query heads over 2 KV heads of 16 features the columns are q 0-63, k 64-95, v 96-127.
    q_end = tiling.heads * head_dim
    k_end = q_end + tiling.kv_heads * head_dim
    v_end = k_end + tiling.kv_heads * head_dim
    q = lax.slice_in_dim(fused, 0, q_end, axis=1)
    k = lax.slice_in_dim(fused, q_end, k_end, axis=1)
    v = lax.slice_in_dim(fused, k_end, v_end, axis=1)
    if squares is not None:
        assert tiling.norm_widths is not None
        assert "wide_q_norm" in weights and "wide_k_norm" in weights
        of_q, of_k = squares[:, 0:1], squares[:, 1:2]
        q_width, k_width = tiling.norm_widths
        q_weight, k_weight = weights["wide_q_norm"], weights["wide_k_norm"]
        q = wide_norm(q, of_q, q_weight, size=q_width, eps=tiling.eps)
        k = wide_norm(k, of_k, k_weight, size=k_width, eps=tiling.eps)
    q = q.reshape(rows, tiling.heads, head_dim)
    k = k.reshape(rows, tiling.kv_heads, head_dim)
    # Qwen3's norm is before RoPE: its weights differ by feature, and after it they would scale what
    # is mixed.
    if form.qk_norm == "head":
        q = head_norm(q, weights.get("q_norm"), eps=tiling.eps)
        k = head_norm(k, weights.get("k_norm"), eps=tiling.eps)

    def positioned(x: Sbuf) -> Sbuf:
        if own_cos is not None and own_sin is not None:
            x = rope(x, own_cos, own_sin)
        # Llama 4's is after it.
        return head_norm(x, None, eps=tiling.eps) if form.qk_norm == "unit" else x

    q = positioned(q)
    if form.has_temperature:
        own_factor = loaded(positions.temperature, first_queue)
        warmed = sbuf(*q.shape, dtype=q.dtype)
        q = tensor_scalar(warmed, q, own_factor, op="multiply")
    stored_q = store_transposed(q)
    k = positioned(k)
    stored_k = store_transposed(k)
    # A value has no position.
    stored_v = dma_store(v)
    return stored_q, stored_k, stored_v


__all__ = ["Project", "Queries", "load_block", "qkv", "rope", "store_transposed"]
