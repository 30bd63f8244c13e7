"""The two ends of the model: embedding rows gathered, the last token's logits and their maxima."""

from typing import Any

import jax.numpy as jnp
from jax import lax

from emu.trainium.engines.memory import (
    dma_gather,
    dma_load,
    dma_store,
    dma_store_at,
    hbm,
    psum,
    sbuf,
)
from emu.trainium.isa import (
    nc_find_index8,
    nc_max8,
    nc_transpose,
    tensor_copy,
    tensor_copy_at,
)
from kernels.trainium.gemm.matmul import project
from kernels.trainium.layer.norm import rms_norm
from kernels.trainium.layer.tiling import LayerTiling
from kernels.trainium.tiles import part


def embed(ids: Any, table: Any, s: LayerTiling) -> Any:
    """Rows of the embedding table for this core's tokens.

    Args:
      ids: HBM int32 `[blocks, tiles, rows]`.
      table: HBM `[vocabulary, hidden padded]`.
      s: sizes.

    Returns:
      HBM `[blocks, tiles, rows, hidden padded]`.
    """

    def tile(_: None, ids: Any) -> tuple[None, Any]:
        dst = sbuf(s.rows, s.hidden_padded, dtype=s.dtype)
        return None, dma_store(dma_gather(dst, table, ids))

    _, x = lax.scan(tile, None, ids.reshape(s.blocks * s.tiles, s.rows))
    return x.reshape(s.blocks, s.tiles, s.rows, s.hidden_padded)


def lm_head(
    x: Any, norm: Any, heads: Any, s: LayerTiling, *, row: int, mine: Any
) -> Any:
    """Logits of one token on the core that holds it; the other cores pass by.

    Args:
      x: HBM `[blocks, tiles, rows, hidden padded]`.
      norm: HBM `[1, hidden padded]`.
      heads: packed head weights, one per width of column block (all but the last are equal).
      s: sizes.
      row: which of this core's tokens.
      mine: known boolean, whether this core holds the token.

    Returns:
      Per entry of `heads`: logits float32 `[blocks, columns]` and the largest one's place in each
      block, int32 `[blocks, 8]`; in HBM, NaN and the largest integer on other cores.
    """
    flat = x.reshape(s.tokens, s.hidden_padded)
    outs = tuple(
        (hbm(w.shape[0], 1, w.shape[4]), hbm(w.shape[0], 1, 8, dtype=jnp.int32))
        for w in heads
    )

    def use(outs: Any) -> Any:
        y = dma_load(
            sbuf(1, s.hidden_padded, dtype=s.dtype),
            lax.slice_in_dim(flat, row, row + 1, axis=0),
        )
        h = _normalised_column(y, norm, s)
        return tuple(_logits(h, w, out) for w, out in zip(heads, outs, strict=True))

    return lax.cond(mine, use, lambda outs: outs, outs)


def _normalised_column(y: Any, norm: Any, s: LayerTiling) -> Any:
    """RMSNorm of one token, features on partitions: SBUF `[hidden tile, hidden tiles, 1]`."""
    count, size = s.hidden_tiles
    weight = dma_load(sbuf(1, s.hidden_padded, dtype=norm.dtype), norm)
    h = rms_norm(y, weight, size=s.hidden, eps=s.eps)

    def turn(out: Any, k: Any) -> tuple[Any, None]:
        piece = part(h, k * size, size, axis=1)
        bank = nc_transpose(psum(size, 1, dtype=s.dtype), piece)
        return tensor_copy_at(out, bank, k, jnp.int32(0)), None

    return lax.scan(turn, sbuf(size, count, 1, dtype=s.dtype), jnp.arange(count))[0]


def _logits(h: Any, w: Any, outs: Any) -> Any:
    columns = w.shape[4]

    def emit(outs: Any, b: Any, sums: Any) -> Any:
        logits = tensor_copy(sbuf(1, columns), sums[0])
        best = nc_max8(sbuf(1, 8), logits)
        place = nc_find_index8(sbuf(1, 8, dtype=jnp.int32), logits, best)
        return dma_store_at(outs[0], logits, b), dma_store_at(outs[1], place, b)

    return project(h, w, outs, emit, rows=1, axis=0)
