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
    tiles = []
    for features in tiling.parts:
        # No ring: `attend` makes two sets, of which one takes the next block while the other is in
        # use.
        tile = sbuf(
            features,
            tiling.block_tiles,
            tiling.rows,
            dtype=tiling.dtype,
        )
        tiles.append(tile)
    return tiles


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
        count = tile.shape[1]
        of_block = part(whole, first, count, 0)
        of_head = index(of_block, head, 1)
        loaded.append(dma_load_tiles(tile, of_head, queue=queue))
    return loaded


def query_of(
    tiles: Sequence[Sbuf],
    place: int,
    tiling: ContextTiling,
) -> ByPart:
    """One of a head's query tiles."""
    return [tile[:, place] for tile in tiles]


def load_kv(
    block: Block,
    head: KnownInt,
    key_tile: KnownInt,
    tiling: ContextTiling,
) -> KeyTile:
    """A key tile of one KV head.

    Args:
      block: HBM keys by part `[pieces, kv_heads or fewer, part, keys]`, each of fewer heads
        serving several in a row, and values `[pieces, keys, value_heads · value_dim]`, or
        `[pieces, groups, ...]` of fewer heads.
      head: which.
      key_tile: which.
      tiling: sizes.
    """
    k, v = block
    first = key_tile * tiling.span
    keys = []
    for features in k:
        pieces = part(features, first, tiling.span, 0)
        # As the rotary part of MLA's keys, which all heads of a sequence share.
        shares = tiling.kv_heads // pieces.shape[1]
        own_head = head
        if shares > 1:
            own_head, _ = divide(head, shares)
        of_head = index(pieces, own_head, 1)
        keys.append(_load_keys(of_head, tiling))
    pieces = part(v, first, tiling.span, 0)
    values = _load_values(pieces, _value_head(head, tiling), tiling)
    return keys, values


def _value_head(head: KnownInt, tiling: ContextTiling) -> KnownInt:
    """Whose values a KV head attends to: of two maps heads 4 and 5 have those of head 2."""
    if tiling.maps == 1:
        return head
    values, _ = divide(head, tiling.maps)
    return values


def _load_keys(pieces: Hbm, tiling: ContextTiling) -> Sbuf:
    """HBM `[span, part, keys]` to SBUF `[part, columns]`."""
    features = pieces.shape[1]
    tile = sbuf(
        features,
        tiling.span,
        tiling.keys,
        dtype=tiling.dtype,
        buffers=tiling.buffers,
    )
    # Keys and values by a queue each: scores begin when the keys are there.
    tile = dma_load_tiles(tile, pieces, queue=KEYS)
    # Pieces side by side are one moving operand: up to 512 keys pass a query tile in one matmul.
    return tile.reshape(features, tiling.columns)


def _load_values(pieces: Hbm, head: KnownInt, tiling: ContextTiling) -> Sbuf:
    """A head of HBM `[span, keys, value_heads · value_dim]`, or `[span, groups, ...]` of fewer
    heads, to SBUF `[keys, span, value_dim]`."""
    of_group = pieces
    place = head
    if pieces.ndim == 4:
        # With groups of 4 heads, head 6 is the third of group 1.
        heads_a_group = pieces.shape[3] // tiling.value_dim
        group, place = divide(head, heads_a_group)
        of_group = index(pieces, group, 1)
    first_feature = place * tiling.value_dim
    of_head = part(of_group, first_feature, tiling.value_dim, 2)
    tile = sbuf(
        tiling.keys,
        tiling.span,
        tiling.value_dim,
        dtype=tiling.dtype,
        buffers=tiling.buffers,
    )
    return dma_load_tiles(tile, of_head, queue=VALUES)


def step(
    q: ByPart,
    kv: KeyTile,
    done: Attended,
    masked: Masked | None,
    banks: Banks,
    tiling: ContextTiling,
    factor: Sbuf | None = None,
) -> Lane[Attended]:
    """A lane that attends a query tile to a key tile; see `flash.step.attend`."""
    keys, values = kv
    return attend(q, keys, values, done, masked, banks, tiling.step, factor)


__all__ = ["KEYS", "load_kv", "load_queries", "query_of", "query_tiles", "step"]
