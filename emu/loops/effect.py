"""What reading a loop on one core did, said so that it holds for every core of its class.

A time is kept as ticks after the class' base, or as the mark of the clock that it still is
(`emu.loops.one_core`); a name that goes with a marked time is left to that clock.
"""

import dataclasses
from typing import Any

from emu.clock.throttle import State
from emu.clock.tiles import Buffer, Value
from emu.loops.one_core import FOREVER, PAST, Lone, mark
from emu.loops.scene import Path

Key = tuple[str, str]


@dataclasses.dataclass(frozen=True, slots=True)
class Held:
    """A buffer after the loop.

    Attributes:
      origin: its place in the scene, or None if it was made inside.
      idle, user: when it is idle, and the last user.
      used, written: whether the loop moved its time, and whether it holds another version.
      writer: equation of that version.
      bank: memory space and bank, or None.
      since: see `Buffer`; of the traced core alone.
      tracked: what the trace has on it.
    """

    origin: int | None
    idle: int
    user: str
    used: bool
    written: bool
    writer: Any
    bank: Any
    since: int | None
    tracked: Any


@dataclasses.dataclass(frozen=True, slots=True)
class Out:
    """An output: where its buffer is, when it is ready, and what it makes wait for.

    Attributes:
      home: `("in", place)`, `("ring", path, position)`, `("new", number)` or None.
      fresh: whether it holds the buffer's version; else it is stale.
      steps: of an outermost loop's stacked output.
    """

    home: Any
    space: str
    ready: int
    source: str
    fresh: bool
    known: bool
    steps: list[int] | None


@dataclasses.dataclass(frozen=True, slots=True)
class Effect:
    """What a loop did to a core.

    Attributes:
      clocks: `("last" | "free" | "paced", engine)` or `("port", key)` to its time.
      engines: last user of each port.
      taken: engine that issued nothing to the ticks taken from it.
      throttle: state of each engine that issued something and throttles.
      touched: engines that issued something.
      buffers: those of the scene that no ring turns, where the loop changed them.
      rings: path to the depth and buffers of each ring, in the order of their next use, and loops.
      made: buffers made inside that outputs are in.
      outs: outputs, carry first.
      end: when the last instruction is done, or None if there was none.
      spent, sums: ticks by engine and cause, and the tally, of one core.
    """

    clocks: dict[tuple[str, Any], int]
    engines: dict[Any, str]
    taken: dict[str, int]
    throttle: dict[str, State]
    touched: list[str]
    buffers: dict[int, Held]
    rings: dict[Path, tuple[list[Held], list[Path]]]
    made: list[Held]
    outs: list[Out]
    end: int | None
    spent: dict[Key, int]
    sums: dict[Key, int]


class Unclear(Exception):
    """A time that may be any of several past clocks; they have to be marked."""


