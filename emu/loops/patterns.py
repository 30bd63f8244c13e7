"""Which cores decide alike inside a loop: every branch and count of every iteration.

Cores with equal known integers decide alike, so only one of each such group is evaluated.

Say a loop of 4 iterations on 4 cores takes a branch where its index is below `core // 2`, which it
works out inside. No two cores have the same index, so all four are evaluated: cores 0 and 1 never
take the branch, cores 2 and 3 do in the first iteration, which makes two patterns. Had the halves
been worked out before the loop, `[0, 0, 1, 1]`, only cores 0 and 2 would be evaluated.
"""

from collections.abc import Hashable
from typing import TypeAlias

import numpy as np

from emu.loops import decisions
from emu.loops.entry import LoopEntry
from emu.loops.foresight import Known
from emu.tracing import jaxpr as jx

Indices: TypeAlias = dict[str, np.ndarray]
"""The index that each core, or group of cores, has along a mesh axis."""


class Groups:
    """Groups of cores side by side: a mesh of one dimension, as `emu.loops.decisions` sees it."""

    rank = 1

    def __init__(self, index: Indices):
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
            # Pattern 0 may be some other loop's too: whoever keeps things by pattern has the loop
            # beside.
            return np.zeros(entry.cells, np.int64)
        knowledge = Knowledge(entry)
        keys = knowledge.keys()
        new: dict[Hashable, int] = {}
        here: list[int] = entry.here.tolist()
        for cell in here:
            key = keys[cell]
            if key not in self.met:
                new.setdefault(key, cell)
        if new:
            cells = list(new.values())
            numbers = self._evaluate(knowledge, cells)
            if numbers is None:
                return None
            self.met.update(zip(new, numbers, strict=True))
        # Cells that take no part may never have been evaluated.
        patterns = [self.met.get(key, -1) for key in keys]
        return np.array(patterns)

    def _evaluate(self, knowledge: "Knowledge", cells: list[int]) -> list[int] | None:
        """The pattern of each of some cells."""
        entry = knowledge.entry
        groups = knowledge.groups(cells)
        knowns: list[Known] = []
        for place in range(len(entry.values)):
            # What no decision depends on need not be worked out.
            known = entry.knowns.get(place)
            knowns.append(knowledge.of_cells(known, cells))
        decided = decisions.of_loop(groups, entry.scan, knowns)
        if decided is None:
            return None
        numbers: list[int] = []
        for group in range(len(cells)):
            taken: list[tuple[Hashable, bytes]] = []
            for path, decision in decided.items():
                # The groups are the only mesh dimension, behind those of this loop's and of inner
                # iterations.
                all_alike = decision.shape[-1] == 1
                own = decision[..., 0 if all_alike else group]
                # Decisions that are never met are zero, and so are left out.
                if own.any():
                    taken.append((path, own.tobytes()))
            # By what is decided, not by what is known: cores 2 and 3 of the example above have
            # different indices and one pattern.
            pattern = knowledge.loop, *taken
            number = self.numbers.setdefault(pattern, len(self.numbers))
            numbers.append(number)
        return numbers


class Knowledge:
    """What the cells of a loop know: its operands, and their own indices where it asks for them.

    Attributes:
      entry, loop: the loop, and what it is known by.
      rank: dimensions of the mesh.
      index: of each cell, along every axis that the loop decides by.
    """

    def __init__(self, entry: LoopEntry):
        setup = entry.state.setup
        self.entry = entry
        self.loop = entry.scan
        self.rank = setup.rank
        self.index: Indices = {}
        for axis in sorted(entry.axes):
            index = setup.core_index(axis)
            self.index[axis] = entry.per_cell(index)

    def keys(self) -> list[Hashable]:
        """What each cell knows, as bytes; what is the same for all cores once."""
        shared: list[bytes] = []
        columns: list[list[bytes] | list[int]] = []
        for known in self.entry.knowns.values():
            # A table of a whole ring that 1,024 cores share is turned into bytes once, not 1,024
            # times.
            if self._is_shared(known):
                shared.append(known.tobytes())
            else:
                columns.append(self._bytes_per_cell(known))
        for column in self.index.values():
            columns.append(column.tolist())
        common = self.loop, tuple(shared)
        if not columns:
            return [common] * self.entry.cells
        rows = zip(*columns, strict=True)
        return [(common, own) for own in rows]

    def groups(self, cells: list[int]) -> Groups:
        """Some cells as a mesh of their own."""
        own: Indices = {}
        for axis in jx.axes(self.entry.scan.body):
            # Along the others any index leads to the same decisions.
            column = self.index.get(axis)
            own[axis] = np.zeros(1, np.int32) if column is None else column[cells]
        return Groups(own)

    def of_cells(self, known: Known, cells: list[int]) -> Known:
        """A known integer on that mesh."""
        if known is None:
            return None
        shape = known.shape[self.rank :]
        if self._is_shared(known):
            return known.reshape(1, *shape)
        frame = self.entry.frame
        everywhere = np.broadcast_to(known, (*frame, *shape))
        return everywhere.reshape(-1, *shape)[cells]

    def _is_shared(self, known: np.ndarray) -> bool:
        """Whether a known integer has one entry for all cores."""
        mesh = known.shape[: self.rank]
        return all(size == 1 for size in mesh)

    def _bytes_per_cell(self, known: np.ndarray) -> list[bytes]:
        mesh = known.shape[: self.rank]
        shape = known.shape[self.rank :]
        cores = np.ascontiguousarray(known).reshape(-1, *shape)
        each = np.array([core.tobytes() for core in cores], object)
        # An integer of 4 x 1 in a frame of 4 x 16 is 4 byte strings, each referred to 16 times.
        cells = np.broadcast_to(each.reshape(mesh), self.entry.frame)
        return cells.reshape(-1).tolist()


__all__ = ["Groups", "Patterns"]
