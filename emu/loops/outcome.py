"""What reading a loop on one core did, said so that it holds for every core of its class.

A time is kept as ticks after the class' base, or as the mark of the clock that it still is
(`emu.loops.marks`); a name that goes with a marked time is left to that clock.
"""

import dataclasses
from typing import TypeAlias

import numpy as np

from emu.clock.names import CauseName
from emu.clock.resources import LEVELS, Buffer, Path, PortKey, Ring, Row
from emu.clock.state import Lifetime
from emu.clock.tally import Key
from emu.clock.ticks import Shifted, Ticks, is_late
from emu.clock.tiles import Value
from emu.datasheet import Packing
from emu.loops.late import times_late
from emu.loops.marks import NEVER, PAST
from emu.loops.one_core import OneCore
from emu.tracing import jaxpr as jx


@dataclasses.dataclass(frozen=True, slots=True)
class FromOutside:
    """One of the buffers that the loop was entered with, by its place."""

    place: int


@dataclasses.dataclass(frozen=True, slots=True)
class InRing:
    """A buffer of the ring declared at a path, by its position after the loop."""

    path: Path
    position: int


@dataclasses.dataclass(frozen=True, slots=True)
class MadeInside:
    """A buffer made inside the loop that is in no ring, by its number among those."""

    number: int


Home: TypeAlias = FromOutside | InRing | MadeInside


# Not frozen, which would take three times as long to make one; there are tens of thousands.
@dataclasses.dataclass(eq=False, slots=True)
class BufferAfter:
    """A buffer after the loop.

    Attributes:
      origin: its place before the loop, or None if it was made inside.
      idle, user: when it is idle, and the last user.
      used, written: whether the loop moved its time, and whether it holds another version.
      writer: equation of that version.
      bank: memory space and bank, or None.
      packing: how it lies in its memory.
      since: see `Buffer`; of the traced core alone.
      lifetime: what the trace has on it.
    """

    origin: int | None
    idle: int
    user: str
    used: bool
    written: bool
    writer: jx.Equation | None
    bank: PortKey | None
    packing: Packing
    since: int | None
    lifetime: Lifetime | None


@dataclasses.dataclass(eq=False, slots=True)
class RingAfter:
    """A ring after the loop: its buffers, the next to be used first, and the loops it is in."""

    buffers: list[BufferAfter]
    loops: list[Path]


@dataclasses.dataclass(eq=False, slots=True)
class Output:
    """An output: where its buffer is, when it is ready, and what it makes wait for.

    Attributes:
      home: where its buffer is, or None for a known integer.
      fresh: whether it holds the buffer's version; else it is stale.
      steps: of an outermost loop's stacked output.
    """

    home: Home | None
    space: str
    ready: int
    source: str
    fresh: bool
    known: bool
    steps: list[int] | None


# Each equals itself only: that is how those of several classes together are known.
@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class Outcome:
    """What a loop did to a core.

    Attributes:
      clocks: those of engines and ports that it set, by row.
      labels: the names that go with them, where they are not fixed.
      levels: charges of the engines that it used.
      taken: engine that issued nothing to the ticks taken from it.
      issued: whether there was any instruction.
      buffers: those that no ring turns, by place, where the loop changed them.
      rings: those that the loop turned or declared, by path.
      made: buffers made inside that outputs are in.
      outputs: carry first.
      end: when the last instruction is done, or None if there was none.
      spent, sums: ticks by engine and cause, and the tally, of one core.
      is_late: whether times are `LATE` and on where they follow from a late arrival.
      spent_late: how often the time from the base to that arrival is spent besides.
      latest, latest_late: see `ClockState`; None where there is none.
      asked: by the place of an operand that is in a buffer, when an instruction that waits for it
        starts at the earliest, after the base; `NEVER` where there is none.
      limits: by the place of an operand, the time before which it may be ready at any time, after
        the base (`emu.loops.early`); none of one that may have been waited for.
    """

    clocks: dict[Row, int]
    labels: dict[Row, str]
    levels: dict[Row, int]
    taken: dict[str, int]
    issued: bool
    buffers: dict[int, BufferAfter]
    rings: dict[Path, RingAfter]
    made: list[BufferAfter]
    outputs: list[Output]
    end: int | None
    spent: dict[Key, int]
    sums: dict[Key, int]
    is_late: bool
    spent_late: dict[Key, int]
    latest: int | None
    latest_late: int | None
    asked: dict[int, int]
    limits: dict[int, int]


class Unclear(Exception):
    """A time that may be any of several past clocks; they have to be marked."""


