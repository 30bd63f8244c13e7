"""The state in which a loop begins: what it can read, as ticks after the first engine is free."""

import dataclasses
from functools import cached_property
from typing import Any

import numpy as np

from emu.clock.names import Names
from emu.loops.scene import Row, Scene

EARLY = -(1 << 58)  # in place of a time that is too early to decide anything


@dataclasses.dataclass(frozen=True)
class Reach:
    """What a loop uses with certain decisions: engines and ports."""

    engines: list[str]
    ports: list[Any]


class Start:
    """The states of cells that decide alike.

    No instruction starts before the first of its engines is free, so what is earlier, by the
    longest lead, decides nothing: not a start, and not what is booked as its cause.

    Attributes:
      base: per cell, when that first engine is free; 0 where nothing can be too early.
      past: which clocks are too early, `[rows, cells]`.
    """

    def __init__(self, scene: Scene, reach: Reach, cells: np.ndarray):
        self.scene = scene
        self.line = scene.line
        self.reach = reach
        self.cells = cells
        self.times = scene.times[:, cells][[scene.rows[r] for r in self.rows]]
        self.last = scene.times[:, cells][
            [scene.rows["last", e] for e in reach.engines]
        ]
        self.base = np.zeros(len(cells), np.int64)
        if not self.line.contended:
            self.past = np.zeros(self.times.shape, bool)
        elif reach.engines:
            self.base = self.last.min(axis=0)
            self.past = self.times - self.base < -self.line.prices.lead
        else:
            self.past = np.ones(self.times.shape, bool)

    @cached_property
    def rows(self) -> list[Row]:
        """The clocks that such a loop can read."""
        scene = self.scene
        reach = self.reach
        excluded = self.line.prices.excluded
        rows: list[Row] = [
            (kind, e) for e in reach.engines for kind in ("last", "free", "paced")
        ]
        others = {x for e in reach.engines for x in excluded.get(e, ())} - {
            *reach.engines
        }
        rows += [("last", e) for e in sorted(others)]
        rows += [("idle", i) for i in range(len(scene.buffers)) if i not in scene.aside]
        rows += [("ready", i) for i, x in enumerate(scene.xs) if x.buffer is not None]
        return rows + [
            ("port", key) for key in reach.ports if ("port", key) in scene.clocks
        ]

    def states(self, names: dict[str, int]) -> list[bytes]:
        """Each cell's state; `names` numbers those met so far.

        An engine that was never used books its first wait as fill.
        """
        after = np.where(self.past, EARLY, self.times - self.base)
        entries = [*after, *(self.last == 0), *self._names(names), *self._others()]
        state = np.array(entries, np.int64).reshape(len(entries), len(self.cells))
        return [row.tobytes() for row in np.ascontiguousarray(state.T)]

    def marks(self, at: int) -> list[int]:
        """Rows of the scene whose clocks are past in the `at`-th cell."""
        number = self.scene.rows
        return [
            number[r]
            for r, early in zip(self.rows, self.past[:, at], strict=True)
            if early
        ]

    def _names(self, numbers: dict[str, int]) -> np.ndarray:
        """Whom each clock makes wait for, where it can."""
        out = np.full(self.past.shape, -1)
        for i in np.flatnonzero(~self.past.all(axis=1)):
            if (name := self.scene.labels.get(self.rows[i])) is not None:
                out[i] = np.where(self.past[i], -1, self._codes(name, numbers))
        return out

    def _codes(self, name: Any, numbers: dict[str, int]) -> Any:
        if not isinstance(name, Names):
            return numbers.setdefault(name, len(numbers))
        codes = np.array([numbers.setdefault(n, len(numbers)) for n in name.names])
        return codes[self.scene.flat(name.which)[self.cells]]

    def _others(self) -> list[np.ndarray]:
        """Charges of engines that throttle, and which operands are stale."""
        states = [
            self.line.throttle[e] for e in self.reach.engines if e in self.line.throttle
        ]
        values = [x for state in states for x in (state.charge, state.slow)]
        each = [self.scene.flat(x)[self.cells] for x in (*values, *self.scene.stale)]
        return [x.astype(np.int64) for x in each]


__all__ = ["Reach", "Start"]
