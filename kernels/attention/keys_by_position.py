"""Which keys the newest token attends to, for every position at which it may stand.

A decoder's token at position p sees keys 0 to p, and under `window(4)` the last four of them; so a
PE goes through `[low, high)` alone, known integers of the position:

    position   0  1  2  3  4  5
    low        0  0  0  0  1  2
    high       1  2  3  4  5  6

Under `sinks(2, 2)` it sees the first two and the last two, with a gap between that grows:

    position   0  1  2  3  4  5
    sinks      1  2  2  2  2  2      so many keys from the first on, at most
    behind     1  2  2  2  3  4      the first key after those
"""

import dataclasses
import functools
from collections.abc import Sequence

import jax.numpy as jnp
import numpy as np

from kernels.masks.by_head import masks_of
from kernels.masks.catalogue import (
    Allowed,
    Mask,
    Positions,
    and_masks,
    causal,
    named,
)
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
      sinks: keys from the first on, behind which there is a gap at the last position; 0: no gap.
      behind: int32 `[context]`, the first key attended to after those, or `high` if there is none.
    """

    low: np.ndarray
    high: np.ndarray
    gaps: bool
    nothing: bool
    sinks: int
    behind: np.ndarray

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
        high = np.arange(1, context + 1, dtype=np.int32)
        return KeysByPosition(low, high, False, False, 0, low)
    by_head = masks_of(and_masks(mask, causal), 1, heads)
    distinct = list(dict.fromkeys(by_head))
    lows, highs, counts = _of_masks(distinct, context)
    # Where a head attends to nothing it has no range.
    low = np.where(counts > 0, lows, context).min(0)
    high = np.where(counts > 0, highs, 0).max(0)
    low = np.where(high > 0, low, 0)
    sinks = _sinks(distinct, context)
    behind = low
    if sinks:
        after = [and_masks(own, _from(sinks)) for own in distinct]
        lows, _, of_after = _of_masks(after, context)
        behind = np.minimum(np.where(of_after > 0, lows, context).min(0), high)
    return KeysByPosition(
        low.astype(np.int32),
        high.astype(np.int32),
        gaps=bool((counts != high - low).any()),
        nothing=bool((counts == 0).any()),
        sinks=sinks,
        behind=behind.astype(np.int32),
    )


def _sinks(distinct: Sequence[Mask], context: int) -> int:
    """Keys from the first on that the last token attends to with any head, if a gap follows."""
    keys = jnp.arange(context, dtype=jnp.int32)
    last = jnp.full(context, context - 1, jnp.int32)
    none = jnp.zeros(context, jnp.int32)
    of_heads = [np.asarray(own(none, none, last, keys), bool) for own in distinct]
    attended = np.any(of_heads, axis=0)
    first = int(np.argmin(attended))
    # Without a key left out, or one that is attended to behind it, there is no gap.
    return first if attended[first:].any() and not attended[first] else 0


def _from(first: int) -> Mask:
    def behind(b: Positions, h: Positions, q: Positions, k: Positions) -> Allowed:
        return k >= first

    return named(behind)


def _of_masks(masks: Sequence[Mask], context: int) -> tuple[np.ndarray, ...]:
    """`_of_mask` of each, int64 `[masks, context]` each."""
    of_each = [_of_mask(mask, context) for mask in masks]
    return tuple(np.stack(each) for each in zip(*of_each, strict=True))


def _of_mask(mask: Mask, context: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """First key, the one behind the last, and how many keys, int64 `[context]` each."""
    size = min(TILE, context)
    tiles = -(-context // size)
    grids = place("contiguous", context, 1, tiles * size).grids(size)
    status = tile_map(mask, context, grids, grids)[0, :, 0]
    # Of a tile that is allowed as a whole all positions see all keys: of a tile of positions the
    # first such key tile, the last and their number say it all.
    full = status == FULL
    some = full.any(1)
    ends = np.where(some, tiles - full[:, ::-1].argmax(1), 0)
    starts = np.where(some, full.argmax(1) * size, context)
    low, high, count = (
        np.repeat(of_tile[:, None], size, axis=1)
        for of_tile in (starts, ends * size, full.sum(1) * size)
    )
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
