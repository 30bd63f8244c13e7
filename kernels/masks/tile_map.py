"""Which tiles of a mask are live: dead, partial or full, exactly, for every pair of tiles.

The tiles are sorted by position and grouped by 16 into ever larger groups. From the largest down,
only pairs of groups that the mask does not decide as a whole are opened. What is undecided as a
pair of tiles is bisected, after a look at its corners, until every part is decided.
"""

import dataclasses
import hashlib
from typing import Any

import numpy as np

from kernels.masks.bisection import (
    CHUNK,
    DEAD,
    FULL,
    PARTIAL,
    Real,
    bisected,
    hull,
    scalar,
)
from kernels.masks.catalogue import Mask
from kernels.masks.grids import Grids
from kernels.masks.strided import Strided

_OPEN = 3

_FAN = 16  # tiles or groups in a group


@dataclasses.dataclass(frozen=True)
class _Side:
    """Sorted tiles of queries or keys, and the sets that hold each group of them.

    `columns` is `Grids.columns`, `[5, tiles]`; `levels[0]` the tiles themselves.
    """

    order: np.ndarray
    columns: np.ndarray
    levels: list[Strided]

    @staticmethod
    def of(grids: Grids) -> "_Side":
        columns = grids.columns()
        order = np.argsort(columns[0], kind="stable")
        columns = columns[:, order]
        levels = [hull(columns)]
        while len(levels[-1].lo) > 1:
            levels.append(_grouped(levels[-1]))
        return _Side(order, columns, levels)

    def level(self, n: int) -> Strided:
        """The sets of level `n`; above its last level a side stays one group."""
        return self.levels[min(n, len(self.levels) - 1)]

    def parents(self, n: int) -> np.ndarray:
        """Of each set of level `n`, the one of level `n + 1` that holds it."""
        here = np.arange(len(self.level(n).lo))
        return here // _FAN if n + 1 < len(self.levels) else here * 0


def _grouped(x: Strided) -> Strided:
    first = np.arange(0, len(x.lo), _FAN)
    lo = np.minimum.reduceat(x.lo, first)
    hi = np.maximum.reduceat(x.hi, first)
    apart = x.lo - np.repeat(lo, _FAN)[: len(x.lo)]
    steps = np.broadcast_to(x.step, x.lo.shape)
    step = np.gcd(np.gcd.reduceat(steps, first), np.gcd.reduceat(apart, first))
    return Strided(lo, hi, scalar(step))


def tile_map(mask: Mask, tokens: int, q: Grids, k: Grids) -> np.ndarray:
    """The exact status of every pair of tiles.

    Args:
      mask: `mask(b, h, q, k) -> bool`, the same for every b and h.
      tokens: real tokens; positions from there on are padding.
      q, k: tiles of queries and of keys.

    Returns:
      int8 `[*q.shape, *k.shape]`: `DEAD` where no pair of tokens is allowed, `FULL` where all are
      allowed and none is padding, else `PARTIAL`.

    Raises:
      UnreadableMask: see `TracedMask`.
    """
    real = Real(mask, tokens)
    sides = _Side.of(q), _Side.of(k)
    status = np.full((1, 1), _OPEN, np.int8)
    for n in reversed(range(max(len(side.levels) for side in sides))):
        status = status[np.ix_(*(side.parents(n) for side in sides))]
        _decide(real, status, *(side.level(n) for side in sides))
    _finish(real, status, *(side.columns for side in sides))
    result = np.empty_like(status)
    result[np.ix_(*(side.order for side in sides))] = status
    return result.reshape(*q.shape, *k.shape)


def _open_pairs(status: np.ndarray):
    """Flat indices of open pairs with their rows and columns, a chunk at a time."""
    pairs = np.flatnonzero(status == _OPEN)
    for start in range(0, len(pairs), CHUNK):
        chunk = pairs[start : start + CHUNK]
        yield chunk, *np.divmod(chunk, status.shape[1])


def _take(x: Strided, index: np.ndarray) -> Strided:
    return Strided(x.lo[index], x.hi[index], x.step[index] if x.step.ndim else x.step)


