"""Exact loop jump: a `scan` is stepped until its schedule repeats, then jumped to its end.

A schedule without contention is max-plus linear: once a period moved every clock by its own step,
and faster clocks are all later than slower ones, each further period that takes the same decisions
must do the same (`repeats`). Cores that exchange nothing inside the loop are judged apart.
"""

import dataclasses
from typing import Any

import numpy as np

from emu import decisions
from emu import jaxpr as jx
from emu.values import Buffer, Value, at_slice

MAX_PERIOD = 12
MAX_RATES = 8
MAX_GROUPS = 4096
# A loop that has not settled after PATIENCE tries is tried again for one window in each stretch.
PATIENCE, STRETCH = 48, 128


@dataclasses.dataclass(frozen=True)
class Snapshot:
    """The loop's state after an iteration: every clock it can move, and what it had counted."""

    slots: list[np.ndarray]
    flat: np.ndarray
    shapes: list[tuple[int, ...]]
    busy: dict[str, np.ndarray]
    sums: dict[tuple[str, str], int]
    events: int
    stepped: int


def repeats(was: np.ndarray, now: np.ndarray, steps: np.ndarray) -> bool:
    """Whether clocks that moved by `steps` over one period must move so over every further one.

    A clock's next value is a maximum of earlier clocks plus constants. If it grew by its own step,
    terms that grow more slowly cannot overtake it, and it holds no term that grows faster provided
    every faster clock was already later than it is now: `now[slow] < was[fast]`.
    """
    rates = np.unique(steps)
    if len(rates) > MAX_RATES:
        return False
    return all(
        now[steps <= slow].max() < was[steps > slow].min() for slow in rates[:-1]
    )


