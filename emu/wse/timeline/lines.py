"""A mesh seen as lines of PEs along one axis, each cut into groups; and maxima over stretches."""

from collections.abc import Mapping
from typing import Any

import numpy as np


class Lines:
    """Groups of consecutive PEs along one axis of a mesh.

    Lines that no given array tells apart are one line: arrays that are broadcast over the mesh
    cost what one line costs.

    Args:
      mesh: axis name to size.
      axis: along which the data moves.
      group: consecutive PEs in one group; divides the axis.
      arrays: over the mesh, or broadcast to it; those that `take` will be given.
    """

    def __init__(self, mesh: Mapping[str, int], axis: str, group: int, *arrays: Any):
        self.grid = tuple(mesh.values())
        self.at = list(mesh).index(axis)
        self.group = group
        full = [np.broadcast_to(np.asarray(x), self.grid) for x in arrays]
        told = [any(x.strides[i] for x in full) for i in range(len(self.grid))]
        self.kept = tuple(
            n if told[i] or i == self.at else 1 for i, n in enumerate(self.grid)
        )

    def take(self, x: Any) -> np.ndarray:
        """`int64[groups, group, lines]` of an array broadcastable to the mesh."""
        x = np.broadcast_to(np.asarray(x, np.int64), self.grid)
        x = x[tuple(slice(n) for n in self.kept)]
        x = np.moveaxis(x, self.at, 0)
        return x.reshape(-1, self.group, x[0].size)

    def put(self, members: np.ndarray) -> np.ndarray:
        """The inverse of `take`, with dimensions of size 1 for lines that are one."""
        rest = [n for i, n in enumerate(self.kept) if i != self.at]
        return np.moveaxis(members.reshape(self.kept[self.at], *rest), 0, self.at)


def latest(x: np.ndarray, start: np.ndarray) -> np.ndarray:
    """`max(x[..., start[i] : i + 1, :])` for each i: maxima over stretches that end at i.

    Args:
      x: `[..., n, lines]`.
      start: `[..., n]`, the same leading sizes or 1; `0 <= start[i] <= i`.
    """
    n = x.shape[-2]
    end = np.arange(n)
    level = np.log2(end - start + 1).astype(int)
    out = np.empty_like(x)
    doubled = x
    for k in range(int(level.max(initial=0)) + 1):
        if k:  # doubled[i] is the maximum of the 2^k entries that end at i
            step = 1 << (k - 1)
            later = np.maximum(doubled[..., step:, :], doubled[..., :-step, :])
            doubled = np.concatenate([doubled[..., :step, :], later], axis=-2)
        here = np.broadcast_to((level == k)[..., None], x.shape)
        head = np.broadcast_to((start + (1 << k) - 1)[..., None], x.shape)
        early = np.take_along_axis(doubled, np.minimum(head, n - 1), axis=-2)
        np.copyto(out, np.maximum(doubled, early), where=here)
    return out


__all__ = ["Lines", "latest"]
