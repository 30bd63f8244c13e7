"""A loop whose body exchanges nothing is read once per class of cores, and never twice.

Cores that decide alike and differ by a shift in time are one class; one of them is read alone
(`emu.loops.one_core`) and what the loop did to it holds for all (`emu.loops.outcome`,
`emu.loops.merge`). It holds as well whenever the same loop is met again in the same state.
`README.md` beside this file works an example through with numbers.
"""

import dataclasses
import functools
from typing import TypeAlias

import numpy as np

from emu.clock.resources import Row
from emu.clock.state import ClockState, Walk
from emu.clock.ticks import Active
from emu.clock.tiles import Value
from emu.instruction import lookup
from emu.loops import decisions, jump
from emu.loops.distinct import distinct
from emu.loops.early import Met
from emu.loops.entry import LoopEntry
from emu.loops.foresight import Known
from emu.loops.late import Arrival
from emu.loops.marks import ALWAYS, Marks
from emu.loops.merge import KnownRings, Merge
from emu.loops.one_core import OneCore
from emu.loops.outcome import Outcome, OutcomeReader, Unclear
from emu.loops.patterns import Patterns
from emu.loops.starting_state import StartingStates, Uses
from emu.tracing import jaxpr as jx

MAX_CELLS = 4096
# More classes than this are read together. Where all cores decide alike that is exact too, and
# soon faster; else rings then turn for all cores at once.
MAX_CLASSES, FEW = 256, 16
# A loop is stepped about so often before it is jumped, and is met again for about so many steps.
SETTLED, SMALL = 4, 400
# In place of the starting state of the traced core.
TRACED = b"traced"

UsesKey: TypeAlias = tuple[jx.Scan, int, tuple[tuple[str, bool], ...]]
"""A loop, what it decides, and the memory spaces of its operands."""

Situation: TypeAlias = tuple[jx.Scan, int, int, int, int]
"""A loop, what it decides, its form, its clocks, and the longest lead."""

ClassKey: TypeAlias = tuple[Situation, bytes]
"""A situation, and the starting state."""


class LoopStore:
    """What is kept of the loops read so far.

    Attributes:
      patterns: of decisions.
      marks: in place of times that are past.
      uses: what a loop uses.
      outcomes: what a loop does to a core of a class.
      met: the states that cores were walked from in which some operand was early, by situation.
      rings: what becomes of rings in certain classes: neighbouring hops of a ring of chips mostly
        do the same to the same classes.
      left_open: classes met so far in which the time of an arrival is left open.
      numbers: of forms and sets of clocks.
      name_numbers: of names, in starting states.
      together: loops that are better read on all cores at once.
    """

    def __init__(self) -> None:
        self.patterns = Patterns()
        self.marks = Marks()
        self.uses: dict[UsesKey, Uses] = {}
        self.outcomes: dict[ClassKey, Outcome] = {}
        self.met: dict[Situation, list[Met]] = {}
        self.rings: KnownRings = {}
        self.left_open: set[ClassKey] = set()
        self.numbers: dict[object, int] = {}
        self.name_numbers: dict[str, int] = {}
        self.together: set[jx.Scan] = set()

    def number(self, long: object) -> int:
        """A short name for a form or a set of clocks."""
        return self.numbers.setdefault(long, len(self.numbers))


def scan(
    walk: Walk,
    store: LoopStore,
    state: ClockState,
    eqn: jx.Equation,
    operands: list[Value],
    active: Active,
) -> list[Value]:
    """Reads a `scan`, once per class of cores where they exchange nothing inside."""
    loop = jx.scan(eqn)
    # Inside a loop that is read on all cores together, or on one alone, dividing the cores again
    # gains nothing, except where a whole inner loop may have been met before in the same state.
    at_once = state.all_at_once and not _may_meet_again(state, loop)
    if at_once or exchanges(loop.body):
        return jump.scan(walk, state, eqn, operands, active)
    if loop not in store.together:
        entry = LoopEntry(walk, state, store.marks, eqn, operands, active)
        outputs = _by_class(store, entry)
        if outputs is not None:
            return outputs
    outer = state.all_at_once
    state.all_at_once = True
    outputs = jump.scan(walk, state, eqn, operands, active)
    state.all_at_once = outer
    return outputs


