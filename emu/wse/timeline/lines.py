"""A mesh seen as lines of PEs along one axis, each cut into groups."""

from collections.abc import Mapping

import numpy as np

from emu.clock.ticks import PerCore
from emu.loops.distinct import distinct
from emu.wse.timeline.times import Times


class Lines:
    """Groups of consecutive PEs along one axis of a mesh.

    Lines that no given array tells apart are one line: arrays that are broadcast over the mesh
    cost what one line costs.

    A mesh of 4 rows and 6 columns, groups of 2 along the rows: `take` gives `[2, 2, 6]`, or
    `[2, 2, 1]` where all columns hold the same, and `put` of that is `[4, 1]`.

    Args:
      mesh: axis name to size.
      axis: along which the data moves.
      group: consecutive PEs in one group; divides the axis.
      arrays: over the mesh, or broadcast to it; those that `take` will be given.
    """

    def __init__(
        self, mesh: Mapping[str, int], axis: str, group: int, *arrays: PerCore
    ):
        self.grid = tuple(mesh.values())
        self.along = list(mesh).index(axis)
        self.group = group
        kept = [1] * len(self.grid)
        kept[self.along] = self.grid[self.along]
        for array in arrays:
            full = np.broadcast_to(np.asarray(array), self.grid)
            for dimension, stride in enumerate(full.strides):
                is_repeated = stride == 0  # as `broadcast_to` repeats: in no memory
                if not is_repeated:
                    kept[dimension] = self.grid[dimension]
        self.kept = tuple(kept)

    def take(self, over_mesh: PerCore) -> Times:
        """Of an array broadcastable to the mesh."""
        axis_first = self._axis_first(over_mesh)
        # Axis first, the PEs of a group lie together, and cutting into groups is a reshape.
        lines = axis_first[0].size
        return axis_first.reshape(-1, self.group, lines)

    def put(self, members: Times) -> np.ndarray:
        """The inverse of `take`, with dimensions of size 1 for lines that are one."""
        others = list(self.kept)
        pes = others.pop(self.along)
        axis_first = members.reshape(pes, *others)
        return np.moveaxis(axis_first, 0, self.along)

    def _axis_first(self, over_mesh: PerCore) -> np.ndarray:
        full = np.broadcast_to(np.asarray(over_mesh, np.int64), self.grid)
        # Where nothing differs the first line stands for all: `slice(1)`.
        different = tuple(slice(size) for size in self.kept)
        return np.moveaxis(full[different], self.along, 0)


class AlikeLines(Lines):
    """Lines of which those that start alike, some ticks later, are one line.

    What follows in a line alone from when its PEs start is as much later as they are. Of the lines
    that start at 5 9 6, at 25 29 26 and at 7 7 7 the second is the first, 20 ticks later: `take`
    gives the first and the third, and `put` gives the second what the first has, and 20 ticks more.
    On a wafer nearly all lines are alike, however many they are.

    Args:
      starts: times over the mesh.
      arrays: what else lines may differ in.
    """

    def __init__(
        self,
        mesh: Mapping[str, int],
        axis: str,
        group: int,
        starts: np.ndarray,
        *arrays: PerCore,
    ):
        super().__init__(mesh, axis, group, starts, *arrays)
        times = self._axis_first(starts)
        self.others = times.shape[1:]
        number = _numbers(times - times[:1])
        for array in arrays:
            own = _numbers(Lines(mesh, axis, group, array)._axis_first(array))
            number = number * (own.max() + 1) + own
        number = np.broadcast_to(number, self.others).reshape(-1)
        _, self.first, self.which = np.unique(
            number, return_index=True, return_inverse=True
        )
        shift = times[0].reshape(-1)
        self.later = shift - shift[self.first][self.which]

    def take(self, over_mesh: PerCore) -> Times:
        axis_first = self._axis_first(over_mesh)
        lines = axis_first.reshape(len(axis_first), -1)
        return lines[:, self.first].reshape(-1, self.group, len(self.first))

    def put(self, members: Times) -> np.ndarray:
        distinct_lines = members.reshape(-1, len(self.first))
        # Where all are alike nothing has to be picked.
        all_alike = len(self.first) == 1
        lines = distinct_lines if all_alike else distinct_lines[:, self.which]
        axis_first = (lines + self.later).reshape(-1, *self.others)
        return np.moveaxis(axis_first, 0, self.along)


def _numbers(lines: np.ndarray) -> np.ndarray:
    """By number which of the distinct lines each is, `[*others]`, or of size 1 where all are one.

    Args:
      lines: `[pes, *others]`.
    """
    others = lines.shape[1:]
    first = lines[:, *(slice(1) for _ in others)]
    if (lines == first).all():
        return np.zeros((1,) * len(others), np.int64)
    _, which = distinct(lines.reshape(len(lines), -1))
    return which.reshape(others)


__all__ = ["AlikeLines", "Lines"]
