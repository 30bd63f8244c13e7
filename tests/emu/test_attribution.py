"""Every tick has a cause: splits sum to the end, on schedules by hand and on random programs."""

import collections
import functools
import itertools
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings

from emu import Program
from emu.clock.reading import Reading
from emu.clock.tally import Tally
from emu.report import perfetto
from emu.report.attribution import (
    Part,
    Peak,
    active_ticks,
    busiest,
    last_core,
    spent_by,
    spent_together,
    split,
    together,
)
from emu.report.critical_path import by_line, critical_path, instructions
from emu.report.explain import WAITED_FOR, explain, in_words, waits_by_line
from tests import helpers
from tests.emu.test_critical_path import event
from tests.helpers import F32, MESH, THROTTLED, TOY

TICK_HZ = 10**9


def reading(spent: dict, last: dict, end: Any, grid: tuple[int, ...] = (1,)) -> Reading:
    return Reading(TOY, grid, end, last, spent, Tally(), [], [], 0, 0, [])


SPENT = {
    ("tensor", "work"): 400,
    ("tensor", "weight_load"): 50,
    ("tensor", "throttle"): 60,
    ("tensor", "fill"): 90,
    ("tensor", "wait:load"): 200,
    ("tensor", "wait:vector"): 30,
    ("tensor", "wait:buffer:vector"): 100,
    ("tensor", "wait:lead"): 10,
    ("load_queue", "work"): 300,
    ("load_queue", "wait:shared"): 50,
}
CLOCK = reading(SPENT, {"tensor": 940, "load_queue": 350, "scalar": 0}, 1000)
SPENT_BY = spent_by(CLOCK, (0,))


def test_each_engine_accounts_for_the_whole_time() -> None:
    totals = {e: sum(of.values()) for e, of in SPENT_BY.items()}
    assert totals == {"tensor": 1000, "load_queue": 1000}
    assert SPENT_BY["tensor"]["drain"] == 1000 - 940
    assert active_ticks(SPENT_BY["tensor"]) == 400 + 50 + 60
    assert busiest(SPENT_BY) == "tensor"


def test_the_split_names_bound_loads_waits_stalls_and_both_ends() -> None:
    found = split(SPENT_BY, peak=Peak(300, 320))
    assert (found.engine, found.end_ticks) == ("tensor", 1000)
    assert [(p.kind, p.what, p.ticks) for p in found.parts] == [
        ("bound", "useful work at peak", 300),
        ("excess", "excess work", 20),
        ("below peak", "work below peak", 80),
        ("loads", "wait:load", 200),
        ("waits", "wait:vector", 30),
        ("stalls", "wait:buffer:vector", 100),
        ("stalls", "throttle", 60),
        ("stalls", "weight_load", 50),
        ("stalls", "wait:lead", 10),
        ("fill and drain", "fill", 90),
        ("fill and drain", "drain", 60),
    ]
    assert sum(found.by_kind().values()) == 1000
    assert found.share(found.parts[0]) == 0.3


def test_without_a_peak_all_work_is_the_bound_and_a_peak_cannot_exceed_the_work() -> (
    None
):
    for peak in (None, Peak(10**6, 10**6), Peak(10**6, 400)):
        found = split(SPENT_BY, peak=peak)
        assert [found.by_kind()[k] for k in ("bound", "excess", "below peak")] == [
            400,
            0,
            0,
        ]
    queue = split(SPENT_BY, engine="load_queue")
    assert queue.by_kind() == {
        "bound": 300,
        "excess": 0,
        "below peak": 0,
        "loads": 0,
        "waits": 0,
        "stalls": 50,
        "fill and drain": 650,
    }


def test_the_core_that_ends_last_counts() -> None:
    end = np.array([[70, 90], [80, 90]])
    clock = reading(
        {("mul", "work"): np.array([[70, 60], [80, 10]])}, {"mul": end}, end, (2, 2)
    )
    assert last_core(clock) == (0, 1)
    assert spent_by(clock, (0, 1)) == {"mul": {"work": 60, "drain": 0}}


QUEUES = ("load", "store")


def test_queues_that_share_their_engines_are_one() -> None:
    events = [
        event("load", 10, 20),
        event("store", 15, 30, "vector"),
        event("load", 20, 25, "engine"),
        event("vector", 0, 99),
        event("load", 40, 50, "buffer:vector"),
        event("store", 71, 80, "vector"),
    ]
    one = together(events, QUEUES, "dma")
    assert [(e.engine, e.start, e.end, e.cause) for e in one] == [
        ("dma", 10, 30, ""),
        ("dma", 40, 50, "buffer:vector"),
        ("dma", 71, 80, "vector"),
    ]
    assert spent_together(events, QUEUES, 100) == {
        "fill": 10,
        "work": 20 + 10 + 9,
        "wait:buffer:vector": 10,
        "wait:vector": 21,
        "drain": 20,
    }
    assert spent_together([], QUEUES, 100) == {"drain": 100}


