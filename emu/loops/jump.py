"""Exact loop jump: a `scan` is stepped until its schedule repeats, then jumped to its end.

`emu.loops.periodic` has the rule by which a schedule repeats for certain, and `emu.loops.decisions`
tells which iterations take the same branches and costs. Stepping and jumping agree to the tick.
`README.md` beside this file works a jump through with numbers.
"""

import dataclasses

import numpy as np

from emu.clock.names import CauseName
from emu.clock.reading import Event
from emu.clock.resources import Buffer, Row
from emu.clock.state import ClockState, Lifetime, Walk
from emu.clock.ticks import (
    Active,
    Flags,
    Ticks,
    flat,
    is_late,
    later,
    on_core,
    same,
    settled,
)
from emu.clock.tiles import Value
from emu.errors import LimitExceeded
from emu.loops import decisions, periodic
from emu.loops.periodic import Snapshot
from emu.loops.writes import read_only
from emu.tracing import jaxpr as jx

MAX_PERIOD = 12
# A loop that has not settled after PATIENCE tries is tried again for one window in each stretch:
# after 128 to 164 iterations, after 256 to 292, and so on.
PATIENCE, STRETCH = 48, 128
# Two equal periods have to be walked before a third can be jumped, and a core settles in its first
# iteration or two. Of a loop of four that leaves one to be jumped, if any, which takes no longer to
# walk than four states take to compare.
FEWEST = 5
# Of longer loops it is not asked whether some period may be jumped at all.
LONG = 3 * MAX_PERIOD

END: Row = ("end", None)
MOST_TICKS = 2**62
SECONDS_A_YEAR = 365 * 24 * 3600


