"""Traces against the Trace Event format: what the Perfetto UI needs to show every track."""

import collections
import itertools
import json

import pytest

from emu.report import perfetto
from emu.report.critical_path import critical_path
from tests.emu.test_critical_path import CAUSES, SCHEDULE, event

TICK_HZ = 4_800_000_000
STATES = [
    event("throttle", 0, 45, name="half clock"),
    event("sbuf in use", 0, 45, name="4096"),
    event("sbuf in use", 10, 55, name="1024"),
    event("psum in use", 40, 70, name="2048"),
]


@pytest.fixture(scope="module")
def trace() -> dict:
    data = perfetto.trace(
        [*SCHEDULE, *STATES],
        TICK_HZ,
        process="a core",
        path=critical_path(SCHEDULE, 70, CAUSES),
        engines=("tensor", "vector", "load_queue"),
    )
    return json.loads(json.dumps(data))


def of(trace: dict, phase: str) -> list[dict]:
    return [e for e in trace["traceEvents"] if e["ph"] == phase]


def tracks(trace: dict) -> dict[str, list[dict]]:
    name = {
        e["tid"]: e["args"]["name"]
        for e in of(trace, "M")
        if e["name"] == "thread_name"
    }
    found = collections.defaultdict(list)
    for e in of(trace, "X"):
        found[name[e["tid"]]].append(e)
    return dict(found)


def test_every_event_has_what_the_format_asks_for(trace: dict) -> None:
    assert trace["displayTimeUnit"] == "ns"
    assert {e["ph"] for e in trace["traceEvents"]} == {"M", "X", "C"}
    for e in trace["traceEvents"]:
        assert isinstance(e["name"], str) and isinstance(e["pid"], int)
        assert isinstance(e["tid"], int) and isinstance(e["args"], dict)
        if e["ph"] != "M":
            assert e["ts"] >= 0
    assert all(e["dur"] >= 0 for e in of(trace, "X"))
    assert all(isinstance(v, int) for e in of(trace, "C") for v in e["args"].values())


def test_one_track_for_each_engine_queue_state_and_the_path(trace: dict) -> None:
    named = [e["args"]["name"] for e in of(trace, "M") if e["name"] == "thread_name"]
    # No idle engine.
    assert named == [
        "tensor",
        "load_queue",
        "throttle",
        "critical path",
    ]
    sorted_by = {
        e["tid"]: e["args"]["sort_index"]
        for e in of(trace, "M")
        if e["name"] == "thread_sort_index"
    }
    assert len(set(sorted_by.values())) == len(named)
    assert {name: len(found) for name, found in tracks(trace).items()} == {
        "tensor": 2,
        "load_queue": 2,
        "throttle": 1,
        "critical path": 3,
    }


def test_slices_of_a_track_follow_each_other(trace: dict) -> None:
    for found in tracks(trace).values():
        for a, b in itertools.pairwise(found):
            # To the nanosecond, as the trace processor reads microseconds.
            assert round(a["ts"] * 1000) + round(a["dur"] * 1000) <= round(
                b["ts"] * 1000
            )


def test_no_rounding_makes_slices_overlap() -> None:
    """Readers add `ts` and `dur` as doubles, or read both in nanoseconds."""
    events = [event("tensor", t, t + 3882) for t in range(0, 3882 * 500, 3882)]
    slices = perfetto.trace(events, TICK_HZ, process="a core")["traceEvents"][3:]
    assert [e["ph"] for e in slices] == ["X"] * 500
    for a, b in itertools.pairwise(slices):
        assert a["ts"] + a["dur"] <= b["ts"]
        assert round(a["ts"] * 1000) + round(a["dur"] * 1000) == round(b["ts"] * 1000)


def test_times_are_ticks_in_whole_nanoseconds(trace: dict) -> None:
    first, second = tracks(trace)["tensor"]
    assert (first["ts"], second["ts"]) == (
        40 * 10**9 // TICK_HZ / 1000,
        50 * 10**9 // TICK_HZ / 1000,
    )
    assert first["args"] == {
        "start_ticks": 40,
        "end_ticks": 45,
        "done_ticks": 45,
        "ready_ticks": 60,
        "where": "k.py:6",
        "waited_for": "load",
    }


def test_counters_step_with_the_tiles_and_return_to_nothing(trace: dict) -> None:
    steps = collections.defaultdict(list)
    for e in of(trace, "C"):
        steps[e["name"]].append((e["ts"], e["args"]["bytes"]))
    ns = lambda tick: tick * 10**9 // TICK_HZ / 1000  # noqa: E731
    assert steps == {
        "sbuf in use": [(ns(0), 4096), (ns(10), 5120), (ns(45), 1024), (ns(55), 0)],
        "psum in use": [(ns(40), 2048), (ns(70), 0)],
    }


def test_a_file_holds_the_same_with_one_event_a_line(trace: dict, tmp_path) -> None:
    perfetto.write(tmp_path / "trace.json", trace)
    text = (tmp_path / "trace.json").read_text("utf-8")
    assert json.loads(text) == trace
    assert text.count("\n") == len(trace["traceEvents"]) + 2


def test_nothing_traced_is_an_empty_timeline() -> None:
    assert [
        e["ph"] for e in perfetto.trace([], TICK_HZ, process="a core")["traceEvents"]
    ] == ["M"]
