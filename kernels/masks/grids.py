"""Positions of tiles in closed form: a tile of thousands of tokens is five integers."""

import dataclasses
from typing import TypeAlias

import numpy as np

Columns: TypeAlias = np.ndarray
"""Many tiles, int64 `[5, n]`: a row for each of these."""

START = 0
OUTER_STEP = 1
OUTER_COUNT = 2
INNER_STEP = 3
INNER_COUNT = 4


@dataclasses.dataclass(frozen=True)
class Grids:
    """Positions of many tiles, each a grid of two levels.

    A tile holds the positions `start + outer_step·a + inner_step·b` for `a < outer_count` and
    `b < inner_count`, in slot order (`a` outer). Steps are never negative.

    Tokens dealt to 4 ranks in units of 2 make rank 1's first tile of six slots the positions
    2, 3, 10, 11, 18, 19: start 2, three outer steps of 8, two inner steps of 1.

    Attributes:
      start: first position of each tile, int64 `[...]`.
      outer_step, outer_count, inner_step, inner_count: ints, or int64 arrays shaped as `start`.
    """

    start: np.ndarray
    outer_step: np.ndarray | int
    outer_count: np.ndarray | int
    inner_step: np.ndarray | int
    inner_count: np.ndarray | int

    @property
    def shape(self) -> tuple[int, ...]:
        return np.shape(self.start)

    def columns(self) -> Columns:
        """Start, steps and counts of each tile."""
        # int64, as arithmetic on sets wants it: what wraps there must be seen to wrap.
        columns = np.empty((5, *self.shape), np.int64)
        columns[START] = self.start
        columns[OUTER_STEP] = self.outer_step
        columns[OUTER_COUNT] = self.outer_count
        columns[INNER_STEP] = self.inner_step
        columns[INNER_COUNT] = self.inner_count
        return columns.reshape(5, -1)

    def positions(self) -> np.ndarray:
        """Positions of every tile in slot order, int32 `[..., size]`; counts must be ints."""
        # One rectangular array of all tiles: they need one shape, unlike their starts and steps.
        outer = np.arange(int(self.outer_count))[:, None]
        inner = np.arange(int(self.inner_count))
        start = self._per_tile(self.start)
        outer_step = self._per_tile(self.outer_step)
        inner_step = self._per_tile(self.inner_step)
        grid = start + outer_step * outer + inner_step * inner
        # As masks are traced, on int32; a placement refuses more slots than that can count.
        positions = grid.astype(np.int32)
        return positions.reshape(*self.shape, -1)

    def _per_tile(self, field: np.ndarray | int) -> np.ndarray:
        """A field of every tile, `[..., 1, 1]`, to meet the two levels of the grid."""
        # A step is often one number for all tiles: only starts differ, so four of the five columns
        # are shared.
        return np.broadcast_to(field, self.shape)[..., None, None]


__all__ = [
    "Columns",
    "Grids",
    "INNER_COUNT",
    "INNER_STEP",
    "OUTER_COUNT",
    "OUTER_STEP",
    "START",
]
