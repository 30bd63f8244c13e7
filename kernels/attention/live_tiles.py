"""Which tiles of a variant are live: over the sequence, and over chips and the hops of a ring."""

import dataclasses
from typing import Any

import jax.numpy as jnp
import numpy as np

from kernels.attention.prefill import context_attention
from kernels.masks.bisection import DEAD, FULL, PARTIAL
from kernels.masks.tile_map import tile_map
from kernels.scores.form import Reading
from kernels.tokens.placement import place

TILE = 128
"""The least tokens of a tile over the sequence."""


@dataclasses.dataclass(frozen=True)
class LiveTiles:
    """What is worked on, where.

    Attributes:
      tokens: of the sequence.
      tile: tokens of a tile over the sequence.
      over_sequence: of the first head's mask, `DEAD`, `PARTIAL` or `FULL`, int8 `[tiles of queries,
        tiles of keys]`.
      masks: how many different ones the heads have.
      placed: where tokens stand.
      owner: chip of each tile of queries over the sequence, of its first token.
      whole, cut: pairs of a block of queries and a key tile that each chip works on when it holds
        the keys of the chip d before it, without and with a mask, `[hops d, chips]`.
    """

    tokens: int
    tile: int
    over_sequence: np.ndarray
    masks: int
    placed: str
    owner: np.ndarray
    whole: np.ndarray
    cut: np.ndarray


def live_tiles(
    reading: Reading,
    *,
    tokens: int,
    heads: int,
    kv_heads: int,
    head_dim: int,
    batch: int = 1,
    keys: int | None = None,
    chips: int = 1,
    most: int = 256,
    **options: Any,
) -> LiveTiles:
    """Maps a variant's tiles.

    Args:
      reading: the variant.
      tokens, heads, kv_heads, head_dim, batch, keys, chips: as for `Variant.time`.
      most: tiles of the sequence; longer ones have larger tiles.
      options: as for `context_attention`.
    """
    attention = context_attention(
        reading,
        q=(batch, heads, tokens, head_dim),
        k=(batch, kv_heads, tokens if keys is None else keys, head_dim),
        chips=chips,
        dtype=jnp.bfloat16,
        **options,
    )
    length = attention.tokens
    tile = TILE * -(-length // (TILE * most))
    whole = -(-length // tile) * tile
    grids = place("contiguous", length, 1, whole).grids(tile)
    over_sequence = tile_map(attention.masks_of[0], length, grids, grids)
    count = whole // tile
    status = attention.sides.map(attention.masks_of)
    ranks = status.shape[0]
    by_hop = [
        np.stack([status[rank, :, rank - hop] for rank in range(ranks)])
        for hop in range(ranks)
    ]
    owner = np.full(whole, -1)
    positions = attention.sides.q.positions()
    real = positions < whole
    owner[positions[real]] = np.nonzero(real)[0]
    return LiveTiles(
        tokens=length,
        tile=tile,
        over_sequence=over_sequence.reshape(count, count),
        masks=len(set(attention.masks_of)),
        placed=attention.placed,
        owner=owner[::tile],
        whole=_counted(by_hop, FULL),
        cut=_counted(by_hop, PARTIAL),
    )


def _counted(by_hop: list[np.ndarray], status: int) -> np.ndarray:
    return np.stack([(x == status).sum((1, 2)) for x in by_hop])


__all__ = ["DEAD", "FULL", "PARTIAL", "LiveTiles", "live_tiles"]