def _may_meet_again(state: ClockState, loop: jx.Scan) -> bool:
    """Whether it pays to look a loop up that is met inside a core that is read alone."""
    setup = state.setup
    if setup.core is None or state.trace is not None:
        return False
    # Inside a single iteration it is met once. Where the loop around is met again in the same state
    # that one is looked up, and where it is in another, so is this one.
    if state.iterations == 1:
        return False
    return setup.jump and large(loop)


def large(loop: jx.Scan) -> bool:
    """Whether a loop takes longer to read than to find that it was met before."""
    # A loop of a million iterations is jumped too, and so is hardly more work than one of four.
    iterations = min(loop.length, SETTLED)
    return iterations * size(loop.body) > SMALL


@functools.lru_cache(maxsize=4096)
def size(body: jx.Body) -> int:
    """Instructions of a body, all branches and one iteration of each loop counted."""
    total = 0
    for eqn in body.eqns:
        if lookup(eqn.primitive) is not None:
            total += 1
        for inner in jx.inner(eqn):
            total += size(inner)
    return total


@functools.lru_cache(maxsize=4096)
def exchanges(body: jx.Body) -> bool:
    """Whether a body holds an instruction that crosses cores."""
    for eqn in body.eqns:
        inst = lookup(eqn.primitive)
        if inst is not None and inst.arrival is not None:
            return True
        if any(exchanges(inner) for inner in jx.inner(eqn)):
            return True
    return False


def _by_class(store: LoopStore, entry: LoopEntry) -> list[Value] | None:
    """Reads a loop class by class; None where it has to be read on all cores at once."""
    setup = entry.state.setup
    # Bands stand side by side in the mesh; each may have as many cells and classes as if alone.
    bands = max(1, len(setup.bands))
    # One cell that is the whole mesh: read alone it would be the same work. Inside a core that is
    # read alone there is one cell as well, but its loop may have been met before.
    all_agree = entry.cells == 1 and setup.core is None
    if all_agree or entry.cells > bands * MAX_CELLS:
        return None
    patterns = store.patterns.of(entry)
    knowns = [value.known for value in entry.values]
    carry = decisions.after(setup, entry.scan, knowns)
    if patterns is None or carry is None:
        return None
    if entry.state.trace is None:
        patterns = entry.folded(patterns)
    met = np.unique(patterns[entry.here])
    alike = entry.active is None and len(met) == 1
    if setup.bands:
        # What a loop does differs between bands: to the classes each is a pattern of its own.
        # Of 3 bands, pattern 2 is 6 under the first, 7 under the second and 8 under the third.
        band = [entry.band_of(cell) for cell in range(entry.cells)]
        patterns = patterns * bands + band
    classes = Classes(store, entry, patterns)
    limit = FEW if alike else MAX_CLASSES
    if not classes.divide(bands * limit):
        if alike:
            store.together.add(entry.scan)
        return None
    outcomes = classes.outcomes()
    if not all(_is_complete(outcome, carry) for outcome in outcomes):
        return None
    return classes.merge(outcomes, carry)


def _is_complete(outcome: Outcome, carry: list[Known]) -> bool:
    """Whether an outcome says all: no known integer appears, no stack is of mere inputs."""
    slots = outcome.outputs[: len(carry)]
    for slot, known in zip(slots, carry):
        if slot.known and known is None:
            return False
    stacks = outcome.outputs[len(carry) :]
    # A stack's time starts at tick 0, over which no mark ever wins. Still before the base, it is
    # none that the loop made, and on other cores of the class it may be another.
    return all(outcome.issued and stack.ready >= 0 for stack in stacks)


