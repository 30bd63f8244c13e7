"""A traced core's timeline as Trace Event JSON, which the Perfetto UI and chrome://tracing open.

A core has one track per engine and DMA queue, one for each state such as throttling, one for the
critical path, and a counter per memory space with the bytes in use. `complete`, `instant`, `names`
and `document` make traces of other things.
"""

import json
import math
import pathlib
from collections.abc import Iterable
from typing import Any

from emu.clock.reading import IN_USE, THROTTLE, Event
from emu.report.critical_path import Stretch, is_instruction

PATH = "critical path"

_NS = 1_000_000_000
_PID = 1


def trace(
    events: Iterable[Event],
    tick_hz: int,
    *,
    process: str,
    path: Iterable[Stretch] = (),
    engines: Iterable[str] = (),
) -> dict[str, Any]:
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
    events = list(events)
    spans = [e for e in events if not e.engine.endswith(IN_USE)]
    tiles = [e for e in events if e.engine.endswith(IN_USE)]
    track = _tracks(
        [*engines, *(e.engine for e in spans if is_instruction(e)), THROTTLE, PATH]
    )
    body = [_span(e, track[e.engine], tick_hz) for e in spans]
    body += [_stretch(s, track[PATH], tick_hz) for s in path]
    body += _counters(tiles, tick_hz)
    body.sort(key=lambda b: (b["ts"], b["tid"]))
    used = {b["tid"] for b in body if b["ph"] == "X"}
    head = names(process, {t: i for t, i in track.items() if i in used})
    return document(process, tick_hz, [*head, *body])


def document(
    process: str, tick_hz: int, events: list[dict[str, Any]]
) -> dict[str, Any]:
    """A trace of events in the order given."""
    return {
        "displayTimeUnit": "ns",
        "otherData": {"process": process, "tick_hz": tick_hz},
        "traceEvents": events,
    }


def write(path: pathlib.Path, data: dict[str, Any]) -> None:
    """Writes a trace, one event a line."""
    lines = ",\n".join(json.dumps(e, ensure_ascii=False) for e in data["traceEvents"])
    head = {k: v for k, v in data.items() if k != "traceEvents"}
    path.write_text(
        json.dumps(head)[:-1] + f', "traceEvents": [\n{lines}\n]}}\n', "utf-8"
    )


def _tracks(names: Iterable[str]) -> dict[str, int]:
    """Track ids from 1, in order of first mention."""
    return {name: i for i, name in enumerate(dict.fromkeys(names), 1)}


def _ns(ticks: int, tick_hz: int) -> int:
    return ticks * _NS // tick_hz


def _event(
    phase: str, name: str, tid: int, ns: int, pid: int = _PID, **more: Any
) -> dict[str, Any]:
    return {"ph": phase, "pid": pid, "tid": tid, "name": name, "ts": ns / 1000, **more}


def complete(
    name: str,
    tid: int,
    tick_hz: int,
    start: int,
    end: int,
    args: dict[str, Any],
    pid: int = _PID,
) -> dict[str, Any]:
    """A slice from tick `start` to tick `end` of a track."""
    begin, stop = _ns(start, tick_hz), _ns(end, tick_hz)
    dur = (stop - begin) / 1000
    # Readers add the two; no sum may pass the next start.
    while begin / 1000 + dur > stop / 1000:
        dur = math.nextafter(dur, 0)
    return _event("X", name, tid, begin, pid, dur=dur, args=args)


def instant(
    name: str, tid: int, tick_hz: int, at: int, args: dict[str, Any], pid: int = _PID
) -> dict[str, Any]:
    """A mark on a track."""
    return _event("i", name, tid, _ns(at, tick_hz), pid, s="t", args=args)


def _span(e: Event, tid: int, tick_hz: int) -> dict[str, Any]:
    args = {"start_ticks": e.start, "end_ticks": e.end}
    if is_instruction(e):
        args |= {"done_ticks": e.done, "ready_ticks": e.ready, "where": e.where}
        args |= {"waited_for": e.cause}
    return complete(e.name, tid, tick_hz, e.start, e.end, args)


def _stretch(s: Stretch, tid: int, tick_hz: int) -> dict[str, Any]:
    args = {
        "engine": s.event.engine,
        "where": s.event.where,
        "waited_for": s.event.cause,
    }
    return complete(s.event.name, tid, tick_hz, s.start, s.end, args)


def _counters(tiles: list[Event], tick_hz: int) -> list[dict[str, Any]]:
    """Bytes in use at every instant at which they change."""
    change: dict[str, dict[int, int]] = {}
    for e in tiles:
        of = change.setdefault(e.engine, {})
        for ticks, nbytes in ((e.start, int(e.name)), (e.end, -int(e.name))):
            ns = _ns(ticks, tick_hz)
            of[ns] = of.get(ns, 0) + nbytes
    out = []
    for name, of in change.items():
        used = 0
        for ns in sorted(of):
            used += of[ns]
            out.append(_event("C", name, _PID, ns, args={"bytes": used}))
    return out


def names(process: str, track: dict[str, int], pid: int = _PID) -> list[dict[str, Any]]:
    """What a process and its tracks, `{name: id}`, are called and the order they are shown in."""

    def meta(what: str, tid: int, **args: Any) -> dict[str, Any]:
        return {"ph": "M", "pid": pid, "tid": tid, "name": what, "args": args}

    out = [meta("process_name", _PID, name=process)]
    if pid != _PID:
        out.append(meta("process_sort_index", _PID, sort_index=pid))
    for name, tid in track.items():
        out += [
            meta("thread_name", tid, name=name),
            meta("thread_sort_index", tid, sort_index=tid),
        ]
    return out
