"""Which keys the newest token attends to, for every position at which it may stand.

A decoder's token at position p sees keys 0 to p, and under `window(4)` the last four of them; so a
PE goes through `[low, high)` alone, known integers of the position:

    position   0  1  2  3  4  5
    low        0  0  0  0  1  2
    high       1  2  3  4  5  6
"""

import dataclasses
import functools

import numpy as np

from kernels.masks.by_head import masks_of
from kernels.masks.catalogue import Mask, and_masks, causal
from kernels.masks.tile_map import FULL, PARTIAL, patterns, tile_map
from kernels.tokens.placement import place

TILE = 128  # positions and keys that are looked at together


@dataclasses.dataclass(frozen=True, eq=False)
class KeysByPosition:
    """The keys of a decoder's newest token.

    Attributes:
      low, high: int32 `[context]`, the range `[low, high)` beyond which the token at a position
        attends to nothing with any head; an empty one is at 0.
      gaps: whether some head leaves out keys within that range at some position.
      nothing: whether some head attends to no key at some position.
    """

    low: np.ndarray
    high: np.ndarray
    gaps: bool
    nothing: bool

    @functools.cached_property
    def skips(self) -> bool:
        """Whether keys are left out at either end."""
        so_far = np.arange(1, len(self.low) + 1)
        return bool((self.low > 0).any() or (self.high < so_far).any())

    @functools.cached_property
    def most(self) -> int:
        """The longest range."""
        return int((self.high - self.low).max())


def keys_by_position(mask: Mask | None, heads: int, context: int) -> KeysByPosition:
    """The keys of every position.

    Args:
      mask: of a sequence's `(b, h, q, k)`; keys behind the query are left out whatever it says.
        None: all others are attended to.
      heads: of queries.
      context: positions.

    Raises:
      UnreadableMask: JAX cannot trace the mask.
    """
    if mask is None:
        low = np.zeros(context, np.int32)
        return KeysByPosition(
            low, np.arange(1, context + 1, dtype=np.int32), False, False
        )
    by_head = masks_of(and_masks(mask, causal), 1, heads)
    distinct = list(dict.fromkeys(by_head))
    lows, highs, counts = (
        np.stack(each)
        for each in zip(*(_of_mask(own, context) for own in distinct), strict=True)
    )
    # Where a head attends to nothing it has no range.
    low = np.where(counts > 0, lows, context).min(0)
    high = np.where(counts > 0, highs, 0).max(0)
    low = np.where(high > 0, low, 0)
    return KeysByPosition(
        low.astype(np.int32),
        high.astype(np.int32),
        gaps=bool((counts != high - low).any()),
        nothing=bool((counts == 0).any()),
    )


def _of_mask(mask: Mask, context: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """First key, the one behind the last, and how many keys, int64 `[context]` each."""
    size = min(TILE, context)
    tiles = -(-context // size)
    grids = place("contiguous", context, 1, tiles * size).grids(size)
    status = tile_map(mask, context, grids, grids)[0, :, 0]
    low = np.full((tiles, size), context)
    high = np.zeros((tiles, size), int)
    count = np.zeros((tiles, size), int)
    tile, key_tile = np.nonzero(status == FULL)
    np.minimum.at(low, tile, (key_tile * size)[:, None])
    np.maximum.at(high, tile, ((key_tile + 1) * size)[:, None])
    np.add.at(count, tile, size)
    tile, key_tile = np.nonzero(status == PARTIAL)
    if len(tile):
        positions = np.arange(tiles * size, dtype=np.int32).reshape(tiles, size)
        found, which = patterns(mask, context, positions[tile], positions[key_tile])
        some = found.any(-1)
        first = np.where(some, found.argmax(-1), context)
        last = np.where(some, size - found[..., ::-1].argmax(-1), -context)
        begin = (key_tile * size)[:, None]
        np.minimum.at(low, tile, np.minimum(begin + first[which], context))
        np.maximum.at(high, tile, np.maximum(begin + last[which], 0))
        np.add.at(count, tile, found.sum(-1)[which])
    return tuple(x.reshape(-1)[:context] for x in (low, high, count))  # type: ignore[return-value]


__all__ = ["KeysByPosition", "keys_by_position"]
