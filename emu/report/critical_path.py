"""The chain of instructions that made a core take as long as it did, and its time by source line.

Walked backwards from the last instruction: each started when another freed its engine, wrote its
operand or let go of its destination, and that one is the next. The stretches of the chain tile the
time from 0 to the end.
"""

import bisect
import collections
import dataclasses
from collections.abc import Iterable, Mapping
from typing import TypeAlias

from emu.clock.reading import IN_USE, THROTTLE, Event

Moments: TypeAlias = list[tuple[int, int]]
"""`(tick, number of the instruction)`, sorted."""


def is_instruction(event: Event) -> bool:
    """Whether an event is an instruction on an engine, not a state or a tile's lifetime."""
    return event.engine != THROTTLE and not event.engine.endswith(IN_USE)


def instructions(events: Iterable[Event]) -> list[Event]:
    """The events that are instructions, in program order."""
    return [event for event in events if is_instruction(event)]


@dataclasses.dataclass(frozen=True)
class Stretch:
    """From an instruction's start until the next of the chain could start, in ticks."""

    event: Event
    start: int
    end: int

    @property
    def ticks(self) -> int:
        return self.end - self.start


@dataclasses.dataclass(frozen=True)
class Line:
    """What one source line's instruction contributes to the critical path.

    `busy` ticks of `ticks` its engine was working; the rest is latency until the next could start.
    """

    where: str
    engine: str
    name: str
    count: int
    ticks: int
    busy: int


def critical_path(
    events: Iterable[Event], end: int, causes: Mapping[str, str] | None = None
) -> list[Stretch]:
    """The chain, first instruction first.

    Args:
      events: of one core in program order; states and tile lifetimes are left out.
      end: when the core is done, in ticks.
      causes: engine to what waiting for it is called, as in `Sheet.causes`.

    Returns:
      Stretches with `path[0].start == 0` and each starting where the one before ends, the last at
      `end`. What precedes the chain's first start belongs to its first instruction.
    """
    issued = _Issued(instructions(events), causes or {})
    number = issued.last()
    last_first: list[Stretch] = []
    while number is not None and end > 0:
        event = issued.events[number]
        number = issued.before(number)
        # The chain's first instruction takes what lies before it, so that the stretches tile the
        # time.
        start = 0 if number is None else min(event.start, end)
        if start < end:
            last_first.append(Stretch(event, start, end))
            end = start
    return last_first[::-1]


def by_line(path: Iterable[Stretch]) -> list[Line]:
    """The path's time by source line and instruction, longest first; sums to the path's end."""
    found: dict[tuple[str, str, str], Line] = {}
    for stretch in path:
        event = stretch.event
        key = event.where, event.engine, event.name
        line = found.get(key, Line(*key, count=0, ticks=0, busy=0))
        begin = max(stretch.start, event.start)
        until = min(stretch.end, event.end)
        found[key] = dataclasses.replace(
            line,
            count=line.count + 1,
            ticks=line.ticks + stretch.ticks,
            busy=line.busy + max(0, until - begin),
        )
    return sorted(found.values(), key=lambda line: (-line.ticks, line.where, line.name))


class _Issued:
    """Instructions of one core by what they made possible, and when.

    Attributes:
      events: the instructions, which are named by their numbers in this list.
      causes: engine to what waiting for it is called.
      previous: the instruction before on the same engine, of each.
      results: what waiting for an engine is called, to when its results could be read.
      releases: likewise, to when its instructions ended and were done: what they held was free.
      sharing: those that have waited for a resource which they share.
    """

    def __init__(self, events: list[Event], causes: Mapping[str, str]):
        self.events, self.causes = events, causes
        self.previous: list[int | None] = []
        self.results: dict[str, Moments] = collections.defaultdict(list)
        self.releases: dict[str, Moments] = collections.defaultdict(list)
        self.sharing: set[str] = set()
        latest: dict[str, int] = {}
        for number, event in enumerate(events):
            user = causes.get(event.engine, event.engine)
            if event.cause == "shared":
                self.sharing.add(user)
            self.previous.append(latest.get(event.engine))
            latest[event.engine] = number
            self.results[user].append((event.ready, number))
            for tick in {event.end, event.done}:
                self.releases[user].append((tick, number))
        for moments in (*self.results.values(), *self.releases.values()):
            moments.sort()

    def last(self) -> int | None:
        """The instruction that is done last."""
        done: Moments = []
        for number, event in enumerate(self.events):
            done.append((max(event.done, event.end), number))
        return _last_of(done)

    def before(self, number: int) -> int | None:
        """What an instruction waited for; None for one that waited for nothing."""
        event = self.events[number]
        if event.cause in ("", "engine") or event.start == 0:
            return self.previous[number]
        found = _latest(self._what_freed(event), event.start, number)
        return self.previous[number] if found is None else found

    def _what_freed(self, event: Event) -> list[Moments]:
        """Moments of the instructions among which is the one that an event waited for."""
        cause = event.cause
        if cause == "lead":  # an operand of another engine, ready some time before
            own = self.causes.get(event.engine, event.engine)
            return [found for user, found in self.results.items() if user != own]
        if cause in self.results:
            return [self.results[cause]]
        # A buffer's last user, or whoever has the resource: an engine is all that a wait names.
        # Which of its instructions it was is found by when it let go.
        users = {cause.removeprefix("buffer:")}
        if cause == "shared":
            users = self.sharing
        ends = [found for user, found in self.releases.items() if user in users]
        return ends or list(self.releases.values())


def _latest(candidates: list[Moments], start: int, before: int) -> int | None:
    """The instruction earlier in the program that made something possible last before a start."""
    found: Moments = []
    for moments in candidates:
        # Example: moments (10, 0), (20, 3) and (20, 7), for instruction 5, which starts at 20.
        # Place 2, behind (20, 3): what 7 did at the same tick comes later in the program.
        place = bisect.bisect_right(moments, (start, before))
        # At an earlier tick, but later in the program: that cannot have been waited for.
        while place and moments[place - 1][1] >= before:
            place -= 1
        if place:
            found.append(moments[place - 1])
    return _last_of(found)


def _last_of(moments: Moments) -> int | None:
    if not moments:
        return None
    # Of several at one tick the one that was issued last.
    _, number = max(moments)
    return number
