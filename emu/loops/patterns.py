"""Which cores decide alike inside a loop: every branch and count of every iteration.

Cores with equal known integers decide alike, so only one of each such group is evaluated.
"""

from collections.abc import Hashable, Sequence

import numpy as np

from emu.loops import decisions
from emu.loops.entry import LoopEntry
from emu.loops.foresight import Known
from emu.tracing import jaxpr as jx


class Groups:
    """Groups of cores side by side: a mesh of one dimension, as `emu.loops.decisions` sees it."""

    rank = 1

    def __init__(self, index: dict[str, np.ndarray]):
        self.index = index

    def core_index(self, axis: str) -> np.ndarray:
        return self.index[axis]


class Patterns:
    """Patterns of decisions met so far, by number, and by the known integers they follow from."""

    def __init__(self) -> None:
        self.numbers: dict[Hashable, int] = {}
        self.met: dict[Hashable, int] = {}

    def of(self, entry: LoopEntry) -> np.ndarray | None:
        """The pattern of each cell, or None where it cannot be told ahead."""
        if not entry.decides:
            return np.zeros(entry.cells, np.int64)
        setup = entry.state.setup
        index = {
            axis: entry.per_cell(setup.core_index(axis))
            for axis in jx.axes(entry.scan.body)
        }
        keys = self._keys(entry, index)
        groups = dict.fromkeys(keys[cell] for cell in entry.here)
        new = [key for key in groups if key not in self.met]
        if new:
            first = {key: cell for cell, key in reversed(list(enumerate(keys)))}
            numbers = self._evaluate(entry, index, [first[key] for key in new])
            if numbers is None:
                return None
            self.met.update(zip(new, numbers, strict=True))
        return np.array([self.met.get(key, -1) for key in keys])

    def _keys(
        self, entry: LoopEntry, index: dict[str, np.ndarray]
    ) -> list[tuple[Hashable, ...]]:
        """What each cell knows, as bytes; what is the same for all cores once."""
        rank = entry.state.setup.rank
        loop = id(entry.eqn)
        whole: list[bytes] = []
        columns: list[list[bytes] | list[int]] = []
        for known in entry.knowns:
            if all(size == 1 for size in known.shape[:rank]):
                whole.append(known.tobytes())
            else:
                columns.append(_per_cell(known, entry))
        columns += [column.tolist() for column in index.values()]
        if not columns:
            return [(loop, tuple(whole))] * entry.cells
        return [(loop, tuple(whole), row) for row in zip(*columns, strict=True)]

    def _evaluate(
        self, entry: LoopEntry, index: dict[str, np.ndarray], cells: list[int]
    ) -> list[int] | None:
        """The pattern of each of some cells."""
        rank = entry.state.setup.rank

        def grouped(known: Known) -> Known:
            if known is None:
                return None
            shape = known.shape[rank:]
            if all(size == 1 for size in known.shape[:rank]):
                return known.reshape(1, *shape)
            every = np.broadcast_to(known, (*entry.frame, *shape))
            return every.reshape(entry.cells, *shape)[cells]

        groups = Groups({axis: column[cells] for axis, column in index.items()})
        knowns = [grouped(value.known) for value in entry.values]
        found = decisions.of_loop(groups, entry.scan, knowns)
        if found is None:
            return None
        by_group = [(path, np.moveaxis(d, -1, 0)) for path, d in found.items()]
        return [self._number(entry, by_group, group) for group in range(len(cells))]

    def _number(
        self, entry: LoopEntry, found: Sequence[tuple[Hashable, np.ndarray]], group: int
    ) -> int:
        """The number of what a group decides."""
        taken: list[tuple[Hashable, bytes]] = []
        for path, decision in found:
            own = decision[group if len(decision) > 1 else 0]
            # Decisions that are never met are zero, and so are left out.
            if own.any():
                taken.append((path, own.tobytes()))
        key = id(entry.eqn), tuple(taken)
        return self.numbers.setdefault(key, len(self.numbers))


def _per_cell(known: np.ndarray, entry: LoopEntry) -> list[bytes]:
    """A known integer's bytes in each cell."""
    rank = entry.state.setup.rank
    cores = np.ascontiguousarray(known).reshape(-1, *known.shape[rank:])
    rows = np.array([core.tobytes() for core in cores], object)
    rows = rows.reshape(known.shape[:rank])
    return list(np.broadcast_to(rows, entry.frame).reshape(-1))


__all__ = ["Groups", "Patterns"]
