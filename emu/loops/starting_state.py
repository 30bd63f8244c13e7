"""The state in which a loop begins: what it can read, as ticks after its first engine is free."""

import dataclasses
from functools import cached_property

import numpy as np

from emu.clock.names import CauseName, PerCoreNames
from emu.clock.resources import Row
from emu.loops.entry import LoopEntry
from emu.loops.marks import EARLY


@dataclasses.dataclass(frozen=True)
class Uses:
    """What a loop uses with certain decisions.

    Attributes:
      engines: those that it gives instructions.
      rows: the clocks of engines and ports that those instructions can wait for.
    """

    engines: list[str]
    rows: list[Row]


class StartingStates:
    """The states of cells that decide alike.

    No instruction starts before the first of its engines is free, so what is earlier, by the
    longest lead, decides nothing: not a start, and not what is booked as its cause.

    Attributes:
      base: per cell, when that first engine is free; 0 where nothing can be too early.
      past: which clocks are too early, `[rows, cells]`.
    """

    def __init__(self, entry: LoopEntry, uses: Uses, cells: np.ndarray):
        self.entry = entry
        self.uses = uses
        self.cells = cells
        self.times = self._times(self.rows)
        self.last = self._times([("last", engine) for engine in uses.engines])
        self.base = np.zeros(len(cells), np.int64)
        if not entry.state.setup.contended:
            self.past = np.zeros(self.times.shape, bool)
        elif uses.engines:
            self.base = self.last.min(axis=0)
            lead = entry.state.prices.lead
            self.past = self.times - self.base < -lead
        else:
            self.past = np.ones(self.times.shape, bool)

    def _times(self, rows: list[Row]) -> np.ndarray:
        positions = [self.entry.position[row] for row in rows]
        return self.entry.times[:, self.cells][positions]

    @cached_property
    def resource_rows(self) -> list[Row]:
        """The clocks of engines and ports that such a loop can read, of those there are."""
        return [row for row in self.uses.rows if row in self.entry.clocks]

    @cached_property
    def rows(self) -> list[Row]:
        """All clocks that such a loop can read."""
        entry = self.entry
        rows = [*self.resource_rows]
        for place in range(len(entry.buffers)):
            if place not in entry.aside:
                rows.append(("idle", place))
        for place, value in enumerate(entry.values):
            if value.buffer is not None:
                rows.append(("ready", place))
        return rows

    def states(self, numbers: dict[str, int]) -> list[bytes]:
        """Each cell's state; `numbers` numbers the names met so far.

        An engine that was never used books its first wait as fill.
        """
        times = np.where(self.past, EARLY, self.times - self.base)
        entries = [*times, *(self.last == 0), *self._names(numbers), *self._others()]
        state = np.array(entries, np.int64).reshape(len(entries), len(self.cells))
        return [row.tobytes() for row in np.ascontiguousarray(state.T)]

    def past_rows(self, index: int) -> list[Row]:
        """The clocks that are past in the cell of that index among `cells`."""
        early = self.past[:, index]
        return [row for row, is_past in zip(self.rows, early, strict=True) if is_past]

    def _names(self, numbers: dict[str, int]) -> np.ndarray:
        """Whom each clock makes wait for, where it can, by number."""
        out = np.full(self.past.shape, -1)
        for i in np.flatnonzero(~self.past.all(axis=1)):
            name = self.entry.labels.get(self.rows[i])
            if name is not None:
                out[i] = np.where(self.past[i], -1, self._numbered(name, numbers))
        return out

    def _numbered(self, name: CauseName, numbers: dict[str, int]) -> int | np.ndarray:
        if not isinstance(name, PerCoreNames):
            return numbers.setdefault(name, len(numbers))
        each = [numbers.setdefault(part, len(numbers)) for part in name.names]
        return np.array(each)[self.entry.per_cell(name.which)[self.cells]]

    def _others(self) -> list[np.ndarray]:
        """Charges of engines that throttle, and which operands are stale."""
        engines = self.uses.engines
        levels = [
            level
            for (_, engine), level in self.entry.levels.items()
            if engine in engines
        ]
        each = [
            self.entry.per_cell(entry)[self.cells]
            for entry in (*levels, *self.entry.stale)
        ]
        return [entry.astype(np.int64) for entry in each]


__all__ = ["StartingStates", "Uses"]
