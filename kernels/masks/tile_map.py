"""Which tiles of a mask are live: dead, partial or full, exactly, for every pair of tiles.

The tiles are sorted by position and grouped by 16 into ever larger groups. From the largest down,
only pairs of groups that the mask does not decide as a whole are opened. What is undecided as a
pair of tiles is bisected, after a look at its corners, until every part is decided.

The folder's README works a map of two million tokens through.
"""

import dataclasses
import hashlib
from collections.abc import Iterator
from typing import TypeAlias

import numpy as np

from kernels.masks.bisection import (
    CHUNK,
    DEAD,
    FULL,
    PARTIAL,
    MaskOfTokens,
    bisected,
    hull,
    one_if_alike,
)
from kernels.masks.catalogue import Mask
from kernels.masks.grids import START, Columns, Grids
from kernels.masks.strided import Ints, Strided

Statuses: TypeAlias = np.ndarray
"""int8, of pairs of tiles."""

_OPEN = 3  # a status beside DEAD, PARTIAL and FULL: not decided yet

_GROUP = 16  # tiles or groups in a group

_PATTERN_TOKENS = 1 << 20  # pairs of tokens looked at together


@dataclasses.dataclass(frozen=True)
class _Side:
    """Sorted tiles of queries or keys, and the sets that hold each group of them.

    `columns` is `Grids.columns`, `[5, tiles]`; `levels[0]` the tiles themselves.
    """

    order: Ints
    columns: Columns
    levels: list[Strided]

    @staticmethod
    def of(grids: Grids) -> "_Side":
        columns = grids.columns()
        # By position, not by rank: of zigzag on four ranks rank 0 holds the first and the last of
        # eight chunks, and a group of both would reach over the sequence and be open under any
        # causal mask.
        order = np.argsort(columns[START], kind="stable")
        columns = columns[:, order]
        levels = [hull(columns)]
        while len(levels[-1].lo) > 1:
            levels.append(_grouped(levels[-1]))
        return _Side(order, columns, levels)

    def level(self, height: int) -> Strided:
        """The sets of a level; above its last one a side stays one group."""
        last = len(self.levels) - 1
        return self.levels[min(height, last)]

    def parents(self, height: int) -> Ints:
        """Of each set of a level, the one of the next level up that holds it."""
        sets = len(self.level(height).lo)
        return np.arange(sets) // _GROUP


def _grouped(sets: Strided) -> Strided:
    """The least sets that hold 16 neighbours each."""
    count = len(sets.lo)
    first = np.arange(0, count, _GROUP)
    lo = np.minimum.reduceat(sets.lo, first)
    hi = np.maximum.reduceat(sets.hi, first)
    # Members may be any multiple of the step apart, and of the distances between the sets.
    group_lo = np.repeat(lo, _GROUP)[:count]
    apart = sets.lo - group_lo
    distances = np.gcd.reduceat(apart, first)
    steps = np.broadcast_to(sets.step, sets.lo.shape)
    steps = np.gcd.reduceat(steps, first)
    step = np.gcd(steps, distances)
    return Strided(lo, hi, one_if_alike(step))


def tile_map(
    mask: Mask, tokens: int, q: Grids, k: Grids, *, live_only: bool = False
) -> Statuses:
    """The exact status of every pair of tiles.

    ```python
    q = k = place("contiguous", tokens=8, ranks=1, slots=8).grids(2)
    tile_map(masks.window(4), 8, q, k)[0, :, 0]
    # [[1 0 0 0]   PARTIAL DEAD
    #  [2 1 0 0]   FULL PARTIAL DEAD: queries 2 and 3 see all of keys 0 and 1
    #  [1 2 1 0]
    #  [0 1 2 1]]
    ```

    Args:
      mask: `mask(b, h, q, k) -> bool`, the same for every b and h.
      tokens: real tokens; positions from there on are padding.
      q, k: tiles of queries and of keys.
      live_only: tells dead tiles from live ones and no more, in less time: a live tile may be
        called `PARTIAL` where it is full.

    Returns:
      int8 `[*q.shape, *k.shape]`: `DEAD` where no pair of tokens is allowed, `FULL` where all are
      allowed and none is padding, else `PARTIAL`.

    Raises:
      UnreadableMask: see `TracedMask`.
    """
    real = MaskOfTokens(mask, tokens)
    queries = _Side.of(q)
    keys = _Side.of(k)
    status = np.full((1, 1), _OPEN, np.int8)
    heights = max(len(queries.levels), len(keys.levels))
    for height in reversed(range(heights)):
        row_parents = queries.parents(height)
        column_parents = keys.parents(height)
        # Members take their groups' answer: what holds of all pairs of a group holds of each
        # member's.
        status = status[np.ix_(row_parents, column_parents)]
        _decide(real, status, queries.level(height), keys.level(height))
    _finish(real, status, queries.columns, keys.columns, live_only)
    result = np.empty_like(status)
    result[np.ix_(queries.order, keys.order)] = status
    return result.reshape(*q.shape, *k.shape)


def _open_pairs(status: Statuses) -> Iterator[tuple[Ints, Ints, Ints]]:
    """Flat indices of open pairs with their rows and columns, a chunk at a time."""
    pairs = np.flatnonzero(status == _OPEN)
    columns = status.shape[1]
    for start in range(0, len(pairs), CHUNK):
        chunk = pairs[start : start + CHUNK]
        yield chunk, chunk // columns, chunk % columns