def _decide(real: Real, status: np.ndarray, q: Strided, k: Strided) -> None:
    """Closes the pairs of groups that are dead or full as a whole."""
    for pairs, row, column in _open_pairs(status):
        every, some = real.boxes(_take(q, row), _take(k, column))
        answer = np.where(every, FULL, np.where(some, _OPEN, DEAD))
        status.reshape(-1)[pairs] = answer


def _finish(real: Real, status: np.ndarray, q: np.ndarray, k: np.ndarray) -> None:
    """Closes every pair of tiles; `q` and `k` are their grids' columns."""
    if real.relative:
        _finish_alike(real, status, q, k)
    for pairs, row, column in _open_pairs(status):
        status.reshape(-1)[pairs] = bisected(real, q[:, row], k[:, column])


def _finish_alike(real: Real, status: np.ndarray, q: np.ndarray, k: np.ndarray) -> None:
    """Closes pairs of real tokens under a mask of `q - k`: one of each distance is bisected."""
    if (q[1:] != q[1:, :1]).any() or (k[1:] != k[1:, :1]).any():
        return
    whole = [hull(x).hi < real.tokens for x in (q, k)]
    furthest = int(k[0].max())
    size = int(q[0].max()) + furthest + 1
    example = np.full(size, -1)  # by distance: one pair of it
    for pairs, row, column in _open_pairs(status):
        inside = whole[0][row] & whole[1][column]
        example[(q[0, row] - k[0, column])[inside] + furthest] = pairs[inside]
    found = np.flatnonzero(example >= 0)
    answers = np.full(size, _OPEN, np.int8)
    for start in range(0, len(found), CHUNK):
        part = found[start : start + CHUNK]
        row, column = np.divmod(example[part], status.shape[1])
        answers[part] = bisected(real, q[:, row], k[:, column])
    for pairs, row, column in _open_pairs(status):
        inside = whole[0][row] & whole[1][column]
        distance = (q[0, row] - k[0, column])[inside]
        status.reshape(-1)[pairs[inside]] = answers[distance + furthest]


def tile_pattern(
    mask: Mask, tokens: int, q_positions: Any, k_positions: Any
) -> np.ndarray:
    """The mask itself on pairs of tiles.

    Args:
      mask, tokens: as for `tile_map`.
      q_positions: `[n, rows]`.
      k_positions: `[n, columns]`.

    Returns:
      bool `[n, rows, columns]`.
    """
    n = len(q_positions)
    rows = np.shape(q_positions)[1]
    columns = np.shape(k_positions)[1]
    result = np.empty((n, rows, columns), bool)
    for part, tiles in _patterns(Real(mask, tokens), q_positions, k_positions):
        result[part] = tiles
    return result


def _patterns(real: Real, q_positions: Any, k_positions: Any):
    q = np.asarray(q_positions, np.int32)
    k = np.asarray(k_positions, np.int32)
    chunk = max(1, (1 << 20) // max(1, q.shape[1] * k.shape[1]))
    for start in range(0, len(q), chunk):
        part = slice(start, start + chunk)
        yield part, real.points(q[part, :, None], k[part, None, :])


def patterns(
    mask: Mask, tokens: int, q_positions: Any, k_positions: Any
) -> tuple[np.ndarray, np.ndarray]:
    """The different tiles among many pairs, in order of first use.

    Args:
      mask, tokens, q_positions, k_positions: as for `tile_pattern`.

    Returns:
      bool `[m, rows, columns]`, no two alike, and int64 `[n]`, which of them each pair has.
    """
    seen: dict[bytes, int] = {}
    unique = []
    index = np.empty(len(q_positions), np.int64)
    for part, tiles in _patterns(Real(mask, tokens), q_positions, k_positions):
        for n, tile in zip(range(part.start, part.stop), tiles, strict=False):
            key = hashlib.blake2b(np.packbits(tile).tobytes(), digest_size=16).digest()
            if key not in seen:
                seen[key] = len(unique)
                unique.append(tile.copy())
            index[n] = seen[key]
    shape = (0, np.shape(q_positions)[1], np.shape(k_positions)[1])
    return np.stack(unique) if unique else np.empty(shape, bool), index


__all__ = ["DEAD", "FULL", "PARTIAL", "patterns", "tile_map", "tile_pattern"]