class Taking:
    """Takes the effect off a core that has walked a loop."""

    def __init__(self, lone: Lone, base: int, early: list[int], before: int):
        """From a core that has walked, and its class' base.

        Where it has no marks, `early` are the rows of clocks that are past, and `before` is the
        time before which only those can be; `ALWAYS` where it has.
        """
        self.lone = lone
        self.line = lone.line
        self.base = base
        self.before = before
        rows = list(lone.scene.clocks)
        self.early = {rows[i]: i for i in early}
        self.origin = {id(b): i for i, b in enumerate(lone.copies)}
        self.homes: dict[int, Any] = {}
        self.banks = {id(port): key for key, port in lone.line.ports.items()}
        self.made: list[Held] = []

    def after_base(self, time: Any) -> int:
        if time < self.before:
            raise Unclear
        return time if time < PAST else time - self.base

    def effect(self, outs: list[Value]) -> Effect:
        line, time = self.line, self.after_base
        touched = [e for e, n in line.touches.items() if n]
        clocks = {("last", e): time(line.last[e]) for e in touched}
        clocks |= {("free", e): time(line.free[e]) for e in touched}
        clocks |= {
            ("paced", e): time(line.paced[e]) for e in touched if e in line.paced
        }
        ports = {key: port for key, port in line.ports.items() if port.uses}
        clocks |= {("port", key): time(port.until) for key, port in ports.items()}
        rings = {path: self.ring(path, ring) for path, ring in line.sites.items()}
        buffers = self.buffers()
        results = [self.out(v, v.steps) for v in outs]
        return Effect(
            clocks,
            {key: port.engine for key, port in ports.items()},
            self.taken(touched),
            {e: line.throttle[e] for e in touched if e in line.throttle},
            touched,
            buffers,
            rings,
            self.made,
            results,
            time(line.end) if touched else None,
            dict(line.spent),
            dict(line.tally.sums),
        )

    def taken(self, touched: list[str]) -> dict[str, int]:
        start = self.lone.time
        by = {
            e: t - start["free", e]
            for e, t in self.line.free.items()
            if e not in touched
        }
        return {e: ticks for e, ticks in by.items() if ticks}

    def held(self, b: Buffer) -> Held:
        origin = self.origin.get(id(b))
        began = self.lone.versions[origin] if origin is not None else None
        used = b.uses > 0
        if origin in self.lone.scene.aside:  # it was idle from the start
            used = b.idle > 0
            idle = self.after_base(b.idle) if used else 0
        elif not used and ("idle", origin) in self.early:
            idle = mark(self.early["idle", origin])
        else:
            idle = self.after_base(b.idle)
        user: Any = b.user
        used = bool(used)
        return Held(
            origin,
            idle,
            user,
            used,
            b.version != began,
            b.writer,
            self.banks.get(id(b.port)),
            b.since,
            self.line.tracked.get(id(b)),
        )

    @property
    def inside(self) -> dict[int, Any]:
        """What the trace has on tiles that did not outlive the loop."""
        tracked = self.line.tracked.items()
        return {
            i: t for i, t in tracked if i not in self.origin and i not in self.homes
        }

    def ring(self, path: Path, ring: Any) -> tuple[list[Held], list[Path]]:
        for position, b in enumerate(ring.buffers):
            self.homes[id(b)] = "ring", path, position
        return [self.held(b) for b in ring.buffers], ring.loops[
            len(self.lone.outside) :
        ]

    def buffers(self) -> dict[int, Held]:
        free = [b for b in self.lone.copies if id(b) not in self.homes]
        held = [self.held(b) for b in free]
        return {h.origin: h for h in held if h.used or h.written}  # type: ignore[misc]

    def out(self, v: Value, steps: list[Any] | None) -> Out:
        home = None
        if v.buffer is not None:
            home = self.homes.get(id(v.buffer)) or self.home(v.buffer)
        fresh = v.buffer is None or v.version == v.buffer.version
        each = None if steps is None else [self.after_base(t) for t in steps]
        ready = 0 if home is None else self.ready(v)
        source: Any = v.source
        return Out(home, v.space, ready, source, fresh, v.known is not None, each)

    def ready(self, v: Value) -> int:
        """An output's time, or the mark of the one past clock of its buffer that it can be."""
        if v.ready >= self.before:
            return self.after_base(v.ready)
        origin = self.origin.get(id(v.buffer))
        place = self.lone.scene.place
        rows = [
            ("ready", i)
            for i, x in enumerate(self.lone.scene.xs)
            if x.buffer is not None and place[id(x.buffer)] == origin
        ]
        rows = [r for r in [*rows, ("idle", origin)] if r in self.early]
        rows = [r for r in rows if self.lone.time[r] == v.ready]
        if len(rows) != 1:
            raise Unclear
        return mark(self.early[rows[0]])

    def home(self, b: Buffer) -> Any:
        """Of a buffer in no ring: one of the scene's, or one made inside."""
        if (origin := self.origin.get(id(b))) is not None:
            home = "in", origin
        else:
            home = "new", len(self.made)
            self.made.append(self.held(b))
        self.homes[id(b)] = home
        return home


# Before all times and marks: a core that has marks needs no finding out.
ALWAYS = -4 * FOREVER


__all__ = ["ALWAYS", "Effect", "Held", "Out", "Taking", "Unclear"]
