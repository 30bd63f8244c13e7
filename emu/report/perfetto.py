"""A traced core's timeline as Trace Event JSON, which the Perfetto UI and chrome://tracing open.

A core has one track per engine and DMA queue, one for each state such as throttling, one for the
critical path, and a counter per memory space with the bytes in use. `complete`, `instant`, `names`
and `document` make traces of other things.
"""

import collections
import json
import math
import pathlib
from collections.abc import Iterable
from typing import Any, TypeAlias

from emu.clock.reading import IN_USE, THROTTLE, Event
from emu.early_end import written_whole
from emu.report.critical_path import Stretch, is_instruction

PATH = "critical path"

Entry: TypeAlias = dict[str, Any]
"""One object of a trace: an event, a counter's value or a name."""

_NS = 1_000_000_000
_PID = 1


def trace(
    events: Iterable[Event],
    tick_hz: int,
    *,
    process: str,
    path: Iterable[Stretch] = (),
    engines: Iterable[str] = (),
) -> Entry:
    """Trace Event JSON of one core: complete events, counters and the names of their tracks.

    Times are microseconds with three decimals: ticks rounded down to whole nanoseconds, start and
    end alike, so events that did not overlap still do not.

    Args:
      events: of the traced core, as in `Reading.events`.
      tick_hz: ticks a second.
      process: what the core is called.
      path: the critical path, drawn on a track of its own.
      engines: the order of the tracks; engines not named follow as they appear.
    """
    spans: list[Event] = []
    tiles: list[Event] = []
    for event in events:
        in_use = event.engine.endswith(IN_USE)
        (tiles if in_use else spans).append(event)
    working = [event.engine for event in spans if is_instruction(event)]
    track = _tracks([*engines, *working, THROTTLE, PATH])
    body = [_span(event, track[event.engine], tick_hz) for event in spans]
    body += [_stretch(stretch, track[PATH], tick_hz) for stretch in path]
    body += _counters(tiles, tick_hz)
    body.sort(key=_by_time)
    used = {entry["tid"] for entry in body if entry["ph"] == "X"}
    shown = {name: number for name, number in track.items() if number in used}
    head = names(process, shown)
    return document(process, tick_hz, [*head, *body])


def _by_time(entry: Entry) -> tuple[float, int]:
    return entry["ts"], entry["tid"]


def document(process: str, tick_hz: int, events: list[Entry]) -> Entry:
    """A trace of events in the order given."""
    return {
        "displayTimeUnit": "ns",
        "otherData": {"process": process, "tick_hz": tick_hz},
        "traceEvents": events,
    }


def write(path: pathlib.Path, data: Entry) -> None:
    """Writes a trace, one event a line; the file is there whole or not at all."""
    head = dict(data)
    events = head.pop("traceEvents")
    lines = ",\n".join(json.dumps(event, ensure_ascii=False) for event in events)
    begin = json.dumps(head)[:-1]  # without the closing brace
    text = f'{begin}, "traceEvents": [\n{lines}\n]}}\n'
    with written_whole(path) as part:
        part.write_text(text, "utf-8")


def _tracks(names: Iterable[str]) -> dict[str, int]:
    """Track ids from 1, in order of first mention."""
    return {name: number for number, name in enumerate(dict.fromkeys(names), 1)}


def _ns(ticks: int, tick_hz: int) -> int:
    # Rounding down keeps order, so an end that was not past a start still is not. A tick of 4.8 GHz
    # is 0.2 ns: up to five fall on one nanosecond.
    return ticks * _NS // tick_hz


def _event(
    phase: str, name: str, tid: int, ns: int, pid: int = _PID, **more: Any
) -> Entry:
    microseconds = ns / 1000
    return {
        "ph": phase,
        "pid": pid,
        "tid": tid,
        "name": name,
        "ts": microseconds,
        **more,
    }


def complete(
    name: str,
    tid: int,
    tick_hz: int,
    start: int,
    end: int,
    args: dict[str, Any],
    pid: int = _PID,
) -> Entry:
    """A slice from tick `start` to tick `end` of a track."""
    begin = _ns(start, tick_hz)
    stop = _ns(end, tick_hz)
    duration = (stop - begin) / 1000
    # Readers add the two, and no sum may pass the next start: in floats 0.001 + 0.008 > 0.009.
    while begin / 1000 + duration > stop / 1000:
        duration = math.nextafter(duration, 0)
    return _event("X", name, tid, begin, pid, dur=duration, args=args)


def instant(
    name: str, tid: int, tick_hz: int, at: int, args: dict[str, Any], pid: int = _PID
) -> Entry:
    """A mark on a track."""
    return _event("i", name, tid, _ns(at, tick_hz), pid, s="t", args=args)


def _span(event: Event, tid: int, tick_hz: int) -> Entry:
    args: dict[str, Any] = {"start_ticks": event.start, "end_ticks": event.end}
    if is_instruction(event):
        args["done_ticks"] = event.done
        args["ready_ticks"] = event.ready
        args["where"] = event.where
        args["waited_for"] = event.cause
    return complete(event.name, tid, tick_hz, event.start, event.end, args)


def _stretch(stretch: Stretch, tid: int, tick_hz: int) -> Entry:
    event = stretch.event
    args = {
        "engine": event.engine,
        "where": event.where,
        "waited_for": event.cause,
    }
    return complete(event.name, tid, tick_hz, stretch.start, stretch.end, args)


def _counters(tiles: list[Event], tick_hz: int) -> list[Entry]:
    """Bytes in use at every instant at which they change."""
    changes: dict[str, collections.Counter[int]] = {}
    for tile in tiles:
        change = changes.setdefault(tile.engine, collections.Counter())
        nbytes = int(tile.name)
        # Summed by instant first: where a buffer passes from one tile to the next, one change after
        # the other would draw a dip or a peak that there was not.
        change[_ns(tile.start, tick_hz)] += nbytes
        change[_ns(tile.end, tick_hz)] -= nbytes
    out: list[Entry] = []
    for name, change in changes.items():
        used = 0
        for ns in sorted(change):
            used += change[ns]
            out.append(_event("C", name, _PID, ns, args={"bytes": used}))
    return out


def names(process: str, track: dict[str, int], pid: int = _PID) -> list[Entry]:
    """What a process and its tracks, `{name: id}`, are called and the order they are shown in."""

    def meta(what: str, tid: int, **args: Any) -> Entry:
        return {"ph": "M", "pid": pid, "tid": tid, "name": what, "args": args}

    out = [meta("process_name", _PID, name=process)]
    if pid != _PID:
        out.append(meta("process_sort_index", _PID, sort_index=pid))
    for name, tid in track.items():
        out.append(meta("thread_name", tid, name=name))
        out.append(meta("thread_sort_index", tid, sort_index=tid))
    return out
