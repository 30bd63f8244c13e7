"""The two ends of the model: embedding rows gathered, the last token's logits and their maxima."""

from collections.abc import Sequence
from typing import TypeAlias

import jax.numpy as jnp
from jax import lax

from emu.annotations import KnownInt
from emu.tracing.loop import loop
from emu.trainium.engines.memory import (
    dma_gather,
    dma_load,
    dma_store,
    hbm,
    psum,
    sbuf,
)
from emu.trainium.isa import (
    activation,
    nc_find_index8,
    nc_max8,
    nc_transpose,
    tensor_copy,
    tensor_immediate,
)
from emu.trainium.spaces import Hbm, Psum, Sbuf
from kernels.trainium.gemm.matmul import project
from kernels.trainium.layer.norm import rms_norm
from kernels.trainium.layer.tiling import LayerTiling
from kernels.trainium.tiles import part

LARGEST = 8  # numbers that `nc_max8` finds at once

Logits: TypeAlias = tuple[Hbm, Hbm]
"""Logits `[blocks, 1, columns]` and the places of the largest of each block, `[blocks, 1, 8]`."""


def embed(ids: Hbm, table: Hbm, tiling: LayerTiling, *, scale: float = 1.0) -> Hbm:
    """Rows of the embedding table for this core's tokens.

    Args:
      ids: HBM int32 `[blocks, tiles, rows]`.
      table: HBM `[vocabulary, hidden padded]`.
      tiling: sizes.
      scale: what rows are multiplied by.

    Returns:
      HBM `[blocks, tiles, rows, hidden padded]`.
    """
    width = tiling.hidden_padded

    def token_tile(ids: Hbm) -> Hbm:
        # Rows of the table are read where ids point, so a prompt costs its own tokens and not the
        # vocabulary.
        tile = sbuf(tiling.rows, width, dtype=tiling.dtype)
        gathered = dma_gather(tile, table, ids)
        if scale != 1:
            gathered = tensor_immediate(gathered, gathered, op="multiply", value=scale)
        return dma_store(gathered)

    by_tile = ids.reshape(-1, tiling.rows)
    x = lax.map(token_tile, by_tile)
    return x.reshape(*ids.shape, width)


def lm_head(
    x: Hbm,
    norm: Hbm,
    heads: Sequence[Hbm],
    tiling: LayerTiling,
    *,
    row: int,
    mine: KnownInt,
    soft_cap: float | None = None,
) -> tuple[Logits, ...]:
    """Logits of one token on the core that holds it; the other cores pass by.

    Args:
      x: HBM `[blocks, tiles, rows, hidden padded]`.
      norm: HBM `[1, hidden padded]`.
      heads: packed head weights, one per width of column block (all but the last are equal).
      tiling: sizes.
      row: which of this core's tokens.
      mine: known boolean, whether this core holds the token.
      soft_cap: logits become `soft_cap · tanh(logit / soft_cap)`; None: they stay.

    Returns:
      Per entry of `heads`: logits float32 `[blocks, 1, columns]` and the largest one's place in
      each block, int32 `[blocks, 1, 8]`; in HBM, NaN and the largest integer on other cores.
    """
    flat = x.reshape(tiling.tokens, tiling.hidden_padded)

    def unknown(weights: Hbm) -> Logits:
        blocks, _, _, _, columns = weights.shape
        logits = hbm(blocks, 1, columns)
        places = hbm(blocks, 1, LARGEST, dtype=jnp.int32)
        return logits, places

    def use(outs: tuple[Logits, ...]) -> tuple[Logits, ...]:
        tile = sbuf(1, tiling.hidden_padded, dtype=tiling.dtype)
        # Prefill wants the next token only, so of all tokens one is normalised and projected.
        own = lax.slice_in_dim(flat, row, row + 1, axis=0)
        token = dma_load(tile, own)
        h = _normalised_column(token, norm, tiling)
        filled = []
        for weights, out in zip(heads, outs, strict=True):
            filled.append(_logits(h, weights, out, soft_cap))
        return tuple(filled)

    def pass_by(outs: tuple[Logits, ...]) -> tuple[Logits, ...]:
        return outs

    # One program runs on all cores: those without the token skip the work, and give buffers that
    # nobody reads.
    outs = tuple(unknown(weights) for weights in heads)
    return lax.cond(mine, use, pass_by, outs)


def _normalised_column(token: Sbuf, norm: Hbm, tiling: LayerTiling) -> Sbuf:
    """RMSNorm of one token, features on partitions: SBUF `[hidden tile, hidden tiles, 1]`."""
    count, size = tiling.hidden_tiles
    weight = sbuf(1, tiling.hidden_padded, dtype=norm.dtype)
    weight = dma_load(weight, norm)
    normed = rms_norm(token, weight, size=tiling.hidden, eps=tiling.eps)

    def turn(out: Sbuf, hidden_tile: KnownInt) -> Sbuf:
        first_feature = hidden_tile * size
        features = part(normed, first_feature, size, axis=1)
        bank = psum(size, 1, dtype=tiling.dtype)
        bank = nc_transpose(bank, features)
        return tensor_copy.at[:, hidden_tile](out, bank)

    out = sbuf(size, count, 1, dtype=tiling.dtype)
    return loop(turn, out, count)


def _logits(h: Sbuf, weights: Hbm, outs: Logits, soft_cap: float | None) -> Logits:
    columns = weights.shape[4]

    def emit(outs: Logits, block: KnownInt, sums: Sequence[Psum]) -> Logits:
        all_logits, all_places = outs
        (only_token,) = sums
        logits = sbuf(1, columns)
        if soft_cap is None:
            logits = tensor_copy(logits, only_token)
        else:
            # The Scalar Engine takes them out of PSUM by the way.
            logits = activation(logits, only_token, op="tanh", scale=1.0 / soft_cap)
            logits = tensor_immediate(logits, logits, op="multiply", value=soft_cap)
        # Of each block the largest and its place: the host compares the blocks'.
        # The instructions find eight; of these only the first is wanted.
        largest = sbuf(1, LARGEST)
        largest = nc_max8(largest, logits)
        places = sbuf(1, LARGEST, dtype=jnp.int32)
        places = nc_find_index8(places, logits, largest)
        all_logits = dma_store.at[block](all_logits, logits)
        all_places = dma_store.at[block](all_places, places)
        return all_logits, all_places

    # One token takes a 128th of the array, so the time is that of loading the head's weights.
    return project(h, weights, outs, emit, rows=1, axis=0)


__all__ = ["Logits", "embed", "lm_head"]