@pytest.mark.parametrize(("at_once", "shared"), [(4, 10), (10, 10), (15, 10)])
def test_work_at_once_is_work_of_the_wait_that_it_causes(
    at_once: int, shared: int
) -> None:
    """A load of 20 while the store works for `at_once`; the next load waits `shared` for that."""
    events = [
        event("load", 0, 20),
        event("store", 20 - at_once, 20, "vector"),
        event("load", 20 + shared, 50, "shared"),
    ]
    spent = collections.Counter(spent_together(events, QUEUES, 50))
    assert spent["work"] == min(50, 20 + at_once + 30 - shared)
    assert spent["wait:shared"] == max(0, shared - at_once)
    assert sum(spent.values()) == 50


# --- explain ---


def test_the_three_largest_parts_with_their_line_and_remedy() -> None:
    events = [
        event("tensor", 90, 100),
        event("vector", 0, 300, where="other.py:1"),
        event("tensor", 250, 260, "load", where="k.py:70"),
        event("tensor", 310, 320, "load", where="k.py:71"),
        event("tensor", 420, 430, "buffer:vector", where="k.py:72"),
    ]
    reasons = explain(split(SPENT_BY, peak=Peak(300, 320)), TICK_HZ, events)
    assert [(r.part.what, r.part.ticks, r.where) for r in reasons] == [
        ("wait:load", 200, "k.py:70"),
        ("wait:buffer:vector", 100, "k.py:72"),
        ("fill", 90, ""),
    ]
    assert reasons[0].sentence == (
        "Tensor Engine: waiting for loads, 20.0% (0.2 us), most of it at k.py:70; "
        f"{WAITED_FOR['load'][1]} "
        "(not tried; would lower total_time, 1.0 us, of which this is 0.2 us)."
    )
    assert "a buffer that Vector Engine still uses" in reasons[1].sentence


def test_waits_are_gaps_between_instructions_of_the_engine_by_line() -> None:
    events = [
        event("mul", 5, 10),
        event("add", 0, 99),
        event("mul", 14, 20, "load", where="k.py:1"),
        event("mul", 20, 30, "engine"),
        event("mul", 33, 40, "load", where="k.py:2"),
        event("mul", 41, 50, "add", where="k.py:1"),
    ]
    assert waits_by_line(events, "mul") == {
        "wait:load": {"k.py:1": 4, "k.py:2": 3},
        "wait:add": {"k.py:1": 1},
    }


@pytest.mark.parametrize("engine", ["tensor", "dma", "mul"])
@pytest.mark.parametrize("part", split(SPENT_BY, peak=Peak(300, 320)).parts)
def test_every_part_is_described_in_words(engine: str, part: Part) -> None:
    told, remedy = in_words(engine, part)
    assert told and ":" not in told and "_" not in told
    assert bool(remedy) == (part.kind != "bound")


# --- random programs ---


@settings(max_examples=25, derandomize=True, deadline=None)
@given(helpers.programs())
def test_random_programs_are_explained_to_the_tick(program) -> None:
    p = Program(functools.partial(helpers.kernel_of, program), MESH, ((),))
    core = last_core(p.read(THROTTLED, F32))
    clock = p.read(THROTTLED, F32, trace_core=core)
    spent = spent_by(clock, core)
    assert all(sum(of.values()) == clock.end_ticks for of in spent.values())
    for engine, of in spent.items():
        assert sum(x.ticks for x in split(spent, engine).parts) == clock.end_ticks
        # The events and the account are two mechanisms: their waits are the same.
        seen = {
            w: sum(of.values()) for w, of in waits_by_line(clock.events, engine).items()
        }
        booked = {
            w: t
            for w, t in of.items()
            if w.startswith("wait:") and t and w != "wait:peers"
        }
        assert seen == booked
        work = collections.Counter()
        for e in instructions(clock.events):
            work[e.engine] += e.end - e.start
        assert work[engine] == active_ticks(of) + of.get("wait:peers", 0)
    both = spent_together(clock.events, ("io", "dma"), clock.end_ticks)
    assert sum(both.values()) == clock.end_ticks
    has_path_and_trace(clock)


def has_path_and_trace(clock: Reading) -> None:
    """Asserts that the critical path tiles the time and that slices of a track do not overlap."""
    path = critical_path(clock.events, clock.end_ticks, clock.device.causes)
    assert sum(x.ticks for x in by_line(path)) == clock.end_ticks
    assert all(a.end == b.start for a, b in itertools.pairwise(path))
    data = perfetto.trace(clock.events, clock.device.tick_hz, process="core", path=path)
    until: dict[int, int] = collections.defaultdict(int)
    for e in data["traceEvents"]:
        if e["ph"] == "X":
            start = round(e["ts"] * 1000)
            assert start >= until[e["tid"]]
            until[e["tid"]] = start + round(e["dur"] * 1000)
    used = {
        e["name"]: e["args"]["bytes"] for e in data["traceEvents"] if e["ph"] == "C"
    }
    assert set(used.values()) <= {0}