@dataclasses.dataclass(frozen=True)
class Walked:
    """A core that has walked the loop, and the loop's outputs on it."""

    core: OneCore
    outputs: list[Value]


class Classes:
    """The cores of a loop by class.

    Attributes:
      cells: pattern of decisions to the cells that have it.
      ids: class of each cell.
      base: what its times count from.
      late: when what each cell waits for after all else arrives; 0 where its time is not left open.
      keys, first, past: of each class its key, a cell, and that cell's clocks that are past.
      rows: of each class, the clocks that are in its starting state.
      traced: the class of the traced core, which is alone in it.
      walked: cores that were read to tell what the loop uses, by class.
      read: what was taken off each core that was read.
    """

    def __init__(self, store: LoopStore, entry: LoopEntry, patterns: np.ndarray):
        self.store = store
        self.entry = entry
        self.state = entry.state
        self.cells: dict[int, list[int]] = {}
        for cell in entry.here.tolist():
            pattern = int(patterns[cell])
            self.cells.setdefault(pattern, []).append(cell)
        self.ids = np.full(entry.cells, -1)
        self.base = np.zeros(entry.cells, np.int64)
        self.late = np.zeros(entry.cells, np.int64)
        self.keys: list[ClassKey] = []
        self.first: list[int] = []
        self.past: list[list[Row]] = []
        self.rows: list[list[Row]] = []
        self.traced: int | None = None
        self.walked: dict[int, Walked] = {}
        self.read: list[OutcomeReader] = []
        self.form = store.number(entry.form)
        # A reading without jumps is the one that others are compared with: it takes over nothing.
        self.known = store.outcomes if self.state.setup.jump else {}

    # --- who is in which ---

    def divide(self, limit: int) -> bool:
        """Puts every core into a class; False if there are more than `limit`."""
        if len(self.cells) > limit:
            return False
        # Cells under several bands, and many that decide differently, use the same: their states
        # are made out at once.
        alike: dict[Uses, list[int]] = {}
        walked: dict[int, Walked] = {}
        for pattern, cells in self.cells.items():
            uses, first_walk = self._uses(pattern, cells[0])
            alike.setdefault(uses, []).append(pattern)
            # That walk may serve as its class' outcome as well, but for the traced core, which has
            # to be walked with its events.
            if first_walk is not None and cells[0] != self.traced_cell:
                walked[cells[0]] = first_walk
        for uses, patterns in alike.items():
            cells = [cell for pattern in patterns for cell in self.cells[pattern]]
            start = StartingStates(self.entry, uses, np.array(cells))
            self.base[cells] = start.base
            self._number(patterns, cells, start, walked)
            if len(self.keys) > limit:
                return False
        # Their number is one past the last class, where `PerClass.spread` has the entry for them.
        takes_no_part = self.ids < 0
        self.ids[takes_no_part] = len(self.keys)
        return True

    def _number(
        self,
        patterns: list[int],
        cells: list[int],
        start: StartingStates,
        walked: dict[int, Walked],
    ) -> None:
        """Gives cells the numbers of their classes.

        Args:
          patterns: of their decisions.
          cells: of these, pattern by pattern.
          start: their states.
          walked: cells whose core was walked as it is, and that walk.
        """
        rows = self.store.number(tuple(start.resource_rows))
        lead = self.state.prices.lead
        own_patterns: list[int] = []
        for pattern in patterns:
            own_patterns += [pattern] * len(self.cells[pattern])
        states = start.states(self.store.name_numbers)
        is_traced = np.array(cells) == self.traced_cell
        firsts, which = distinct(np.vstack([states, own_patterns, is_traced]))
        numbers: list[int] = []
        for group, index in enumerate(firsts):
            loop, pattern = self.entry.scan, own_patterns[index]
            situation: Situation = loop, pattern, self.form, rows, lead
            key: ClassKey = situation, states[:, index].tobytes()
            if is_traced[index]:
                # No other core is like it.
                key = situation, TRACED
                self.traced = len(self.keys)
            # A core that was walked as it is needs no other reading, nor what was met just so.
            elif key not in self.known and cells[index] not in walked:
                each = np.flatnonzero(which == group).tolist()
                self._number_new(key, cells, start, each)
                numbers.append(-1)
                continue
            first_walk = walked.get(cells[index])
            if first_walk is not None and start.uses.engines and not is_traced[index]:
                self.walked[len(self.keys)] = first_walk
            numbers.append(self._add(key, cells[index], start, index))
        known = np.array(numbers)[which]
        self.ids[np.array(cells)[known >= 0]] = known[known >= 0]

    def _number_new(
        self, key: ClassKey, cells: list[int], start: StartingStates, each: list[int]
    ) -> None:
        """`_number` of cells whose state was never met: each may wait for what comes late."""
        situation, _ = key
        numbers: dict[ClassKey, int] = {}
        for index in each:
            cell = cells[index]
            own = key
            arrival = start.arrivals[index] if self.state.setup.jump else None
            if arrival is not None:
                state = start.late_state(index, arrival, self.store.name_numbers)
                left_open: ClassKey = situation, state
                # It pays from the third time on: for the first nobody knows that there is another.
                met_before = left_open in self.store.left_open
                self.store.left_open.add(left_open)
                if met_before and self._holds(left_open, cell, start, index, arrival):
                    own = left_open
                    self.late[cell] = arrival.time
            if own not in numbers:
                if own is key:
                    self._meet(key)
                numbers[own] = self._add(own, cell, start, index)
            self.ids[cell] = numbers[own]

    def _add(self, key: ClassKey, cell: int, start: StartingStates, index: int) -> int:
        """Adds a class; its number."""
        self.keys.append(key)
        self.first.append(cell)
        # A recorded lifetime ends when its buffer is idle: no clock is marked there.
        _, state = key
        past = [] if state == TRACED else start.past_rows(index)
        self.past.append(past)
        self.rows.append(start.rows)
        return len(self.keys) - 1

    def _meet(self, key: ClassKey) -> None:
        """Takes over what the loop does from a state that differs in early operands only."""
        if not self.state.setup.jump:
            return
        situation, state = key
        for met in self.store.met.get(situation, []):
            if met.holds(state):
                self.known[key] = met.outcome
                return

    def _holds(
        self,
        key: ClassKey,
        cell: int,
        start: StartingStates,
        index: int,
        arrival: Arrival,
    ) -> bool:
        """Whether what the loop does to a core holds whenever an arrival is, and for this one.

        Args:
          key: of the core's class, the time of the arrival left open.
          cell, index: of the core, in all and in `start`.
          start: the states of it and others.
          arrival: what it waits for.
        """
        outcome = self.known.get(key)
        if outcome is None:
            core = OneCore(self.entry, cell, start.past_rows(index), arrival=arrival)
            outcome = self._taken_off(core, core.walk(), int(start.base[index]))
            self.known[key] = outcome
        settled = arrival.before
        if outcome.latest is not None:
            settled = max(settled, int(start.base[index]) + outcome.latest)
        return arrival.time > settled + start.settling

    @functools.cached_property
    def traced_cell(self) -> int | None:
        trace = self.state.trace
        if trace is None:
            return None
        frame = self.entry.frame
        if not frame:
            return 0
        own: list[int] = []
        for coordinate, size in zip(trace.core, frame, strict=True):
            own.append(coordinate if size > 1 else 0)
        return int(np.ravel_multi_index(own, frame))

    def _uses(self, pattern: int, cell: int) -> tuple[Uses, Walked | None]:
        """What the loop uses: all cores that decide alike issue the same, so one is read."""
        key = self.entry.scan, pattern, self.entry.spaces
        known = self.store.uses.get(key)
        if known is not None:
            return known, None
        # Without marks: which clocks are past depends on which engines are used, and that is what
        # this walk is to tell.
        core = OneCore(self.entry, cell, [])
        walked = Walked(core, core.walk())
        uses = _used_by(core.state)
        self.store.uses[key] = uses
        return uses, walked

    # --- what the loop does to each ---

    def outcomes(self) -> list[Outcome]:
        """One outcome per class: known from before, or read on one core."""
        numbers = range(len(self.keys))
        return [self._outcome(number) for number in numbers]

    def _outcome(self, number: int) -> Outcome:
        if number == self.traced:
            return self._read(number, traced=True)
        key = self.keys[number]
        outcome = self.known.get(key)
        if outcome is None:
            outcome = self._of_walked(number) or self._read(number)
            self.known[key] = outcome
            self._keep_for_others(number, outcome)
        return outcome

    def _keep_for_others(self, number: int, outcome: Outcome) -> None:
        """Keeps what the loop does for states that differ in early operands only."""
        situation, state = self.keys[number]
        met = Met.of(state, self.rows[number], outcome)
        if met is not None and self.state.setup.jump:
            self.store.met.setdefault(situation, []).append(met)

    def _of_walked(self, number: int) -> Outcome | None:
        """The outcome on the core that was read to tell what the loop uses, if it is clear."""
        walked = self.walked.get(number)
        if walked is None:
            return None
        cell = self.first[number]
        base = int(self.base[cell])
        before = ALWAYS
        if self.state.setup.contended:
            before = base - self.state.prices.lead
        # It had no marks, so a time below `before` is that of some past clock, and it cannot always
        # be told which. Then the core is walked again, with marks.
        reader = OutcomeReader(walked.core, base, self.past[number], before)
        try:
            outcome = reader.outcome(walked.outputs)
        except Unclear:
            return None
        self.read.append(reader)
        return outcome

    def _read(self, number: int, traced: bool = False) -> Outcome:
        cell = self.first[number]
        core = OneCore(self.entry, cell, self.past[number], traced)
        return self._taken_off(core, core.walk(), int(self.base[cell]))

    def _taken_off(self, core: OneCore, outputs: list[Value], base: int) -> Outcome:
        """The outcome on a core that was walked with marks."""
        reader = OutcomeReader(core, base, [], ALWAYS)
        self.read.append(reader)
        return reader.outcome(outputs)

    def merge(self, outcomes: list[Outcome], carry: list[Known]) -> list[Value]:
        """The loop's outputs on the mesh, once all that it did is there."""
        state = self.state
        for reader in self.read:
            alone = reader.state
            state.stepped += alone.stepped
            state.unjumped += alone.unjumped
            if state.trace is not None and alone.trace is not None:
                state.trace.events += alone.trace.events
                state.trace.tracked.update(reader.inside)
        outcomes, ids, traced = self._distinct(outcomes)
        merge = Merge(self.entry, outcomes, ids, self.base, self.late, traced)
        if state.asked:
            merge.asked()
        merge.clocks()
        merge.counts()
        # Without jumps an outcome is of one visit, and none is met again.
        merge.buffers(self.store.rings if state.setup.jump else {})
        return merge.outputs(carry)

    def _distinct(
        self, outcomes: list[Outcome]
    ) -> tuple[list[Outcome], np.ndarray, int | None]:
        """Outcomes, each once, and which each cell and the traced core have.

        States that differ in early operands only are classes of their own with one outcome.
        """
        numbers: dict[Outcome, int] = {}
        of_class = [numbers.setdefault(one, len(numbers)) for one in outcomes]
        traced = None if self.traced is None else of_class[self.traced]
        # Cells that take no part keep the number after the last.
        ids = np.array([*of_class, len(numbers)])[self.ids]
        return list(numbers), ids, traced


def _used_by(state: ClockState) -> Uses:
    """What was used in a state that began with nothing used."""
    engines = [name for name, engine in state.engines.items() if engine.uses]
    rows = [row for row, resource, _ in state.table() if resource.uses]
    return Uses(tuple(engines), tuple(rows))


__all__ = ["LoopStore", "exchanges", "scan"]
