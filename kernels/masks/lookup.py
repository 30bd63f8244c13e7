"""Look-ups in a constant table, of known indices and of ranges of indices.

A range's least and greatest entry come from two overlapping windows of a power of two entries
(Bender and Farach-Colton's sparse table, LATIN 2000), built over runs of equal entries: a table
of document numbers has as many runs as documents.

The table 3 3 3 1 7 7 2 has the runs 3 1 7 2, which start at 0, 3, 4 and 6. Indices 1 to 5 lie in
the runs 0 to 2; the windows of two runs from 0 and from 1 cover these, and their least entries,
1 and 1, give 1.
"""

from collections.abc import Sequence
from typing import Protocol

import numpy as np

from emu.annotations import Shape
from kernels.masks.strided import ONE, Bools, Ints, Strided


class _HasShape(Protocol):
    """The result of a look-up, without the batch."""

    @property
    def shape(self) -> Shape: ...


class Table:
    """A constant array that a mask looks up one entry of.

    Args:
      values: integers or Booleans, any shape.
      fill: entry where an index is outside; None clamps the index.
      apart: whether indices are operands of their own, or stacked along the last axis of one.
    """

    def __init__(self, values: np.ndarray, fill: int | bool | None, apart: bool):
        self.values = values
        self.fill = fill
        self.apart = apart
        flat = values.reshape(-1)
        # Runs keep the windows small: a million tokens of 100 documents are 7 levels of 100 entries
        # instead of 20 of a million.
        changes = np.flatnonzero(flat[1:] != flat[:-1])
        self._run_starts = np.concatenate([[0], changes + 1])
        runs = flat[self._run_starts]
        self._least = _windows(runs, np.minimum)
        self._greatest = _windows(runs, np.maximum)

    def at(self, site: _HasShape, indices: Sequence[Ints]) -> np.ndarray:
        """Entries `[*batch, *site.shape]` at known indices."""
        flat, outside = self._flat(self._by_axis(indices))
        entry = self.values.reshape(-1)[flat]
        if self.fill is not None:
            fill = entry.dtype.type(self.fill)
            entry = np.where(outside, fill, entry)
        return _with_axes(entry, len(site.shape))

    def over(self, site: _HasShape, indices: Sequence[Strided]) -> Strided:
        """Bounds of the entries in ranges of indices."""
        lows = self._by_axis([index.lo for index in indices])
        highs = self._by_axis([index.hi for index in indices])
        first, below = self._flat(lows)
        last, beyond = self._flat(highs)
        # Of several axes this takes in more than the box: in a 4 x 4 table rows 0..1 of columns
        # 1..2 are the flat indices 1, 2, 5 and 6, and 1..6 is asked. Wider bounds are still sound.
        lo, hi = self._bounds(first, last)
        if lo.dtype != bool:
            lo = lo.astype(np.int64)
            hi = hi.astype(np.int64)
        if self.fill is not None:
            # Of a table of four, indices 2..5 read entries 2 and 3 and the fill, 5..7 the fill
            # alone; `lo` and `hi` are those of the clamped indices, 2..3 and 3..3.
            fill = lo.dtype.type(self.fill)
            some_outside = below | beyond
            all_outside = self._all_outside(lows, highs)
            least = np.minimum(lo, fill)
            least = np.where(all_outside, fill, least)
            greatest = np.maximum(hi, fill)
            greatest = np.where(all_outside, fill, greatest)
            lo = np.where(some_outside, least, lo)
            hi = np.where(some_outside, greatest, hi)
        rank = len(site.shape)
        least = _with_axes(lo, rank)
        greatest = _with_axes(hi, rank)
        return Strided(least, greatest, ONE)

    def _bounds(self, first: Ints, last: Ints) -> tuple[np.ndarray, np.ndarray]:
        """Least and greatest of the entries from `first` to `last`, flat indices."""
        first_run = self._run_of(first)
        last_run = self._run_of(last)
        runs = last_run - first_run + 1
        # Windows of 2**level runs, one from the first run on and one up to the last, overlap.
        # Of 1, 2, 3 and 4 runs `frexp` gives 1, 2, 2 and 3 bits: windows of 1, 2, 2 and 4.
        _, bits = np.frexp(runs)
        level = bits - 1
        width = 1 << level
        second = last_run - width + 1
        least = np.minimum(
            self._least[level, first_run],
            self._least[level, second],
        )
        greatest = np.maximum(
            self._greatest[level, first_run],
            self._greatest[level, second],
        )
        return least, greatest

    def _run_of(self, entry: Ints) -> np.ndarray:
        """The run in which a flat index lies."""
        # "right" counts a run that starts at the entry itself: the first entry, of index 0, is in
        # run 0.
        starts_up_to_it = np.searchsorted(self._run_starts, entry, "right")
        return starts_up_to_it - 1

    def _by_axis(self, indices: Sequence[Ints]) -> list[Ints]:
        """One array of indices per axis of the table."""
        if self.apart:
            return list(indices)
        (stacked,) = indices
        return [stacked[..., axis] for axis in range(self.values.ndim)]

    def _flat(self, indices: list[Ints]) -> tuple[Ints, Bools]:
        """Clamped flat index, and whether any part was outside."""
        flat = np.asarray(0)
        outside = np.asarray(False)
        for index, size in zip(indices, self.values.shape, strict=True):
            # Positions are int32, and so are their products with a table's size, which may not fit.
            wide = np.asarray(index, np.int64)
            clamped = np.clip(wide, 0, size - 1)
            flat = flat * size + clamped
            outside = outside | (wide != clamped)
        return flat, outside

    def _all_outside(self, lows: list[Ints], highs: list[Ints]) -> Bools:
        """Whether a range lies wholly outside along some axis."""
        by_axis = []
        for low, high, size in zip(lows, highs, self.values.shape, strict=True):
            by_axis.append((high < 0) | (low >= size))
        return np.any(np.broadcast_arrays(*by_axis), axis=0)


def _with_axes(values: np.ndarray, rank: int) -> np.ndarray:
    """With `rank` axes of one element behind its own."""
    ones = [1] * rank
    return values.reshape((*values.shape, *ones))


def _windows(runs: np.ndarray, reduce: np.ufunc) -> np.ndarray:
    """`[level, start]`: of `2**level` entries from `start` on; what is cut off is never read."""
    levels = [runs]
    width = 1
    while 2 * width <= len(runs):
        halves = levels[-1]
        whole = halves.copy()
        # Near the end a window is cut off; its entries are left as they are, so that levels stack.
        whole[: len(runs) - width] = reduce(halves[:-width], halves[width:])
        levels.append(whole)
        width *= 2
    return np.stack(levels)