class Loop:
    """One `scan` being read: its state between iterations.

    Attributes:
      walk: reads its body.
      state: the clock.
      eqn, scan: the equation, and the `scan` as `emu.tracing.jaxpr` reads it.
      active: the cores that take part.
      consts, carry, stacked: its operands; the carry is that of the next iteration.
      path: of the loop.
      done: iterations so far, jumped ones included.
      tries: how often it was looked for a period.
      history: snapshots of the last iterations.
      ready, spaces, sources: of each stacked output: when its last slice so far is ready, its
        memory space, and what made it.
      steps: of each stacked output of an outermost loop, when each slice was ready.
      plan: what is known of all iterations ahead, or None where the loop must be stepped.
    """

    def __init__(
        self,
        walk: Walk,
        state: ClockState,
        eqn: jx.Equation,
        operands: list[Value],
        active: Active,
    ):
        self.walk = walk
        self.state = state
        self.eqn = eqn
        self.active = active
        self.scan = jx.scan(eqn)
        self.consts, self.carry, self.stacked = self.scan.parts(operands)
        self.path = state.path
        self.done = self.tries = 0
        self.history: list[Snapshot] = []
        outputs = len(eqn.outvars) - self.scan.carry
        self.ready: list[Ticks] = [0] * outputs
        self.spaces = [state.setup.device.home] * outputs
        self.sources: list[CauseName] = [""] * outputs
        self.steps: list[list[Ticks]] = [[] for _ in range(outputs)]
        self.plan: decisions.Plan | None = None
        self._mismatches: dict[int, np.ndarray] = {}
        self._shifts: list[int] = []
        self._rows: dict[tuple[int, ...], list[Row]] = {}

    # --- stepping ---

    def step(self) -> None:
        """Walks one iteration."""
        scan = self.scan
        rank = self.state.setup.rank
        index = scan.length - 1 - self.done if scan.reverse else self.done
        _, _, atoms = scan.parts(scan.body.invars)
        slices: list[Value] = []
        for value, atom in zip(self.stacked, atoms, strict=True):
            slices.append(value.at_slice(index, atom.aval, rank))
        inputs = [*self.consts, *self.carry, *slices]
        results = self.walk(self.state, scan.body, inputs, self.active)
        self.carry = results[: scan.carry]
        for number, output in enumerate(results[scan.carry :]):
            self.ready[number] = later(self.ready[number], output.ready)
            self.spaces[number] = output.space
            self.sources[number] = output.source
            if self.is_outermost:
                self.steps[number].append(output.ready)
        self.done += 1

    @property
    def is_outermost(self) -> bool:
        return len(self.state.loops) == 1

    def outputs(self) -> list[Value]:
        """The loop's outputs after its last iteration: a stack is ready with its last slice."""
        stacks: list[Value] = []
        for number, atom in enumerate(self.eqn.outvars[self.scan.carry :]):
            stack = self.state.made(
                atom.aval,
                self.spaces[number],
                self.ready[number],
                self.sources[number],
            )
            if self.is_outermost:
                steps = self.steps[number]
                stack.steps = steps[::-1] if self.scan.reverse else steps
            stacks.append(stack)
        return [*self.carry, *stacks]

    # --- snapshots ---

    def snapshot(self) -> Snapshot:
        """Every clock that the loop can move, by row, and what it has counted.

        Rows are those of the clock's state, and the loop's own: `("ready", slot)` of the carry,
        `("stack", number)` of stacked outputs, `("idle", role)` of buffers, and its end.
        """
        state = self.state
        fixed = [*self.consts, *self.stacked]
        buffers, form = periodic.roles(self.carry, fixed, self.turned())
        table = state.table()
        shape = len(table.rows), len(self.carry), len(buffers)
        if shape not in self._rows:
            self._rows[shape] = [*table.rows, *self.own_rows(len(buffers))]
        rows = self._rows[shape]
        clocks = [
            *table.times(),
            state.end,
            *self.ready,
            *(value.ready for value in self.carry),
            *(buffer.idle for buffer in buffers),
        ]
        marks = [
            *table.marks(),
            # Any instruction may move the end and what is stacked.
            *(object() for _ in range(1 + len(self.ready))),
            # Whatever writes a value makes a new one: the object itself tells.
            *self.carry,
            # In a ring that turns another buffer is in the role, perhaps used as often.
            *((id(buffer), buffer.uses) for buffer in buffers),
        ]
        labels = [
            *table.labels(),
            *(value.source for value in self.carry),
            *(buffer.user for buffer in buffers),
        ]
        shapes: list[tuple[int, ...] | None] = []
        for time in clocks:
            shapes.append(time.shape if isinstance(time, np.ndarray) else None)
        levels = [np.asarray(level).tobytes() for level in state.levels().values()]
        return Snapshot(
            rows=rows,
            clocks=clocks,
            marks=marks,
            buffers=buffers,
            versions=[buffer.version for buffer in buffers],
            uses=[buffer.uses for buffer in buffers],
            since=[buffer.since for buffer in buffers],
            form=(form, rows, shapes, labels, levels),
            spent=dict(state.spent),
            sums=dict(state.tally.sums),
            events=0 if state.trace is None else len(state.trace.events),
            tracked=0 if state.trace is None else len(state.trace.tracked),
        )

    def turned(self) -> list[Buffer]:
        """Buffers of the rings declared inside."""
        rings = self.state.rings.inside.get(self.path, [])
        return [buffer for ring in rings for buffer in ring.buffers]

    def own_rows(self, buffers: int) -> list[Row]:
        """The rows of a snapshot that follow those of engines and ports."""
        rows = [END]
        rows += [("stack", number) for number in range(len(self.ready))]
        rows += [("ready", slot) for slot in range(len(self.carry))]
        rows += [("idle", role) for role in range(buffers)]
        return rows

    # --- looking for a period ---

    def try_jump(self) -> bool:
        """Looks for a period that the schedule repeats; jumps as far as it holds."""
        self.tries += 1
        outside_window = self.done % STRETCH > 3 * MAX_PERIOD
        # Snapshots compared must be of iterations in a row, so each window begins with none.
        if self.tries > PATIENCE and outside_window:
            self.history = []
            return False
        now = self.snapshot()
        # With 25 snapshots a period of 12 can be seen twice.
        self.history = [*self.history[-2 * MAX_PERIOD :], now]
        setup = self.state.setup
        exchanged = self.state.exchanged
        apart = [i for i, axis in enumerate(setup.mesh) if axis not in exchanged]
        # With 7 snapshots periods of 1, 2 and 3 can be seen twice.
        longest = (len(self.history) - 1) // 2
        # The shortest first: fewest iterations are left to walk after the jump.
        for period in range(1, longest + 1):
            first = self.history[-1 - 2 * period]
            was = self.history[-1 - period]
            times = self.alike(period)
            # An index that is not known ahead would still be that of before the jump, and all that
            # is decided by it later on wrong.
            if not times or not self.known_after_jump():
                continue
            steps = periodic.step(first, was, now, apart, setup.contended)
            if steps is None or not self.slices_repeat(period, steps):
                continue
            if self.events_repeat(first, was, now, steps):
                self.jump(was, now, steps, period, times)
                return True
        return False

    def alike(self, period: int) -> int:
        """How many further whole periods decide as each of the last two did.

        With `ids` 0 1 0 1 0 1 0 0 and a period of 2, iteration 7 is the first that decides unlike
        the one a period before. After 4 iterations that leaves 4, 5 and 6: one whole period.
        """
        assert self.plan is not None
        ids = self.plan.ids
        end = self.scan.length
        if ids is None:
            return (end - self.done) // period
        if period not in self._mismatches:
            differs = ids[period:] != ids[:-period]
            self._mismatches[period] = np.flatnonzero(differs) + period
        mismatches = self._mismatches[period]
        # The last period must itself be like the one before it.
        following = int(np.searchsorted(mismatches, self.done - period))
        if following < len(mismatches):
            end = int(mismatches[following])
        further = max(0, end - self.done)
        return further // period

    def may_jump(self) -> bool:
        """Whether there is a period that can be seen twice and jumped once, by what is decided.

        It takes as many equal decisions in a row as two periods have. With `ids` 2 2 1 0, as of two
        full tiles, one that is cut and one that is skipped, no two in a row equal the one before
        them: none of the clocks needs to be looked at.
        """
        assert self.plan is not None
        length = self.scan.length
        ids = self.plan.ids
        if length > LONG:
            return True
        for period in range(1, length // 3 + 1):
            if ids is None:
                return True
            alike = 0
            for now, before in zip(ids[period:].tolist(), ids[:-period].tolist()):
                alike = alike + 1 if now == before else 0
                if alike == 2 * period:
                    return True
        return False

    def known_after_jump(self) -> bool:
        """Whether every carried integer known now is known ahead."""
        assert self.plan is not None
        for value, ahead in zip(self.carry, self.plan.carry, strict=True):
            if value.known is not None and ahead is None:
                return False
        return True

    def slices_repeat(self, period: int, steps: dict[Row, Ticks]) -> bool:
        """Whether the last period's slices already move as the last of all slices does.

        A slice's time is convex in the number of periods, so once it has that rate it keeps it.
        """
        for number, slices in enumerate(self.steps):
            rate = steps["stack", number]
            before = slices[-2 * period : -period]
            last = slices[-period:]
            for was, now in zip(before, last):
                if not same(now - was, rate):
                    return False
        return True

    # --- the jump ---

    def check_end(self, steps: dict[Row, Ticks], times: int) -> None:
        """Raises `LimitExceeded` for an end later than an array of times can hold.

        Seven loops of 1,000 within one another are 10**21 iterations; at 4.8 GHz 64 bits count 60
        years. No clock is ahead of the end for long, so none needs to be looked at beside it.
        """
        end = int(np.max(self.state.end)) + times * int(np.max(steps[END]))
        if end > MOST_TICKS:
            years = end / self.state.setup.device.tick_hz / SECONDS_A_YEAR
            raise LimitExceeded(
                f"scan: with its {self.scan.length} iterations the kernel takes {end} ticks, "
                f"{years:,.0f} years, at most {MOST_TICKS}: let it have fewer",
                jx.location(self.eqn),
            )

    def jump(
        self,
        was: Snapshot,
        now: Snapshot,
        steps: dict[Row, Ticks],
        period: int,
        times: int,
    ) -> None:
        """Moves every clock and count `times` periods on."""
        state = self.state
        self.check_end(steps, times)
        jumped = times * period
        end = self.done + jumped
        moved: dict[Row, Ticks] = {}
        for row, clock in zip(now.rows, now.clocks, strict=True):
            moved[row] = clock + times * settled(steps[row])
        for row, resource, clock in state.table():
            setattr(resource, clock.time, moved[row])
        state.end = moved[END]
        if state.setup.core is not None:
            self.move_latest(now, steps, times)
        for number, slices in enumerate(self.steps):
            self.ready[number] = moved["stack", number]
            if slices:
                self.steps[number] = repeated(slices, jumped, times)
        for key, ticks in now.grown(was).items():
            state.spent[key] = state.spent[key] + times * settled(ticks)
        state.tally.grown_since(was.sums, times)
        self.repeat_events(was, now, times)
        self.move_buffers(was, now, moved, times, end)
        self.done = end
        self.history = []

    def move_latest(self, now: Snapshot, steps: dict[Row, Ticks], times: int) -> None:
        """Moves the latest times of one core on, by as much as any clock of their kind moves."""
        state = self.state
        clocks = now.flat
        by_row = flat([steps[row] for row in now.rows])
        late = is_late(clocks)
        soonest = int(by_row[~late].max(initial=0))
        latest = int(by_row[late].max(initial=0))
        if state.latest:
            state.latest += times * soonest
        if state.latest_late:
            state.latest_late += times * latest

    def move_buffers(
        self,
        was: Snapshot,
        now: Snapshot,
        moved: dict[Row, Ticks],
        times: int,
        end: int,
    ) -> None:
        """Gives each role the buffer that is in it after the jump, with its time and version."""
        rotated = periodic.rotated(was, now, times)
        held = [each.buffer for each in rotated]
        # Asked before any buffer below is given a new version, after which each value would be
        # stale.
        stale = [_stale_now(value) for value in self.carry]
        # Whom a role's buffer makes wait for, and what is tracked of it, belong to the role.
        users = [buffer.user for buffer in now.buffers]
        tracked = self._tracked(now.buffers)
        for role, each in enumerate(rotated):
            buffer = each.buffer
            buffer.writer = each.writer
            self.write(buffer, each.written)
            buffer.idle = moved["idle", role]
            buffer.user = users[role]
            buffer.uses += each.used
            since = now.since[role]
            before = was.since[role]
            if since is not None and before is not None:
                # The traced lifetimes go on as clocks do: begun at 40 and, a period later, at 300,
                # the tile in that role begins at 820 after two more.
                since += times * (since - before)
            buffer.since = since
        self._track(held, tracked)
        after = {id(buffer): held[role] for role, buffer in enumerate(now.buffers)}
        for ring in self.state.rings.inside[self.path]:
            ring.buffers = [after[id(buffer)] for buffer in ring.buffers]
        for slot, value in enumerate(self.carry):
            buffer = value.buffer
            if buffer is not None:
                buffer = after[id(buffer)]
            known = value.known
            if known is not None:
                known = self.known_at(slot, end)
            self.carry[slot] = dataclasses.replace(
                value,
                ready=moved["ready", slot],
                buffer=buffer,
                version=_version(buffer, stale[slot]),
                known=known,
            )

    def _tracked(self, buffers: list[Buffer]) -> list[Lifetime | None]:
        """What the trace has on each buffer."""
        trace = self.state.trace
        if trace is None:
            return []
        return [trace.tracked.get(id(buffer)) for buffer in buffers]

    def _track(self, buffers: list[Buffer], tracked: list[Lifetime | None]) -> None:
        """Has the trace keep that of other buffers."""
        trace = self.state.trace
        if trace is None:
            return
        for buffer, lifetime in zip(buffers, tracked, strict=True):
            if lifetime is None:
                trace.tracked.pop(id(buffer), None)
            else:
                own = dataclasses.replace(lifetime, buffer=buffer)
                trace.tracked[id(buffer)] = own

    def write(self, buffer: Buffer, cores: Flags) -> None:
        """Gives a buffer that the loop wrote a new version."""
        if not np.any(cores):
            return
        version = self.state.next_version()
        if isinstance(cores, np.ndarray):
            version = np.where(cores, version, buffer.version)
        buffer.version = version

    def known_at(self, slot: int, iteration: int) -> np.ndarray | None:
        """A carried integer as an iteration begins."""
        assert self.plan is not None
        rows = self.plan.carry[slot]
        if rows is None:
            return None
        same_in_all = len(rows) == 1
        return rows[0 if same_in_all else iteration]

    # --- the trace ---

    def events_repeat(
        self, first: Snapshot, was: Snapshot, now: Snapshot, steps: dict[Row, Ticks]
    ) -> bool:
        """Whether the recorded instructions already move with their engines."""
        trace = self.state.trace
        if trace is None:
            return True
        if first.tracked != now.tracked:
            # Tiles that no later iteration uses: their ends, recorded last of all, do not repeat.
            return False
        before = trace.events[first.events : was.events]
        after = trace.events[was.events : now.events]
        if len(before) != len(after):
            return False
        if _ages(first, was) != _ages(was, now):
            return False
        shifts: list[int] = []
        for old, new in zip(before, after):
            shift = new.start - old.start
            if later_event(old, shift) != new:
                return False
            # An event of no engine, such as a tile's lifetime, has no clock to move with.
            step = steps.get(("last", old.engine), shift)
            if on_core(step, trace.grid, trace.core) != shift:
                return False
            shifts.append(shift)
        self._shifts = shifts
        return True

    def repeat_events(self, was: Snapshot, now: Snapshot, times: int) -> None:
        """Records the events of the periods that are jumped."""
        trace = self.state.trace
        if trace is None:
            return
        block = trace.events[was.events : now.events]
        for number in range(1, times + 1):
            for event, shift in zip(block, self._shifts):
                trace.events.append(later_event(event, number * shift))


def _stale_now(value: Value) -> Flags:
    """On which cores a value was overwritten."""
    return value.stale if periodic.staleness(value) is not None else False


def _version(buffer: Buffer | None, stale: Flags) -> Ticks | None:
    """The version of a value that is in a buffer; no buffer ever holds version -1."""
    if buffer is None:
        return None
    if isinstance(stale, np.ndarray):
        return np.where(stale, -1, buffer.version)
    return -1 if stale else buffer.version


def repeated(slices: list[Ticks], further: int, times: int) -> list[Ticks]:
    """When further slices are ready, if the last periods go on as they went."""
    period = further // times
    # Slices ready at 10, 30, 110 and 130, with a period of two, go on at 210 and 230.
    block = slices[-period:]
    shift = settled(slices[-1] - slices[-1 - period])
    more: list[Ticks] = []
    for number in range(1, times + 1):
        more += [ready + number * shift for ready in block]
    return slices + more


def _ages(was: Snapshot, now: Snapshot) -> list[int | None]:
    """By how much what each buffer holds is younger than what was in its place before."""
    ages: list[int | None] = []
    for before, since in zip(was.since, now.since, strict=True):
        if before is None or since is None:
            ages.append(None)
        else:
            ages.append(since - before)
    return ages


def later_event(event: Event, ticks: int) -> Event:
    """An event some ticks later."""
    return Event(
        event.engine,
        event.name,
        event.start + ticks,
        event.end + ticks,
        event.where,
        event.cause,
        event.done + ticks,
        event.ready + ticks,
    )


def scan(
    walk: Walk,
    state: ClockState,
    eqn: jx.Equation,
    operands: list[Value],
    active: Active,
) -> list[Value]:
    """Reads a `scan`, jumping where its schedule repeats."""
    loop = Loop(walk, state, eqn, operands, active)
    length = loop.scan.length
    may_repeat = length >= FEWEST
    # Inside count only this loop's exchanges, and its end.
    exchanged = state.exchanged
    state.exchanged = set()
    ended = state.end
    # An end from before that is later than all in here would stand still: the slow clock ahead of
    # faster ones because of which no period is accepted.
    state.end = 0
    set_aside = _set_aside(loop) if may_repeat else []
    if state.setup.jump and may_repeat:
        loop.plan = decisions.plan(
            state.setup, loop.scan, loop.consts, loop.carry, loop.stacked
        )
    watched = loop.plan is not None and loop.may_jump()
    state.loops.append(state.path)
    outer_iterations = state.iterations
    state.iterations = length
    state.rings.inside.setdefault(state.path, [])
    if watched:
        loop.history = [loop.snapshot()]
    stepped_all = True
    while loop.done < length:
        loop.step()
        more = loop.done < length
        if watched and more and loop.try_jump():
            stepped_all = False
    if stepped_all and length > MAX_PERIOD and state.setup.jump:
        state.unjumped.append(jx.location(eqn))
    state.iterations = outer_iterations
    state.exchanged |= exchanged
    state.end = later(state.end, ended)
    for buffer, idle, user in set_aside:
        buffer.use(idle, user)
    outputs = loop.outputs()
    state.loops.pop()
    return outputs


def _set_aside(loop: Loop) -> list[tuple[Buffer, Ticks, CauseName]]:
    """Makes buffers idle that the loop only reads; with what they were."""
    turned = loop.turned()
    buffers = read_only(loop.scan, loop.consts, loop.carry, loop.stacked, turned)
    before: list[tuple[Buffer, Ticks, CauseName]] = []
    for buffer in buffers:
        before.append((buffer, buffer.idle, buffer.user))
        buffer.idle = 0
    return before


__all__ = ["Loop", "scan"]
