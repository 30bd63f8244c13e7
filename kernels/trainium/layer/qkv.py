"""From hidden states to rotated queries, keys and values in HBM: norm, projection, RoPE."""

from collections.abc import Callable, Sequence
from typing import TypeAlias

import jax.numpy as jnp
from jax import lax

from emu.annotations import KnownInt
from emu.boxes import ds
from emu.tracing.loop import loop
from emu.trainium.engines.memory import (
    dma_load,
    dma_load_tiles,
    dma_store,
    hbm,
    sbuf,
)
from emu.trainium.isa import (
    tensor_copy,
    tensor_reduce,
    tensor_tensor,
)
from emu.trainium.links.collectives import all_reduce
from emu.trainium.spaces import Hbm, Sbuf
from kernels.trainium.gemm.scaled import Sum, product, put, valued
from kernels.trainium.layer.by_token import normalised_operand
from kernels.trainium.layer.cached import CodedPart
from kernels.trainium.layer.form import PLAIN, Positions, PrefillForm
from kernels.trainium.layer.heads import (
    HeadNorms,
    HeadSizes,
    StoredHeads,
    joined_tiles,
    split_heads,
)
from kernels.trainium.layer.norm import (
    in_every_row,
)
from kernels.trainium.layer.tiling import LayerTiling
from kernels.trainium.layer.weights import LayerWeights
from kernels.trainium.tiles import index, part

Queries: TypeAlias = Hbm | tuple[Hbm, Hbm]
"""As `qkv` gives them; where keys are made of latents, their plain and their turned features apart,
`[token tiles, heads, features, rows]` each."""

Projected: TypeAlias = (
    tuple[Queries, Hbm, Hbm] | tuple[Queries, Hbm, Hbm, CodedPart, CodedPart]
)
"""q, k and v; and these two in codes where the cache is."""

Project: TypeAlias = Callable[[Hbm, LayerWeights], Projected]
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


def qkv(
    x: Hbm,
    weights: LayerWeights,
    positions: Positions,
    tiling: LayerTiling,
    form: PrefillForm = PLAIN,
    *,
    core_axis: str | None = None,
) -> tuple[Hbm, Hbm, Hbm] | tuple[Hbm, Hbm, Hbm, CodedPart, CodedPart]:
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
      as attention takes them, and v `[token tiles, rows, kv_heads · head_dim]`, in HBM. Where the
      tiling has a format for the cache, k and v in it too, tokens of `[token tiles, rows]`.
    """
    columns = tiling.qkv_columns
    sizes = HeadSizes(
        tiling.rows,
        tiling.heads,
        tiling.kv_heads,
        tiling.head_dim,
        tiling.eps,
        tiling.norm_widths,
        tiling.cache,
    )
    norms = HeadNorms(
        *(
            weights.get(name)
            for name in ("q_norm", "k_norm", "wide_q_norm", "wide_k_norm")
        )
    )

    # Each iteration stores what it computed, so the results of all are stacked in HBM.
    def of_block(given: tuple[Hbm, Positions]) -> StoredHeads:
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
        fused = sbuf(tiling.rows, tiling.tiles, sizes.width, dtype=tiling.dtype)
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

        def of_tile(given: tuple[KnownInt, Positions]) -> StoredHeads:
            token_tile, positions = given
            own = index(fused, token_tile, 1)
            own_squares = None if squares is None else index(squares, token_tile, 1)
            return split_heads(own, positions, norms, sizes, form, own_squares)

        numbers = jnp.arange(tiling.tiles, dtype=jnp.int32)
        return lax.map(of_tile, (numbers, positions))

    by_block = lax.map(of_block, (x, positions))
    q, k, v, coded_k, coded_v = joined_tiles(by_block)
    if coded_k is None or coded_v is None:
        return q, k, v
    return q, k, v, coded_k, coded_v


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


__all__ = ["Project", "Queries", "load_block", "qkv"]
