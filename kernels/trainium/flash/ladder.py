"""Flash attention on one NeuronCore as a ladder: each kernel changes one thing of the last."""

from emu.trainium.spaces import Hbm
from kernels.trainium.flash.blocks import (
    all_masked,
    attention,
    none_masked,
    up_to_diagonal,
)
from kernels.trainium.flash.lanes import abreast, in_turn
from kernels.trainium.flash.step import FlashTiling


def flash_full(
    q: Hbm,
    k: Hbm,
    v: Hbm,
    *,
    rows: int = 128,
    columns: int = 512,
    buffers: int = 1,
) -> Hbm:
    """Attention without a mask: every query tile meets every key tile, loaded anew each time.

    Dimensions:
      T: tokens, cut into the largest tiles that divide T. D: head_dim (≤ 128).

    Args:
      q: HBM `[heads, D, T]`.
      k: HBM `[kv_heads, D, T]`.
      v: HBM `[kv_heads, T, D]`.
      rows: most queries of a tile (≤ 128).
      columns: most keys of a tile; 512 float32 scores fill a PSUM bank.
      buffers: depth of the rings of tiles in SBUF.

    Returns:
      HBM `[heads, T, D]`, dtype of `q`; scores and sums in float32.

    Pseudocode:
      for head: for query tile: load q; for key tile: load k, v; s = q k; online softmax; o += p v
    """
    # With one buffer a load waits until the step before is done with its tile: the ladder's lowest
    # rung.
    tiling = FlashTiling.of(q, rows, columns, buffers)
    return attention(q, k, v, tiling, visit=none_masked, run=in_turn)


def flash_masked(
    q: Hbm,
    k: Hbm,
    v: Hbm,
    *,
    rows: int = 128,
    columns: int = 512,
    buffers: int = 1,
) -> Hbm:
    """Causal attention by masks alone: half of the scores are computed to be thrown away.

    Dimensions, Args and Returns as for `flash_full`.

    Pseudocode:
      as `flash_full`, with scores put far below all others where a key follows its query
    """
    tiling = FlashTiling.of(q, rows, columns, buffers)
    return attention(q, k, v, tiling, visit=all_masked, run=in_turn)


def flash_causal(
    q: Hbm,
    k: Hbm,
    v: Hbm,
    *,
    rows: int = 128,
    columns: int = 512,
    buffers: int = 1,
) -> Hbm:
    """Causal attention with tiles above the diagonal skipped and only those on it masked.

    Dimensions, Args and Returns as for `flash_full`.

    Pseudocode:
      as `flash_masked`, for key tiles up to the diagonal, with masks only on the diagonal
    """
    tiling = FlashTiling.of(q, rows, columns, buffers)
    return attention(q, k, v, tiling, visit=up_to_diagonal, run=in_turn)


def flash_grouped(
    q: Hbm,
    k: Hbm,
    v: Hbm,
    *,
    rows: int = 128,
    columns: int = 512,
    lanes: int = 4,
    buffers: int = 2,
) -> Hbm:
    """Causal attention with each K/V tile loaded once for several query tiles and heads.

    Dimensions, Args and Returns as for `flash_full`; `lanes` is how many query tiles may make a
    block: tiles of a head, as many as a K/V tile has keys, then heads that share a KV head.

    Pseudocode:
      for block: load q; for key tile up to the diagonal: load k, v; for lane: as `flash_causal`
    """
    # With 4 lanes, tiles of 128 queries and keys of 512, a block is 4 tiles of one head, and each
    # K/V tile is loaded a quarter as often.
    tiling = FlashTiling.of(q, rows, columns, buffers)
    return attention(
        q,
        k,
        v,
        tiling,
        visit=up_to_diagonal,
        run=in_turn,
        lanes=lanes,
    )


def flash_pipelined(
    q: Hbm,
    k: Hbm,
    v: Hbm,
    *,
    rows: int = 128,
    columns: int = 512,
    lanes: int = 16,
    scalar_copies: int = 2,
    buffers: int = 2,
) -> Hbm:
    """Causal attention whose lanes take turns, so that engines wait for each other less.

    While one lane is in its softmax, the Tensor Engine works for the others: the instructions are
    those of `flash_grouped` in another order. Besides, `scalar_copies` of the four transposes of a
    tile leave PSUM through the Scalar Engine, as the Vector Engine has most to do.

    Dimensions, Args and Returns as for `flash_grouped`.

    Pseudocode:
      as `flash_grouped`, with the steps of the lanes interleaved
    """
    # With 16 lanes a block is 4 tiles of 4 heads: enough lanes that one has scores to compute while
    # others are at each later stage.
    tiling = FlashTiling.of(q, rows, columns, buffers, scalar_copies)
    return attention(
        q,
        k,
        v,
        tiling,
        visit=up_to_diagonal,
        run=abreast,
        lanes=lanes,
    )
