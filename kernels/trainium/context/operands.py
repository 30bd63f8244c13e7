"""Queries, keys and values in one floating-point dtype: their tiles in SBUF, and their step."""

from typing import Any

from emu.trainium.datasheets.sheet import LOAD_QUEUES
from emu.trainium.engines.memory import dma_load_tiles, sbuf
from kernels.trainium.context.sizes import ContextTiling
from kernels.trainium.flash.lanes import Lane
from kernels.trainium.flash.step import Attended, Banks, Masked, attend
from kernels.trainium.tiles import divide, index, part

KEYS, VALUES = LOAD_QUEUES


def query_tiles(s: ContextTiling) -> list[Any]:
    """SBUF for a head's query tiles of a block: by part `[part, block tiles, rows]`."""
    return [sbuf(n, s.block_tiles, s.rows, dtype=s.dtype) for n in s.parts]


def load_queries(
    tiles: list[Any], q: Any, first: Any, head: Any, queue: str
) -> list[Any]:
    """Brings a head's query tiles from tile `first` on: HBM by part `[tiles, heads, part, rows]`.

    Works for whatever stands as `[tiles, heads, ...]` in HBM and `[..., tiles, ...]` in SBUF.
    """
    mine = (
        index(part(x, first, t.shape[1], 0), head, 1)
        for x, t in zip(q, tiles, strict=True)
    )
    return [dma_load_tiles(t, x, queue=queue) for t, x in zip(tiles, mine, strict=True)]


def query_of(tiles: list[Any], n: int, s: ContextTiling) -> list[Any]:
    """Query tile n of them."""
    return [x[:, n] for x in tiles]


def load_kv(block: Any, head: Any, j: Any, s: ContextTiling) -> Any:
    """Key tile j of one KV head.

    Args:
      block: HBM keys by part `[pieces, kv_heads or 1, part, keys]`, one head serving all, and
        values `[pieces, keys, kv_heads · value_dim]`, or `[pieces, groups, ...]` of fewer heads.
      head: which.
      j: which tile.
      s: sizes.

    Returns:
      Keys by part, SBUF `[part, columns]`, and values `[keys, span, value_dim]`.
    """
    k, v = block
    own = (part(x, j * s.span, s.span, 0) for x in k)
    own = (index(x, head if x.shape[1] > 1 else 0, 1) for x in own)
    keys = [_keys(x, s) for x in own]
    own = part(v, j * s.span, s.span, 0)
    if v.ndim == 4:
        group, head = divide(head, v.shape[3] // s.value_dim)
        own = index(own, group, 1)
    own = part(own, head * s.value_dim, s.value_dim, 2)
    tile = sbuf(s.keys, s.span, s.value_dim, dtype=s.dtype, buffers=s.buffers)
    return keys, dma_load_tiles(tile, own, queue=VALUES)


def _keys(x: Any, s: ContextTiling) -> Any:
    tile = sbuf(x.shape[1], s.span, s.keys, dtype=s.dtype, buffers=s.buffers)
    return dma_load_tiles(tile, x, queue=KEYS).reshape(-1, s.columns)


def step(
    q: list[Any],
    kv: Any,
    done: Attended,
    masked: Masked | None,
    banks: Banks,
    s: ContextTiling,
) -> Lane:
    """A lane that attends a query tile to a key tile; see `flash_steps.attend`."""
    k, v = kv
    return attend(q, k, v, done, masked, banks, s.step)


__all__ = ["KEYS", "load_kv", "load_queries", "query_of", "query_tiles", "step"]
