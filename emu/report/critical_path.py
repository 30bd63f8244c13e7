"""The chain of instructions that made a core take as long as it did, and its time by source line.

Walked backwards from the last instruction: each started when another freed its engine, wrote its
operand or let go of its destination, and that one is the next. The stretches of the chain tile the
time from 0 to the end.
"""

import bisect
import collections
import dataclasses
from collections.abc import Iterable, Mapping

from emu.clock.reading import IN_USE, THROTTLE, Event

Times = dict[str, list[tuple[int, int]]]  # cause to `(tick, instruction)`


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
    at: int | None = issued.last()
    path: list[Stretch] = []
    while at is not None and end > 0:
        event = issued.events[at]
        at = issued.before(at)
        start = 0 if at is None else min(event.start, end)
        if start < end:
            path.append(Stretch(event, start, end))
            end = start
    return path[::-1]


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
    """Instructions of one core by what they made possible, and when."""

    def __init__(self, events: list[Event], causes: Mapping[str, str]):
        self.events, self.causes = events, causes
        self.previous: list[int | None] = []
        self.results: Times = collections.defaultdict(list)
        self.releases: Times = collections.defaultdict(list)
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
        for ticks in (*self.results.values(), *self.releases.values()):
            ticks.sort()

    def last(self) -> int | None:
        """The instruction that is done last."""
        done = [
            (max(event.done, event.end), number)
            for number, event in enumerate(self.events)
        ]
        return max(done)[1] if done else None

    def before(self, at: int) -> int | None:
        """What instruction `at` waited for; None for one that waited for nothing."""
        event = self.events[at]
        cause = event.cause
        if cause in ("", "engine") or event.start == 0:
            return self.previous[at]
        if cause == "lead":  # an operand of another engine, ready some time before
            own = self.causes.get(event.engine, event.engine)
            others = [ticks for user, ticks in self.results.items() if user != own]
            found = _latest(others, event.start, at)
        elif cause in self.results:
            found = _latest([self.results[cause]], event.start, at)
        else:  # a buffer's last user, or whoever has the resource
            users = {cause.removeprefix("buffer:")}
            if cause == "shared":
                users = self.sharing
            ends = [ticks for user, ticks in self.releases.items() if user in users]
            found = _latest(ends or self.releases.values(), event.start, at)
        return self.previous[at] if found is None else found


def _latest(
    candidates: Iterable[list[tuple[int, int]]], start: int, before: int
) -> int | None:
    """The instruction earlier in the program that made something possible last before a start."""
    found: list[tuple[int, int]] = []
    for ticks in candidates:
        place = bisect.bisect_right(ticks, (start, before))
        while place and ticks[place - 1][1] >= before:
            place -= 1
        if place:
            found.append(ticks[place - 1])
    return max(found)[1] if found else None
