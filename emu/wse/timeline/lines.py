"""A mesh seen as lines of PEs along one axis, each cut into groups."""

from collections.abc import Mapping

import numpy as np

from emu.clock.ticks import Ticks
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

    def __init__(self, mesh: Mapping[str, int], axis: str, group: int, *arrays: Ticks):
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

    def take(self, over_mesh: Ticks) -> Times:
        """Of an array broadcastable to the mesh."""
        full = np.broadcast_to(np.asarray(over_mesh, np.int64), self.grid)
        # Where nothing differs the first line stands for all: `slice(1)`.
        different = tuple(slice(size) for size in self.kept)
        axis_first = np.moveaxis(full[different], self.along, 0)
        # Axis first, the PEs of a group lie together, and cutting into groups is a reshape.
        lines = axis_first[0].size
        return axis_first.reshape(-1, self.group, lines)

    def put(self, members: Times) -> np.ndarray:
        """The inverse of `take`, with dimensions of size 1 for lines that are one."""
        others = list(self.kept)
        pes = others.pop(self.along)
        axis_first = members.reshape(pes, *others)
        return np.moveaxis(axis_first, 0, self.along)


__all__ = ["Lines"]
