"""Exact loop jump: a `scan` is stepped until its schedule repeats, then jumped to its end.

`emu.loops.periodic` has the rule by which a schedule repeats for certain, and `emu.loops.decisions`
tells which iterations take the same branches and costs. Stepping and jumping agree to the tick.
"""

import dataclasses
from typing import Any

import numpy as np

from emu.clock.reading import Event
from emu.clock.ticks import Ticks, later, on_core, same
from emu.clock.tiles import Buffer, Value, at_slice
from emu.loops import decisions, periodic
from emu.loops.periodic import Snapshot
from emu.loops.writes import read_only
from emu.tracing import jaxpr as jx

MAX_PERIOD = 12
# A loop that has not settled after PATIENCE tries is tried again for one window in each stretch.
PATIENCE, STRETCH = 48, 128


class Loop:
    """One `scan` being read: its state between iterations."""

    def __init__(self, line: Any, eqn: Any, xs: list[Value], active: np.ndarray | None):
        self.line = line
        self.eqn = eqn
        self.active = active
        self.s = s = jx.scan(eqn)
        self.consts, self.carry = xs[: s.consts], xs[s.consts : s.consts + s.carry]
        self.stacked = xs[s.consts + s.carry :]
        self.path = line.path
        self.history: list[Snapshot] = []
        # A stacked output is ready when its last slice is.
        self.ready: list[Ticks] = [0 for _ in s.body.outvars[s.carry :]]
        self.spaces = [line.device.home for _ in self.ready]
        self.steps: list[list[Ticks]] = [[] for _ in self.ready]
        self.done = self.tries = 0
        self.sources = ["" for _ in self.ready]
        self.plan: decisions.Plan | None = None
        self.mismatches: dict[int, np.ndarray] = {}

    # --- stepping ---

    def step(self) -> None:
        """Walks one iteration."""
        s = self.s
        at = s.length - 1 - self.done if s.reverse else self.done
        slices = [
            at_slice(x, at, v.aval, self.line.rank)
            for x, v in zip(
                self.stacked, s.body.invars[s.consts + s.carry :], strict=True
            )
        ]
        outs = self.line.walk(s.body, [*self.consts, *self.carry, *slices], self.active)
        self.carry, ys = outs[: s.carry], outs[s.carry :]
        self.ready = [later(r, y.ready) for r, y in zip(self.ready, ys, strict=True)]
        self.spaces = [y.space for y in ys]
        self.sources = [y.source for y in ys]
        if len(self.line.loops) == 1:
            for steps, y in zip(self.steps, ys, strict=True):
                steps.append(y.ready)
        self.done += 1

    def outputs(self) -> list[Value]:
        avals = [v.aval for v in self.eqn.outvars[self.s.carry :]]
        stacks = zip(avals, self.spaces, self.ready, self.sources, strict=True)
        values = [self.line.fresh(*stack) for stack in stacks]
        order = slice(None, None, -1) if self.s.reverse else slice(None)
        if len(self.line.loops) == 1:
            values = [
                dataclasses.replace(v, steps=steps[order])
                for v, steps in zip(values, self.steps, strict=True)
            ]
        return [*self.carry, *values]

    # --- jumping ---

    def snapshot(self) -> Snapshot:
        line = self.line
        rings = line.within[self.path]
        sites = [b for ring in rings for b in ring.buffers]
        buffers, form = periodic.roles(self.carry, [*self.consts, *self.stacked], sites)
        ports = [*line.ports.values()]
        clocks = [*line.free.values(), *line.last.values(), line.end, *self.ready]
        clocks += [
            *(v.ready for v in self.carry),
            *(p.until for p in ports),
            *line.paced.values(),
        ]
        clocks += [b.idle for b in buffers]
        marks = [*line.touches.values()] * 2 + [
            object() for _ in range(1 + len(self.ready))
        ]
        marks += [
            *self.carry,
            *(p.uses for p in ports),
            *(line.touches[e] for e in line.paced),
        ]
        marks += [b.uses for b in buffers]
        labels = [*(p.engine for p in ports), *line.paced, *(b.user for b in buffers)]
        labels += [v.source for v in self.carry]
        charges = [state.form() for state in line.throttle.values()]
        shapes = [None if type(x) is int else x.shape for x in clocks]
        form = form, shapes, labels, charges
        return Snapshot(
            clocks,
            marks,
            buffers,
            [b.version for b in buffers],
            [b.since for b in buffers],
            form,
            dict(line.spent),
            dict(line.tally.sums),
            len(line.events),
        )

    def alike(self, period: int) -> int:
        """How many further whole periods decide as each of the last two did."""
        assert self.plan is not None
        ids = self.plan.ids
        if ids is None:
            return (self.s.length - self.done) // period
        if period not in self.mismatches:
            self.mismatches[period] = (
                np.flatnonzero(ids[period:] != ids[:-period]) + period
            )
        later = self.mismatches[period]
        at = int(np.searchsorted(later, self.done - period))
        end = int(later[at]) if at < len(later) else self.s.length
        return max(0, end - self.done) // period

    def try_jump(self) -> bool:
        """Looks for a period that the schedule repeats; jumps as far as it holds."""
        self.tries += 1
        if self.tries > PATIENCE and self.done % STRETCH > 3 * MAX_PERIOD:
            self.history = []
            return False
        self.history = [*self.history[-2 * MAX_PERIOD :], self.snapshot()]
        now, n = self.history[-1], len(self.history)
        apart = [
            i
            for i, axis in enumerate(self.line.mesh)
            if axis not in self.line.exchanged
        ]
        for period in range(1, (n - 1) // 2 + 1):
            first = self.history[-1 - 2 * period]
            was = self.history[-1 - period]
            if not (times := self.alike(period)) or not self.known_after_jump():
                continue
            steps = periodic.step(first, was, now, apart)
            if steps is None or not self.slices_repeat(period, steps):
                continue
            if self.events_repeat(first, was, now, steps):
                self.jump(was, now, steps, period, times)
                return True
        return False

    def known_after_jump(self) -> bool:
        """Whether every carried integer known now is known ahead."""
        assert self.plan is not None
        rows = zip(self.carry, self.plan.carry, strict=True)
        return all(v.known is None or row is not None for v, row in rows)

    def jump(
        self, was: Snapshot, now: Snapshot, steps: list[Ticks], period: int, times: int
    ) -> None:
        """Moves every clock and count `times` periods on."""
        line, end = self.line, self.done + times * period
        self.repeat_events(was, now, times)
        moved = [n + times * d for n, d in zip(now.clocks, steps, strict=True)]
        for engines in (line.free, line.last):
            for engine in engines:
                engines[engine] = moved.pop(0)
        for key, ticks in now.grown(was).items():
            line.spent[key] = line.spent[key] + times * ticks
        line.end = moved.pop(0)
        self.ready = [moved.pop(0) for _ in self.ready]
        self.steps = [self.repeated(x, end - self.done, times) for x in self.steps if x]
        ready = [moved.pop(0) for _ in self.carry]
        for port in line.ports.values():
            port.until = moved.pop(0)
        for engine in line.paced:
            line.paced[engine] = moved.pop(0)
        held = self.rotate(was, now, times)
        for r, (buffer, idle) in enumerate(zip(held, moved, strict=True)):
            buffer.idle = idle
            if (since := now.since[r]) is not None and (
                before := was.since[r]
            ) is not None:
                buffer.since = since + times * (since - before)
        place = {id(b): r for r, b in enumerate(now.buffers)}
        self.turn_rings(now, held)
        self.carry = [
            self.carried(
                slot, v, end, r, None if v.buffer is None else held[place[id(v.buffer)]]
            )
            for slot, (v, r) in enumerate(zip(self.carry, ready, strict=True))
        ]
        line.tally.grown_since(was.sums, times)
        self.done, self.history = end, []

    def turn_rings(self, now: Snapshot, held: list[Buffer]) -> None:
        """Puts the buffers that hold a ring's roles after the jump into the ring."""
        place = {id(b): r for r, b in enumerate(now.buffers)}
        for ring in self.line.within[self.path]:
            ring.buffers = [held[place[id(b)]] for b in ring.buffers]

    def slices_repeat(self, period: int, steps: list[Ticks]) -> bool:
        """Whether the last period's slices already move as the last of all slices does.

        A slice's time is convex in the number of periods, so once it has that rate it keeps it.
        """
        rates = steps[2 * len(self.line.free) + 1 :]
        return all(
            same(now - was, rate)
            for slices, rate in zip(self.steps, rates)
            for was, now in zip(slices[-2 * period : -period], slices[-period:])
        )

    @staticmethod
    def repeated(steps: list[Ticks], further: int, times: int) -> list[Ticks]:
        """When further slices are ready, if the last periods go on as they went."""
        period = further // times
        block = steps[-period:]
        shift = steps[-1] - steps[-1 - period]
        return steps + [b + i * shift for i in range(1, times + 1) for b in block]

    def rotate(self, was: Snapshot, now: Snapshot, times: int) -> list[Buffer]:
        """The buffer in each role after the jump; those the loop wrote hold a new version."""
        held, written = periodic.rotated(was, now, times)
        self.stale = [self.stale_now(v) for v in self.carry]
        for buffer, changed in zip(held, written, strict=True):
            if np.any(changed):
                version = self.line.next_version()
                every = not isinstance(changed, np.ndarray)
                buffer.version = (
                    version if every else np.where(changed, version, buffer.version)
                )
        return held

    def stale_now(self, v: Value) -> Any:
        if v.buffer is None or periodic.staleness(v) is None:
            return None
        return v.version != v.buffer.version

    def carried(
        self, slot: int, v: Value, t: int, ready: Ticks, buffer: Buffer | None
    ) -> Value:
        """A carry slot's value when iteration `t` begins."""
        assert self.plan is not None
        version = None if buffer is None else buffer.version
        stale = self.stale[slot]
        if stale is not None:
            version = -1 if stale is True else np.where(stale, -1, version)  # type: ignore
        rows = self.plan.carry[slot]
        known = None if v.known is None or rows is None else rows[min(t, len(rows) - 1)]
        return dataclasses.replace(
            v, ready=ready, buffer=buffer, version=version, known=known
        )

    # --- the trace ---

    def events_repeat(
        self, first: Snapshot, was: Snapshot, now: Snapshot, steps: list[Ticks]
    ) -> bool:
        """Whether the recorded instructions already move with their engines."""
        line = self.line
        if line.trace_core is None:
            return True
        earlier = line.events[first.events : was.events]
        later_ones = line.events[was.events : now.events]
        if len(earlier) != len(later_ones) or _ages(first, was) != _ages(was, now):
            return False
        engines = {
            engine: on_core(step, line.grid, line.trace_core)
            for engine, step in zip(line.last, steps[len(line.free) :])
        }
        self.shifts = [b.start - a.start for a, b in zip(earlier, later_ones)]
        return all(
            moved(a, shift) == b and engines.get(a.engine, shift) == shift
            for a, b, shift in zip(earlier, later_ones, self.shifts)
        )

    def repeat_events(self, was: Snapshot, now: Snapshot, times: int) -> None:
        if self.line.trace_core is not None:
            block = self.line.events[was.events : now.events]
            for i in range(1, times + 1):
                self.line.events += [
                    moved(e, i * by) for e, by in zip(block, self.shifts)
                ]


def _ages(was: Snapshot, now: Snapshot) -> list[int | None]:
    """By how much what each buffer holds is younger than what was in its place before."""
    return [
        None if a is None or b is None else b - a
        for a, b in zip(was.since, now.since, strict=True)
    ]


def moved(event: Event, by: int) -> Event:
    """An event some ticks later."""
    e = event
    return Event(
        e.engine,
        e.name,
        e.start + by,
        e.end + by,
        e.where,
        e.cause,
        e.done + by,
        e.ready + by,
    )


def scan(
    line: Any, eqn: Any, xs: list[Value], active: np.ndarray | None
) -> list[Value]:
    """Reads a `scan`, jumping where its schedule repeats."""
    loop = Loop(line, eqn, xs, active)
    exchanged, line.exchanged = line.exchanged, set()
    ended, line.end = line.end, 0
    held = _set_aside(loop) if loop.s.length > 2 else []
    idles = [(b.idle, b.user) for b in held]
    for b in held:
        b.idle = 0
    if line.jump and loop.s.length > 2:
        loop.plan = decisions.plan(line, loop.s, loop.consts, loop.carry, loop.stacked)
    line.loops.append(line.path)
    line.within.setdefault(line.path, [])
    if loop.plan is not None:
        loop.history = [loop.snapshot()]
    stepped_all = True
    while loop.done < loop.s.length:
        loop.step()
        if loop.plan is not None and loop.done < loop.s.length and loop.try_jump():
            stepped_all = False
    if stepped_all and loop.s.length > MAX_PERIOD and line.jump:
        line.unjumped.append(jx.location(eqn))
    line.exchanged |= exchanged
    line.end = later(line.end, ended)
    for b, (idle, user) in zip(held, idles, strict=True):
        b.use(idle, user)
    outputs = loop.outputs()
    line.loops.pop()
    return outputs


def _set_aside(loop: Loop) -> list[Buffer]:
    turned = (b for ring in loop.line.within.get(loop.path, ()) for b in ring.buffers)
    return read_only(loop.s, loop.consts, loop.carry, loop.stacked, turned)


__all__ = ["Loop", "scan"]
