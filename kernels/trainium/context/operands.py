"""Queries, keys and values in one floating-point dtype: their tiles in SBUF, and their step."""

from collections.abc import Sequence
from typing import TypeAlias

from emu.annotations import KnownInt
from emu.trainium.datasheets.sheet import LOAD_QUEUES
from emu.trainium.engines.memory import dma_load_tiles, sbuf
from emu.trainium.spaces import Hbm, Sbuf
from kernels.trainium.context.sizes import ContextTiling
from kernels.trainium.flash.lanes import Lane
from kernels.trainium.flash.step import Attended, Banks, Masked, attend
from kernels.trainium.tiles import divide, index, part

KEYS, VALUES = LOAD_QUEUES

ByPart: TypeAlias = Sequence[Sbuf]
"""A tile for each part of the features that is contracted at once."""

Block: TypeAlias = tuple[Sequence[Hbm], Hbm]
"""Keys by part and values of one source."""

KeyTile: TypeAlias = tuple[ByPart, Sbuf]
"""Keys by part `[part, columns]` and values `[keys, span, value_dim]` of one KV head."""


def query_tiles(tiling: ContextTiling) -> list[Sbuf]:
    """SBUF for a head's query tiles of a block: by part `[part, block tiles, rows]`."""
    return [
        sbuf(features, tiling.block_tiles, tiling.rows, dtype=tiling.dtype)
        for features in tiling.parts
    ]


def load_queries(
    tiles: Sequence[Sbuf],
    q: Sequence[Hbm],
    first: KnownInt,
    head: KnownInt,
    queue: str,
) -> list[Sbuf]:
    """Brings a head's query tiles from tile `first` on: HBM by part `[tiles, heads, part, rows]`.

    Works for whatever stands as `[tiles, heads, ...]` in HBM and `[..., tiles, ...]` in SBUF.
    """
    loaded = []
    for tile, whole in zip(tiles, q, strict=True):
        mine = index(part(whole, first, tile.shape[1], 0), head, 1)
        loaded.append(dma_load_tiles(tile, mine, queue=queue))
    return loaded


def query_of(tiles: Sequence[Sbuf], place: int, tiling: ContextTiling) -> ByPart:
    """One of a head's query tiles."""
    return [tile[:, place] for tile in tiles]


def load_kv(
    block: Block, head: KnownInt, key_tile: KnownInt, tiling: ContextTiling
) -> KeyTile:
    """A key tile of one KV head.

    Args:
      block: HBM keys by part `[pieces, kv_heads or 1, part, keys]`, one head serving all, and
        values `[pieces, keys, kv_heads · value_dim]`, or `[pieces, groups, ...]` of fewer heads.
      head: which.
      key_tile: which.
      tiling: sizes.
    """
    k, v = block
    first = key_tile * tiling.span
    keys = []
    for features in k:
        own = part(features, first, tiling.span, 0)
        own = index(own, head if own.shape[1] > 1 else 0, 1)
        keys.append(_load_keys(own, tiling))
    own = part(v, first, tiling.span, 0)
    if v.ndim == 4:
        group, head = divide(head, v.shape[3] // tiling.value_dim)
        own = index(own, group, 1)
    own = part(own, head * tiling.value_dim, tiling.value_dim, 2)
    shape = tiling.keys, tiling.span, tiling.value_dim
    values = sbuf(*shape, dtype=tiling.dtype, buffers=tiling.buffers)
    return keys, dma_load_tiles(values, own, queue=VALUES)


def _load_keys(pieces: Hbm, tiling: ContextTiling) -> Sbuf:
    """HBM `[span, part, keys]` to SBUF `[part, columns]`."""
    shape = pieces.shape[1], tiling.span, tiling.keys
    tile = sbuf(*shape, dtype=tiling.dtype, buffers=tiling.buffers)
    return dma_load_tiles(tile, pieces, queue=KEYS).reshape(-1, tiling.columns)


def step(
    q: ByPart,
    kv: KeyTile,
    done: Attended,
    masked: Masked | None,
    banks: Banks,
    tiling: ContextTiling,
) -> Lane[Attended]:
    """A lane that attends a query tile to a key tile; see `flash.step.attend`."""
    keys, values = kv
    return attend(q, keys, values, done, masked, banks, tiling.step)


__all__ = ["KEYS", "load_kv", "load_queries", "query_of", "query_tiles", "step"]
