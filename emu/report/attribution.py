"""Where a core's time went: bound, fill and drain, loads, waits and stalls, summing to its end."""

import collections
import dataclasses
from collections.abc import Iterable, Mapping

import numpy as np

from emu.clock.reading import Event, Reading
from emu.clock.ticks import on_core

KINDS = ("bound", "excess", "below peak", "loads", "waits", "stalls", "fill and drain")
BOUND, EXCESS, BELOW, LOADS, WAITS, STALLS, ENDS = KINDS
WAIT, BUFFER = "wait:", "buffer:"
STALL_CAUSES = ("shared", "bank", "port", "lead")

Spent = dict[str, dict[str, int]]  # engine to what its time went to, in ticks


@dataclasses.dataclass(frozen=True)
class Part:
    """A part of an engine's time: one of `KINDS`, what it was, and its ticks."""

    kind: str
    what: str
    ticks: int


@dataclasses.dataclass(frozen=True)
class Peak:
    """What an engine's work takes at its peak rate, and the part of it that had to be done.

    The rest is excess: data loaded again, tiles transposed, scores computed and masked.
    """

    useful_ticks: int
    work_ticks: int


@dataclasses.dataclass(frozen=True)
class Split:
    """How one engine spent the time until its core was done; the parts sum to it."""

    engine: str
    end_ticks: int
    parts: tuple[Part, ...]

    def share(self, part: Part) -> float:
        return part.ticks / self.end_ticks if self.end_ticks else 0.0

    def by_kind(self) -> dict[str, int]:
        """Ticks of every kind; sums to `end_ticks`."""
        ticks: dict[str, int] = {kind: 0 for kind in KINDS}
        for part in self.parts:
            ticks[part.kind] += part.ticks
        return ticks


def last_core(reading: Reading) -> tuple[int, ...]:
    """The core that ends last, the first of several."""
    end = np.broadcast_to(reading.end, reading.grid)
    core = np.unravel_index(np.argmax(end), reading.grid)
    return tuple(int(index) for index in core)


def spent_by(reading: Reading, core: tuple[int, ...]) -> Spent:
    """Engine to what its time on one core went to, in ticks; each engine's sum is the core's end.

    Beside what `Reading.spent` names, `drain` is the time after an engine's last instruction.
    """
    grid = reading.grid
    end = on_core(reading.end, grid, core)
    spent: Spent = {}
    for (engine, what), ticks in reading.spent.items():
        of_engine = spent.setdefault(engine, {})
        of_engine[what] = on_core(ticks, grid, core)
    for engine, of_engine in spent.items():
        last = on_core(reading.last[engine], grid, core)
        # The clock follows an engine to its last instruction only; with this each sums to the
        # core's end.
        of_engine["drain"] = end - last
    return spent


def together(events: Iterable[Event], engines: Iterable[str], name: str) -> list[Event]:
    """Several engines that share a resource, seen as one: busy while any of them is.

    Args:
      events: of one core.
      engines: to be seen as one.
      name: of that one.

    Returns:
      A busy time of the group per event; its cause, line and name are those of its first.
    """
    group = set(engines)
    own = [event for event in events if event.engine in group]
    own.sort(key=lambda event: (event.start, event.end))
    times: list[Event] = []
    for event in own:
        # Those that touch join too: no time lies between them.
        if times and event.start <= times[-1].end:
            last = times.pop()
            end = max(last.end, event.end)
            times.append(dataclasses.replace(last, end=end))
        else:
            times.append(dataclasses.replace(event, engine=name))
    return times


def spent_together(
    events: Iterable[Event], engines: Iterable[str], end: int
) -> dict[str, int]:
    """The account of several engines that share a resource, as if they were one; sums to `end`.

    Where two of them work at a time, the clock lets both and makes one of them wait (`shared`) for
    as long at another time: of such waits, as much is work as was done at the same time.

    Example: two queues move from 0 to 10 and from 4 to 10, and one again from 16 to 20, which was
    `shared` until then. Work is 10 + 4 ticks and 6 are a wait; the 6 ticks of double work go there,
    so that the account has 20 of work.
    """
    group = set(engines)
    events = [event for event in events if event.engine in group]
    spent: collections.Counter[str] = collections.Counter()
    free = 0
    for time in together(events, group, ""):
        # Before the group's first work there is nothing it could have been kept from: that is its
        # fill.
        wait = WAIT + time.cause if free else "fill"
        spent[wait] += time.start - free
        spent["work"] += time.end - time.start
        free = time.end
    spent["drain"] = end - free
    busy = sum(event.end - event.start for event in events)
    at_once = busy - spent["work"]
    shared = WAIT + "shared"
    # No more than was waited for so: the account must still sum to the end.
    moved = min(at_once, spent[shared])
    spent["work"] += moved
    spent[shared] -= moved
    return {what: ticks for what, ticks in spent.items() if ticks > 0}


def active_ticks(spent: Mapping[str, int]) -> int:
    """What one engine spent neither waiting nor before or after its work: AWS's active time."""
    total = 0
    for what, ticks in spent.items():
        if what not in ("fill", "drain") and not what.startswith(WAIT):
            total += ticks
    return total


def busiest(spent: Spent) -> str:
    """The engine that is active longest."""
    return max(spent, key=lambda engine: active_ticks(spent[engine]))


def split(spent: Spent, engine: str | None = None, peak: Peak | None = None) -> Split:
    """How an engine spent its time, by kind.

    Args:
      spent: of one core, from `spent_by`.
      engine: by default the busiest.
      peak: what its work takes at the engine's peak rate; the time beyond is *below peak*. None
        takes all of it to be useful and at peak.
    """
    engine = engine or busiest(spent)
    ticks_by_what = dict(spent[engine])
    work = ticks_by_what.pop("work", 0)
    # FLOPs and bytes are means over the mesh: a core with less than the mean would have more work
    # at peak than it was busy at all.
    whole = work if peak is None else min(work, peak.work_ticks)
    useful = whole if peak is None else min(whole, peak.useful_ticks)
    parts = [
        Part(BOUND, "useful work at peak", useful),
        Part(EXCESS, "excess work", whole - useful),
        Part(BELOW, "work below peak", work - whole),
    ]
    for what, ticks in ticks_by_what.items():
        parts.append(Part(_kind(what), what, ticks))
    parts = [part for part in parts if part.ticks or part.kind == BOUND]
    parts.sort(key=_by_kind)
    total = sum(part.ticks for part in parts)
    return Split(engine, total, tuple(parts))


def _by_kind(part: Part) -> tuple[int, int, str]:
    """Within a kind, the longest first."""
    return KINDS.index(part.kind), -part.ticks, part.what


def _kind(what: str) -> str:
    if what in ("fill", "drain"):
        return ENDS
    if not what.startswith(WAIT):
        # A part of an instruction in which no work is done, or throttled.
        return STALLS
    cause = what.removeprefix(WAIT)
    if cause == "load":
        return LOADS
    is_stall = cause in STALL_CAUSES or cause.startswith(BUFFER)
    return STALLS if is_stall else WAITS
