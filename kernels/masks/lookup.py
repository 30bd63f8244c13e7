"""Look-ups in a constant table, of known indices and of ranges of indices.

A range's least and greatest entry come from two overlapping windows of a power of two entries
(Bender and Farach-Colton's sparse table, LATIN 2000), built over runs of equal entries: a table
of document numbers has as many runs as documents.
"""

from typing import Any

import numpy as np

from kernels.masks.strided import ONE, Strided


class Table:
    """A constant array that a mask looks up one entry of.

    Args:
      values: integers or Booleans, any shape.
      fill: entry where an index is outside; None clamps the index.
      apart: whether indices are operands of their own, or stacked along the last axis of one.
    """

    def __init__(self, values: np.ndarray, fill: Any, apart: bool):
        self.values = values
        self.fill = fill
        self.apart = apart
        flat = values.reshape(-1)
        self._starts = np.concatenate([[0], np.flatnonzero(flat[1:] != flat[:-1]) + 1])
        runs = flat[self._starts]
        self._least = _windows(runs, np.minimum)
        self._most = _windows(runs, np.maximum)

    def at(self, site: Any, indices: tuple[np.ndarray, ...]) -> np.ndarray:
        """Entries `[*batch, *site.shape]` at known indices."""
        parts = self._split(indices)
        flat, outside = self._flat(parts)
        entry = self.values.reshape(-1)[flat]
        if self.fill is not None:
            entry = np.where(outside, entry.dtype.type(self.fill), entry)
        return _trail(entry, len(site.shape))

    def over(self, site: Any, indices: tuple[Strided, ...]) -> Strided:
        """Bounds of the entries in ranges of indices."""
        lows = self._split([i.lo for i in indices])
        highs = self._split([i.hi for i in indices])
        (first, under), (last, beyond) = self._flat(lows), self._flat(highs)
        a, b = (np.searchsorted(self._starts, x, "right") - 1 for x in (first, last))
        level = np.frexp(b - a + 1)[1] - 1
        end = b - (1 << level) + 1
        lo = np.minimum(self._least[level, a], self._least[level, end])
        hi = np.maximum(self._most[level, a], self._most[level, end])
        if lo.dtype != bool:
            lo, hi = lo.astype(np.int64), hi.astype(np.int64)
        if self.fill is not None:
            missed = self._missed(lows, highs)
            fill = lo.dtype.type(self.fill)
            lo = np.where(
                under | beyond, np.where(missed, fill, np.minimum(lo, fill)), lo
            )
            hi = np.where(
                under | beyond, np.where(missed, fill, np.maximum(hi, fill)), hi
            )
        rank = len(site.shape)
        return Strided(_trail(lo, rank), _trail(hi, rank), ONE)

    def _split(self, indices: Any) -> list[np.ndarray]:
        """One array of indices per axis of the table."""
        if self.apart:
            return list(indices)
        return [indices[0][..., axis] for axis in range(self.values.ndim)]

    def _flat(self, parts: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
        """Clamped flat index, and whether any part was outside."""
        flat, outside = np.asarray(0), np.asarray(False)
        for index, size in zip(parts, self.values.shape, strict=True):
            index = np.asarray(index, np.int64)
            flat = flat * size + np.clip(index, 0, size - 1)
            outside = outside | (index < 0) | (index >= size)
        return flat, outside

    def _missed(self, lows: list[np.ndarray], highs: list[np.ndarray]) -> np.ndarray:
        """Whether a range lies wholly outside along some axis."""
        sides = zip(lows, highs, self.values.shape, strict=True)
        return np.any(
            np.broadcast_arrays(*((b < 0) | (a >= n) for a, b, n in sides)), axis=0
        )


def _trail(x: np.ndarray, rank: int) -> np.ndarray:
    return x.reshape((*x.shape, *[1] * rank))


def _windows(runs: np.ndarray, reduce: np.ufunc) -> np.ndarray:
    """`[level, start]`: of `2**level` entries from `start` on; what is cut off is never read."""
    levels = [runs]
    width = 1
    while 2 * width <= len(runs):
        last = levels[-1]
        longer = last.copy()
        longer[: len(runs) - width] = reduce(last[:-width], last[width:])
        levels.append(longer)
        width *= 2
    return np.stack(levels)