class Loop:
    """One `scan` being read: its state between iterations."""

    def __init__(self, line: Any, eqn: Any, xs: list[Value], active: np.ndarray | None):
        self.line, self.eqn, self.active = line, eqn, active
        self.s = s = jx.scan(eqn)
        self.consts, self.carry = xs[: s.consts], xs[s.consts : s.consts + s.carry]
        self.stacked = xs[s.consts + s.carry :]
        self.path = line.path
        self.history: list[Snapshot] = []
        self.ys: list[list[Any]] = [[] for _ in range(len(s.body.outvars) - s.carry)]
        self.done = self.tries = 0
        self.ids = self.known_carry = None
        self.mismatches: dict[int, np.ndarray] = {}

    # --- stepping ---

    def slice(self, t: int) -> list[Value]:
        at = self.s.length - 1 - t if self.s.reverse else t
        avals = [v.aval for v in self.s.body.invars[self.s.consts + self.s.carry :]]
        return [
            at_slice(x, at, a, self.line.rank) for x, a in zip(self.stacked, avals, strict=True)
        ]

    def step(self) -> None:
        ins = [*self.consts, *self.carry, *self.slice(self.done)]
        outs = self.line.walk(self.s.body, ins, self.active)
        self.carry = outs[: self.s.carry]
        for ready, y in zip(self.ys, outs[self.s.carry :], strict=True):
            ready.append(y)
        self.done += 1

    def plan(self) -> bool:
        """Evaluates every iteration's decisions ahead; False if the loop must be stepped."""
        rank = self.line.rank
        order = slice(None, None, -1) if self.s.reverse else slice(None)
        slices = [
            None if x.known is None else np.moveaxis(x.known, rank, 0)[order] for x in self.stacked
        ]
        try:
            self.known_carry = decisions.carried(
                self.line, self.s, self.consts, self.carry, slices
            )
        except decisions.Opaque:
            return False
        self.ids = decisions.ids(self.line, self.s, self.consts, self.known_carry, slices)
        return self.ids is not None

    # --- jumping ---

    def buffers(self) -> list[Buffer]:
        """Every buffer whose idle time the loop can move, each once, in a fixed order."""
        n = len(self.path)
        inside = [b for p, b in self.line.sites.items() if p[:n] == self.path]
        values = (*self.carry, *self.consts, *self.stacked)
        found = [*(v.buffer for v in values if v.buffer is not None), *inside]
        return list({id(b): b for b in found}.values())

    def snapshot(self) -> Snapshot:
        line = self.line
        slots = [*line.free.values(), line.end]
        slots += [v.ready for v in self.carry] + [b.idle for b in self.buffers()]
        flat = np.concatenate([x.ravel() for x in slots])
        return Snapshot(
            slots, flat, [x.shape for x in slots], dict(line.busy), dict(line.tally.sums), len(line.events), line.stepped
        )

    def alike(self, period: int) -> int:
        """How many further whole periods take the decisions of the last one."""
        assert self.ids is not None
        if period not in self.mismatches:
            differs = self.ids[period:] != self.ids[:-period]
            self.mismatches[period] = np.flatnonzero(differs) + period
        later = self.mismatches[period]
        at = int(np.searchsorted(later, self.done))
        end = int(later[at]) if at < len(later) else self.s.length
        return (end - self.done) // period

    def try_jump(self) -> bool:
        self.tries += 1
        if self.tries > PATIENCE and self.done % STRETCH > 2 * MAX_PERIOD:
            self.history = []
            return False
        self.history = [*self.history[-MAX_PERIOD:], self.snapshot()]
        now = self.history[-1]
        for period in range(1, len(self.history)):
            was = self.history[-1 - period]
            times = self.alike(period)
            if times and (steps := self.shift(was, now)) is not None:
                self.jump(was, now, steps, period, times)
                return True
        return False

    def shift(self, was: Snapshot, now: Snapshot) -> list[np.ndarray] | None:
        """Each clock's step over one period if the schedule repeats, else None."""
        if was.shapes != now.shapes:
            return None
        steps = now.flat - was.flat
        if not repeats(was.flat, now.flat, steps) and not self._repeats_by_group(was, now):
            return None
        return [n - w for n, w in zip(now.slots, was.slots, strict=True)]

    def _repeats_by_group(self, was: Snapshot, now: Snapshot) -> bool:
        """The same, asked of each group of cores that exchange data in the loop."""
        line = self.line
        axes = [i for i, a in enumerate(line.mesh) if a in line.exchanged]
        frame = np.broadcast_shapes(*was.shapes)
        apart = [i for i in range(line.rank) if i not in axes and frame[i] > 1]
        if not apart:
            return False
        pair = [np.stack([np.broadcast_to(x, frame) for x in s.slots]) for s in (was, now)]
        groups = int(np.prod([frame[i] for i in apart]))
        w, n = (
            np.moveaxis(x, [1 + i for i in apart], range(len(apart))).reshape(groups, -1)
            for x in pair
        )
        alike = np.unique(np.concatenate([w, n], axis=1), axis=0)
        if len(alike) > MAX_GROUPS:
            return False
        half = w.shape[1]
        return all(repeats(g[:half], g[half:], g[half:] - g[:half]) for g in alike)

    def jump(
        self, was: Snapshot, now: Snapshot, steps: list[np.ndarray], period: int, times: int
    ) -> None:
        """Moves every clock and count `times` periods on."""
        line = self.line
        moved = [n + times * d for n, d in zip(now.slots, steps, strict=True)]
        for engine in line.free:
            line.free[engine] = moved.pop(0)
            line.busy[engine] = line.busy[engine] + times * (now.busy[engine] - was.busy[engine])
        line.end = moved.pop(0)
        end = self.done + times * period
        self.carry = [
            dataclasses.replace(v, ready=moved.pop(0), known=self.known_at(slot, v, end))
            for slot, v in enumerate(self.carry)
        ]
        for buffer in self.buffers():
            buffer.idle = moved.pop(0)
        line.tally.grown_since(was.sums, times)
        line.jumped += times * (now.stepped - was.stepped)
        self.repeat_events(was, now, steps, times)
        for ready in self.ys:
            ready.append((period, times))
        self.done, self.history = end, []

    def known_at(self, slot: int, value: Value, t: int) -> Any:
        """A carry's known integer when iteration `t` begins."""
        rows = self.known_carry[slot] if self.known_carry else None
        if value.known is None or rows is None:
            return value.known
        if len(rows) == 1:
            return rows[0]
        return rows[t] if t < len(rows) else rows[-1] + (rows[-1] - rows[-2])

    def repeat_events(
        self, was: Snapshot, now: Snapshot, steps: list[np.ndarray], times: int
    ) -> None:
        line = self.line
        if line.trace_core is None:
            return
        shift = max(int(np.broadcast_to(d, line.grid)[line.trace_core]) for d in steps)
        block = line.events[was.events : now.events]
        for i in range(1, times + 1):
            line.events += [
                dataclasses.replace(e, start=e.start + i * shift, end=e.end + i * shift)
                for e in block
            ]

    # --- results ---

    def outputs(self) -> list[Value]:
        avals = [v.aval for v in self.eqn.outvars[self.s.carry :]]
        return [*self.carry, *(self.stack(y, a) for y, a in zip(self.ys, avals, strict=True))]

    def stack(self, entries: list[Any], aval: Any) -> Value:
        """A stacked output is ready when its last slice is."""
        slices = [e for e in entries if isinstance(e, Value)]
        ready = expand(entries)
        last = ready[0]
        for r in ready[1:]:
            last = np.maximum(last, r)
        value = self.line.fresh(aval, slices[-1].space, last)
        return dataclasses.replace(value, steps=ready[::-1] if self.s.reverse else ready)


def expand(entries: list[Any]) -> list[np.ndarray]:
    """Ready times of every iteration, from stepped values and `(period, times)` jumps."""
    out: list[np.ndarray] = []
    for e in entries:
        if isinstance(e, Value):
            out.append(e.ready)
            continue
        period, times = e
        shift = out[-1] - out[-1 - period]
        block = out[-period:]
        out += [b + i * shift for i in range(1, times + 1) for b in block]
    return out


def scan(line: Any, eqn: Any, xs: list[Value], active: np.ndarray | None) -> list[Value]:
    """Reads a `scan`, jumping where its schedule repeats."""
    loop = Loop(line, eqn, xs, active)
    outer, line.exchanged = line.exchanged, set()
    can_jump = line.jump and loop.s.length > 2 and loop.plan()
    stepped_all = True
    while loop.done < loop.s.length:
        loop.step()
        if can_jump and loop.done < loop.s.length and loop.try_jump():
            stepped_all = False
    if stepped_all and loop.s.length > MAX_PERIOD and line.jump:
        line.unjumped.append(jx.location(eqn))
    line.exchanged |= outer
    return loop.outputs()


__all__ = ["Loop", "scan"]