class OutcomeReader:
    """Takes the outcome off a core that has walked a loop."""

    def __init__(self, core: OneCore, base: int, early: list[Row], before: int):
        """From a core that has walked, and its class' base.

        Where it has no marks, `early` are the clocks that are past, and `before` is the time
        before which only those can be; `ALWAYS` where it has.
        """
        self.core = core
        self.state = core.state
        self.base = base
        self.before = before
        self.early = set(early)
        self.is_late = core.arrival is not None
        self.origin = {id(copy): place for place, copy in enumerate(core.copies)}
        self.homes: dict[int, Home] = {}
        self.banks = {id(port): key for key, port in core.state.ports.items()}
        self.made: list[BufferAfter] = []

    def after_base(self, time: int) -> int:
        """A time as ticks after the base; a mark stays a mark."""
        # A past clock came out as some other one: without a mark nobody can tell which it was.
        if time < self.before:
            raise Unclear
        stays = time < PAST or (self.is_late and is_late(time))
        return time if stays else time - self.base

    def mark(self, row: Row) -> int:
        return self.core.entry.marks.mark(row)

    def outcome(self, outputs: list[Value]) -> Outcome:
        state = self.state
        clocks, labels = self._clocks()
        used = {name for name, engine in state.engines.items() if engine.uses}
        # Rings first: a buffer that is in one is known by it from then on.
        rings: dict[Path, RingAfter] = {}
        # Those of an earlier visit as well as new ones: the loop may have turned either.
        before = {path: places for path, _, places in self.core.entry.ring_places}
        for path, ring in state.rings.by_path.items():
            for position, buffer in enumerate(ring.buffers):
                self.homes[id(buffer)] = InRing(path, position)
            if not self._is_untouched(ring, before.get(path)):
                rings[path] = self._ring(ring)
        buffers = self._buffers()
        results = [self._output(value) for value in outputs]
        spent, spent_late = self._spent()
        asked = self._asked()
        return Outcome(
            clocks=clocks,
            labels=labels,
            levels=self._levels(used),
            taken=self._taken(used),
            issued=bool(used),
            buffers=buffers,
            rings=rings,
            made=self.made,
            outputs=results,
            # Without an instruction the end is still tick 0 of a state that was made for this loop.
            end=self.after_base(_plain(state.end)) if used else None,
            spent=spent,
            sums=dict(state.tally.sums),
            is_late=self.is_late,
            spent_late=spent_late,
            latest=self.after_base(state.latest) if state.latest else None,
            latest_late=self._latest_late(),
            asked=asked,
            limits=self._limits(asked, outputs),
        )

    def _spent(self) -> tuple[dict[Key, int], dict[Key, int]]:
        """What was spent if the late arrival were at the base, and how often it is waited for."""
        spent = {key: _plain(ticks) for key, ticks in self.state.spent.items()}
        late: dict[Key, int] = {}
        if self.is_late:
            for key, ticks in spent.items():
                count, rest = times_late(ticks)
                if count:
                    late[key] = count
                    spent[key] = rest + count * self.base
        return spent, late

    def _asked(self) -> dict[int, int]:
        """When each operand is asked for."""
        found: dict[int, int] = {}
        for place, value in enumerate(self.core.values):
            if value.buffer is not None:
                start = self.state.asked[self.core.time["ready", place]]
                # What is asked for after the late arrival is so whenever that is.
                stays = start == NEVER or (self.is_late and is_late(start))
                found[place] = start if stays else start - self.base
        return found

    def _limits(self, asked: dict[int, int], outputs: list[Value]) -> dict[int, int]:
        """The time before which each early operand may be ready at any time."""
        scan = self.core.entry.scan
        # A stack is ready with its last slice, and a slice may be what came in.
        if self.is_late or len(outputs) > scan.carry:
            return {}
        given_back = {id(output.buffer) for output in outputs}
        limits: dict[int, int] = {}
        for place, start in asked.items():
            row: Row = "ready", place
            ready = self.core.time[row]
            is_past = ready < PAST or row in self.early
            comes_out = id(self.core.values[place].buffer) in given_back
            if is_past or (ready - self.base < start and not comes_out):
                limits[place] = start
        return limits

    def _latest_late(self) -> int | None:
        late = self.state.latest_late
        return self.after_base(late) if late else None

    def _clocks(self) -> tuple[dict[Row, int], dict[Row, str]]:
        """The clocks that the loop set, and their labels."""
        clocks: dict[Row, int] = {}
        labels: dict[Row, str] = {}
        for row, resource, clock in self.state.table():
            # In a state that began with nothing used, any use is the loop's.
            if not getattr(resource, clock.mark):
                continue
            clocks[row] = self.after_base(getattr(resource, clock.time))
            if clock.label is not None:
                labels[row] = getattr(resource, clock.label)
        return clocks, labels

    def _levels(self, used: set[str]) -> dict[Row, int]:
        levels: dict[Row, int] = {}
        for row, level in self.state.levels().items():
            field, engine = row
            # The charge of an engine at rest is brought up to date at its next start, not before.
            if engine in used:
                kind = LEVELS[field]
                levels[row] = kind(level)
        return levels

    def _taken(self, used: set[str]) -> dict[str, int]:
        taken: dict[str, int] = {}
        for name, engine in self.state.engines.items():
            before = self.core.time["free", name]
            # No instruction of the loop waits for this engine, so cores of a class may be apart in
            # it by anything: what holds for all is the difference.
            ticks = _plain(engine.free) - before
            if name not in used and ticks:
                taken[name] = ticks
        return taken

    # --- buffers ---

    def _after(self, buffer: Buffer) -> BufferAfter:
        core = self.core
        place = self.origin.get(id(buffer))
        began = None if place is None else core.versions[place]
        trace = self.state.trace
        used = buffer.uses > 0
        idle = _plain(buffer.idle)
        if place in core.entry.aside:
            # Its time counts from 0 here: what is outside the loop is not in it.
            used = idle > 0
            idle = self.after_base(idle) if used else 0
        elif not used and ("idle", place) in self.early:
            # Untouched in a walk without marks, it is at this core's own time, which is no other
            # core's.
            idle = self.mark(("idle", place))
        else:
            idle = self.after_base(idle)
        return BufferAfter(
            place,
            idle,
            _plain_name(buffer.user),
            used,
            written=bool(buffer.version != began),
            writer=buffer.writer,
            bank=self.banks.get(id(buffer.port)),
            packing=buffer.packing,
            since=buffer.since,
            lifetime=None if trace is None else trace.tracked.get(id(buffer)),
        )

    @property
    def inside(self) -> dict[int, Lifetime]:
        """What the trace has on tiles that did not outlive the loop."""
        if self.state.trace is None:
            return {}
        ended: dict[int, Lifetime] = {}
        for buffer, lifetime in self.state.trace.tracked.items():
            if buffer not in self.origin and buffer not in self.homes:
                ended[buffer] = lifetime
        return ended

    def _is_untouched(self, ring: Ring, before: list[int] | None) -> bool:
        """Whether a ring is what it was, its buffers at the places `before`; None: it is new."""
        # Of all rings of a loop only those of the branches that it took are others after it.
        if before is None or self.state.trace is not None:
            return False
        for buffer, place in zip(ring.buffers, before, strict=True):
            is_same = self.origin.get(id(buffer)) == place
            if (
                not is_same
                or buffer.uses
                or buffer.version != self.core.versions[place]
            ):
                return False
        return True

    def _ring(self, ring: Ring) -> RingAfter:
        buffers = [self._after(buffer) for buffer in ring.buffers]
        outside = len(self.state.loops)
        return RingAfter(buffers, ring.loops[outside:])

    def _buffers(self) -> dict[int, BufferAfter]:
        # What the loop left alone is left out, so that each core keeps its own time and version.
        changed: dict[int, BufferAfter] = {}
        for place, buffer in enumerate(self.core.copies):
            if id(buffer) in self.homes:
                continue
            after = self._after(buffer)
            if after.used or after.written:
                changed[place] = after
        return changed

    # --- outputs ---

    def _output(self, value: Value) -> Output:
        buffer = value.buffer
        home = None if buffer is None else self._home(buffer)
        steps = None
        if value.steps is not None:
            steps = [self.after_base(_plain(time)) for time in value.steps]
        return Output(
            home,
            value.space,
            ready=0 if home is None else self._ready(value),
            source=_plain_name(value.source),
            # Versions are numbers of this state alone; what counts outside is whether it is the
            # last.
            fresh=buffer is None or bool(value.version == buffer.version),
            known=value.known is not None,
            steps=steps,
        )

    def _ready(self, value: Value) -> int:
        """An output's time, or the mark of the one past clock of its buffer that it can be."""
        ready = _plain(value.ready)
        if ready >= self.before:
            return self.after_base(ready)
        entry = self.core.entry
        origin = self.origin.get(id(value.buffer))
        rows: list[Row] = []
        for place, operand in enumerate(entry.values):
            buffer = operand.buffer
            if buffer is not None and entry.place[id(buffer)] == origin:
                rows.append(("ready", place))
        rows.append(("idle", origin))
        past = [row for row in rows if row in self.early]
        found = [row for row in past if self.core.time[row] == ready]
        # Two past clocks may both be 40 on this core and 40 and 900 on the next: none, or several,
        # and only a mark can tell.
        if len(found) != 1:
            raise Unclear
        return self.mark(found[0])

    def _home(self, buffer: Buffer) -> Home:
        known = self.homes.get(id(buffer))
        if known is not None:
            return known
        place = self.origin.get(id(buffer))
        home: Home
        if place is not None:
            home = FromOutside(place)
        else:
            home = MadeInside(len(self.made))
            # Only those that an output is in: after the loop nobody can reach the others.
            self.made.append(self._after(buffer))
        self.homes[id(buffer)] = home
        return home


def _plain(time: Ticks) -> int:
    """A time of one core, which is no array."""
    assert not isinstance(time, np.ndarray | Shifted)
    return time


def _plain_name(name: CauseName) -> str:
    assert isinstance(name, str)
    return name


__all__ = [
    "BufferAfter",
    "InRing",
    "FromOutside",
    "MadeInside",
    "Outcome",
    "OutcomeReader",
    "Output",
    "RingAfter",
    "Unclear",
]