def _take(sets: Strided, index: Ints) -> Strided:
    step = sets.step[index] if sets.step.ndim else sets.step
    return Strided(sets.lo[index], sets.hi[index], step)


def _decide(mask: MaskOfTokens, status: Statuses, q: Strided, k: Strided) -> None:
    """Closes the pairs of groups that are dead or full as a whole."""
    flat = status.reshape(-1)
    for pairs, row, column in _open_pairs(status):
        every, some = mask.boxes(_take(q, row), _take(k, column))
        # Sets of a level hold more than the tiles' positions, so *all* and *none* are certain, and
        # a PARTIAL cannot be concluded from *some*.
        if_not_full = np.where(some, _OPEN, DEAD)
        flat[pairs] = np.where(every, FULL, if_not_full)


def _finish(
    mask: MaskOfTokens, status: Statuses, q: Columns, k: Columns, live_only: bool
) -> None:
    """Closes every pair of tiles; `q` and `k` are their grids' columns."""
    # Only tiles of one form at one distance hold the same differences `q - k`, pair by pair.
    if mask.relative and _are_shifts(q) and _are_shifts(k):
        _finish_by_distance(mask, status, q, k)
    flat = status.reshape(-1)
    for pairs, row, column in _open_pairs(status):
        of_pairs = q[:, row], k[:, column]
        flat[pairs] = bisected(mask, *of_pairs, live_only=live_only)


def _are_shifts(columns: Columns) -> bool:
    """Whether all tiles are one tile, moved."""
    form = columns[START + 1 :]
    return bool((form == form[:, :1]).all())


def _finish_by_distance(
    mask: MaskOfTokens,
    status: Statuses,
    q: Columns,
    k: Columns,
) -> None:
    """Closes pairs of real tokens under a mask of `q - k`: one of each distance is bisected.

    Two million tokens in tiles of 512 have 16 million pairs of tiles, of 8,191 distances.
    """
    flat = status.reshape(-1)
    columns = status.shape[1]
    q_real = hull(q).hi < mask.tokens
    k_real = hull(k).hi < mask.tokens
    furthest = int(k[START].max())  # the most negative distance; it gets index 0
    distances = int(q[START].max()) + furthest + 1

    def open_pairs_of_real_tokens() -> Iterator[tuple[Ints, Ints]]:
        """Flat indices, and the distance of each."""
        for pairs, row, column in _open_pairs(status):
            # Padding is not relative: a tile that ends in it may be partial where others of its
            # distance are full.
            inside = q_real[row] & k_real[column]
            distance = q[START, row] - k[START, column] + furthest
            yield pairs[inside], distance[inside]

    example = np.full(distances, -1)  # one pair of each distance
    for pairs, distance in open_pairs_of_real_tokens():
        # Of several at one distance any will do, and the last written stays.
        example[distance] = pairs

    found = np.flatnonzero(example >= 0)
    answers = np.full(distances, _OPEN, np.int8)
    for start in range(0, len(found), CHUNK):
        part = found[start : start + CHUNK]
        row, column = np.divmod(example[part], columns)
        answers[part] = bisected(mask, q[:, row], k[:, column])

    for pairs, distance in open_pairs_of_real_tokens():
        flat[pairs] = answers[distance]


def patterns(
    mask: Mask,
    tokens: int,
    q_positions: Ints,
    k_positions: Ints,
) -> tuple[np.ndarray, np.ndarray]:
    """The different tiles among many pairs, in order of first use.

    A causal mask on tiles of one size has one: every partial tile is the same triangle.

    Args:
      mask, tokens: as for `tile_map`.
      q_positions: `[n, rows]`.
      k_positions: `[n, columns]`.

    Returns:
      bool `[m, rows, columns]`, no two alike, and int64 `[n]`, which of them each pair has.
    """
    number: dict[bytes, int] = {}  # of each tile that was seen
    unique = []
    index = np.empty(len(q_positions), np.int64)
    real = MaskOfTokens(mask, tokens)
    for part, tiles in _patterns(real, q_positions, k_positions):
        for pair, tile in enumerate(tiles, start=part.start):
            # 16 bytes stand for a tile of 128 x 512, which is 8 KiB even in bits. That two of a
            # million different tiles share a digest has a chance of 10¹² / 2¹²⁹, less than 10⁻²⁶.
            key = _digest(tile)
            if key not in number:
                number[key] = len(unique)
                unique.append(tile.copy())
            index[pair] = number[key]
    if not unique:
        rows = np.shape(q_positions)[1]
        columns = np.shape(k_positions)[1]
        return np.empty((0, rows, columns), bool), index
    return np.stack(unique), index


def _patterns(
    mask: MaskOfTokens,
    q_positions: Ints,
    k_positions: Ints,
) -> Iterator[tuple[slice, np.ndarray]]:
    """Slices of the pairs, and the mask on each of their tiles, bool `[n, rows, columns]`."""
    q = np.asarray(q_positions, np.int32)
    k = np.asarray(k_positions, np.int32)
    tokens_a_pair = max(1, q.shape[1] * k.shape[1])
    chunk = max(1, _PATTERN_TOKENS // tokens_a_pair)
    for start in range(0, len(q), chunk):
        part = slice(start, start + chunk)
        rows = q[part, :, None]
        columns = k[part, None, :]
        yield part, mask.points(rows, columns)


def _digest(tile: np.ndarray) -> bytes:
    bits = np.packbits(tile).tobytes()
    return hashlib.blake2b(bits, digest_size=16).digest()


__all__ = ["DEAD", "FULL", "PARTIAL", "patterns", "tile_map"]
