"""The state in which a loop begins: what it can read, as ticks after its first engine is free."""

import dataclasses
from functools import cached_property

import numpy as np

from emu.clock.names import PerCoreNames
from emu.clock.resources import Row
from emu.clock.ticks import Flags, Ticks, is_late
from emu.loops.entry import UNLIKE, LoopEntry, Numbers
from emu.loops.late import Arrival, settling_ticks
from emu.loops.marks import EARLY


@dataclasses.dataclass(frozen=True)
class Uses:
    """What a loop uses with certain decisions.

    Attributes:
      engines: those that it gives instructions.
      rows: the clocks of engines and ports that those instructions can wait for.
    """

    engines: tuple[str, ...]
    rows: tuple[Row, ...]


class StartingStates:
    """The states of cells whose loop uses the same.

    No instruction starts before the first of its engines is free, so what is earlier, by the
    longest lead, decides nothing: not a start, and not what is booked as its cause.

    Attributes:
      base: per cell, when that first engine is free; 0 where nothing can be too early.
      past: which clocks are too early, `[rows, cells]`.
    """

    _states: np.ndarray | None = None

    def __init__(self, entry: LoopEntry, uses: Uses, cells: np.ndarray):
        self.entry = entry
        self.uses = uses
        self.cells = cells
        # Not `free`, which may be later: a wait is counted from when the engine was last free
        # itself.
        last_rows: list[Row] = [("last", engine) for engine in uses.engines]
        self.times = self._times(self.rows)
        self.last = self._times(last_rows)
        self.base = np.zeros(len(cells), np.int64)
        # There a start is when operands allow it, counted from the kernel's start: one that was
        # ready long before any engine was free still decides.
        if not entry.state.setup.contended:
            self.past = np.zeros(self.times.shape, bool)
        elif uses.engines:
            self.base = self.last.min(axis=0)
            lead = entry.state.prices.lead
            # With a base of 100 and a lead of 20, an operand that was ready at 79 allows a start at
            # 99, before the engine does; one ready at 80 may be what is waited for.
            self.past = self.times - self.base < -lead
        else:
            self.past = np.ones(self.times.shape, bool)

    def _times(self, rows: list[Row]) -> np.ndarray:
        entry = self.entry
        positions = [entry.position[row] for row in rows]
        return entry.times[np.array(positions, np.int64)[:, np.newaxis], self.cells]

    @cached_property
    def resource_rows(self) -> list[Row]:
        """The clocks of engines and ports that such a loop can read, of those there are."""
        clocks = self.entry.clocks
        return [row for row in self.uses.rows if row in clocks]

    @cached_property
    def rows(self) -> list[Row]:
        """All clocks that such a loop can read."""
        return [*self.resource_rows, *self.entry.own_rows]

    @cached_property
    def arrivals(self) -> list[Arrival | None]:
        """What each cell waits for after all else, if there is such a thing."""
        none: list[Arrival | None] = [None] * len(self.cells)
        if not self.uses.engines or not self.entry.state.setup.contended:
            return none
        is_ready = np.array([kind == "ready" for kind, _ in self.rows])
        if not is_ready.any():
            return none
        before = self.times[~is_ready].max(axis=0)
        later = is_ready[:, np.newaxis] & (self.times > before + self.settling)
        found = none.copy()
        for index in np.flatnonzero(later.any(axis=0)).tolist():
            found[index] = self._arrival(index, int(before[index]), is_ready)
        return found

    @cached_property
    def settling(self) -> int:
        """By how much an arrival is later than all else."""
        return settling_ticks(self.entry.state, self.uses.engines)

    def _arrival(self, index: int, before: int, is_ready: np.ndarray) -> Arrival | None:
        """The first of a cell's operands, by time, that is ready long after all else is."""
        own = self.times[:, index]
        for number in sorted(np.flatnonzero(is_ready), key=lambda row: own[row]):
            time = int(own[number])
            # What is late around this loop is no time that others can be before.
            if time > before + self.settling and not is_late(before):
                late = np.flatnonzero(is_ready & (own >= time))
                return Arrival(time, [self.rows[row] for row in late], before)
            before = max(before, time)
        return None

    def late_state(self, index: int, arrival: Arrival, numbers: Numbers) -> bytes:
        """The state of one of the cells where whatever is late may come at any time."""
        times = self.times[:, index] - self.base[index]
        for row in arrival.rows:
            place = self.rows.index(row)
            times[place] = arrival.in_place_of(int(self.times[place, index]))
        state = self.states(numbers)[:, index].copy()
        clocks = len(self.rows)
        state[:clocks] = np.where(self.past[:, index], EARLY, times)
        return state.tobytes()

    def states(self, numbers: Numbers) -> np.ndarray:
        """Each cell's state, int64 `[clocks, their names and what else there is, cells]`.

        An engine that was never used books its first wait as fill.
        """
        if self._states is None:
            times = np.where(self.past, EARLY, self.times - self.base)
            never_used = self.last == 0
            names = self._names(numbers)
            others = np.array(self._others(), np.int64).reshape(-1, len(self.cells))
            # In the order in which `emu.loops.early.Met` looks at them.
            parts = [times, names, never_used, others]
            self._states = np.concatenate(parts, dtype=np.int64)
        return self._states

    def past_rows(self, index: int) -> list[Row]:
        """The clocks that are past in the cell of that index among `cells`."""
        early = np.flatnonzero(self.past[:, index])
        return [self.rows[number] for number in early]

    def _names(self, numbers: Numbers) -> np.ndarray:
        """Whom each clock makes wait for, where it can, by number."""
        entry = self.entry
        alike = entry.name_numbers(numbers)
        positions = [entry.position[row] for row in self.rows]
        out = np.empty(self.past.shape, np.int64)
        out[:] = alike[positions, np.newaxis]
        for place in np.flatnonzero(out[:, 0] == UNLIKE).tolist():
            name = entry.labels[self.rows[place]]
            assert isinstance(name, PerCoreNames)
            out[place] = self._numbered(name, numbers)
        # Nobody waits for a past clock, so that different engines used a buffer long ago must not
        # tell cores apart.
        out[self.past] = -1
        return out

    def _numbered(self, name: PerCoreNames, numbers: Numbers) -> np.ndarray:
        """The numbers of names, of each cell."""
        each: list[int] = []
        for part in name.names:
            number = numbers.setdefault(part, len(numbers))
            each.append(number)
        which = self._of_cells(name.which)
        return np.array(each)[which]

    def _of_cells(self, entry: Ticks | Flags) -> np.ndarray:
        return self.entry.per_cell(entry)[self.cells]

    def _others(self) -> list[np.ndarray]:
        """Charges of engines that throttle, and which operands are stale."""
        others: list[Ticks | Flags] = []
        for (_, engine), level in self.entry.levels.items():
            if engine in self.uses.engines:
                others.append(level)
        # Reading a stale operand is an error, which a class must not bring on cores that have a
        # fresh one.
        others += self.entry.stale
        each = map(self._of_cells, others)
        return [cells.astype(np.int64) for cells in each]


__all__ = ["StartingStates", "Uses"]
