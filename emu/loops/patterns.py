"""Which cores decide alike inside a loop: every branch and count of every iteration.

Cores with equal known integers decide alike, so only one of each such group is evaluated.
"""

from typing import Any

import numpy as np

from emu.loops import decisions
from emu.loops.entry import LoopEntry
from emu.tracing import jaxpr as jx


class Side:
    """Groups of cores side by side: a mesh of one dimension, as `emu.loops.decisions` sees it."""

    rank = 1

    def __init__(self, index: dict[str, np.ndarray]):
        self.index = index

    def core_index(self, axis: str) -> np.ndarray:
        return self.index[axis]


class Patterns:
    """Patterns of decisions met so far, by number, and by the known integers they follow from."""

    def __init__(self) -> None:
        self.numbers: dict[Any, int] = {}
        self.met: dict[Any, int] = {}

    def of(self, entry: LoopEntry) -> np.ndarray | None:
        """The pattern of each cell, or None where it cannot be told ahead."""
        if not entry.decides:
            return np.zeros(entry.cells, np.int64)
        axes = {
            a: entry.per_cell(entry.state.setup.core_index(a))
            for a in jx.axes(entry.scan.body)
        }
        keys = self._keys(entry, axes)
        groups = dict.fromkeys(keys[i] for i in entry.here)
        new = [key for key in groups if key not in self.met]
        if new:
            first = {key: i for i, key in reversed(list(enumerate(keys)))}
            found = self._evaluate(entry, axes, [first[key] for key in new])
            if found is None:
                return None
            self.met.update(zip(new, found, strict=True))
        return np.array([self.met.get(key, -1) for key in keys])

    def _keys(self, entry: LoopEntry, axes: dict[str, np.ndarray]) -> list[Any]:
        """What each cell knows, as bytes; what is the same for all cores once."""
        rank, name = entry.state.setup.rank, id(entry.eqn)
        split = [k for k in entry.knowns if any(n > 1 for n in k.shape[:rank])]
        whole = tuple(
            k.tobytes() for k in entry.knowns if all(n == 1 for n in k.shape[:rank])
        )
        columns = [_rows(k, entry) for k in split]
        columns += [[int(i) for i in index] for index in axes.values()]
        if not columns:
            return [(name, whole)] * entry.cells
        return [(name, whole, row) for row in zip(*columns, strict=True)]

    def _evaluate(
        self, entry: LoopEntry, axes: dict[str, np.ndarray], cells: list[int]
    ) -> list[int] | None:
        rank = entry.state.setup.rank

        def side(known: np.ndarray | None) -> np.ndarray | None:
            if known is None:
                return None
            if all(n == 1 for n in known.shape[:rank]):
                return known.reshape(1, *known.shape[rank:])
            own = known.shape[rank:]
            every = np.broadcast_to(known, (*entry.frame, *own)).reshape(
                entry.cells, *own
            )
            return every[cells]

        knowns = [side(x.known) for x in entry.values]
        found = decisions.found(
            Side({a: i[cells] for a, i in axes.items()}), entry.scan, knowns
        )
        if found is None:
            return None
        parts = [(path, np.moveaxis(d, -1, 0)) for path, d in found.items()]
        return [self._number(entry, parts, g) for g in range(len(cells))]

    def _number(self, entry: LoopEntry, parts: list[Any], group: int) -> int:
        """Decisions that are never met are zero, and so are left out."""
        own = ((path, d[group if len(d) > 1 else 0]) for path, d in parts)
        key = id(entry.eqn), tuple((path, d.tobytes()) for path, d in own if d.any())
        return self.numbers.setdefault(key, len(self.numbers))


def _rows(known: np.ndarray, entry: LoopEntry) -> list[bytes]:
    """A known integer's bytes in each cell."""
    rank = entry.state.setup.rank
    flat = np.ascontiguousarray(known).reshape(-1, *known.shape[rank:])
    rows = np.array([row.tobytes() for row in flat], object).reshape(known.shape[:rank])
    return list(np.broadcast_to(rows, entry.frame).reshape(-1))


__all__ = ["Patterns"]
