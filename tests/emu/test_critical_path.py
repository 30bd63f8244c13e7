"""The chain that made a core take as long as it did, on schedules worked out by hand."""

import itertools

from hypothesis import given
from hypothesis import strategies as st

from emu.clock.reading import Event
from emu.report.critical_path import by_line, critical_path, instructions


def event(engine: str, start: int, end: int, cause: str = "", **more) -> Event:
    """An instruction of one engine; written when its engine is free unless said otherwise."""
    done = more.pop("done", end)
    given = {
        "name": f"{engine}.op",
        "ready": done,
        "where": f"k.py:{len(engine)}",
    } | more
    return Event(engine=engine, start=start, end=end, done=done, cause=cause, **given)


CAUSES = {"load_queue": "load"}

# Two loads of 10 with 30 of latency after each, two matmuls of 5, each on one load.
LOADS = [
    event("load_queue", 0, 10, ready=40),
    event("load_queue", 10, 20, "engine", ready=50),
]
MATMULS = [
    event("tensor", 40, 45, "load", ready=60),
    event("tensor", 50, 55, "load", ready=70),
]
SCHEDULE = [LOADS[0], MATMULS[0], LOADS[1], MATMULS[1]]


def test_an_operand_leads_to_what_made_it_and_its_engine_to_what_went_before() -> None:
    path = critical_path(SCHEDULE, 70, CAUSES)
    assert [(s.event, s.start, s.end) for s in path] == [
        (LOADS[0], 0, 10),
        (LOADS[1], 10, 50),
        (MATMULS[1], 50, 70),
    ]


def test_time_by_line_tells_work_from_latency() -> None:
    lines = by_line(critical_path(SCHEDULE, 70, CAUSES))
    assert [(x.engine, x.count, x.ticks, x.busy) for x in lines] == [
        ("load_queue", 2, 50, 20),
        ("tensor", 1, 20, 5),
    ]


def test_a_buffer_leads_to_the_reader_that_held_it() -> None:
    reader = event("vector", 5, 25)
    events = [
        event("tensor", 0, 5),
        reader,
        event("scalar", 0, 25),
        event("tensor", 25, 30, "buffer:vector"),
    ]
    assert [s.event.engine for s in critical_path(events, 30)] == ["vector", "tensor"]


def test_an_operand_that_must_be_ready_some_time_before_still_leads_to_its_maker() -> (
    None
):
    maker = event("load_queue", 0, 10, ready=30)
    events = [maker, event("tensor", 0, 33), event("tensor", 35, 40, "lead")]
    assert [s.event for s in critical_path(events, 40, CAUSES)] == [maker, events[-1]]


def test_states_and_tiles_are_no_instructions() -> None:
    extra = [
        event("throttle", 0, 60, name="half clock"),
        event("sbuf in use", 0, 70, name="128"),
        event("psum in use", 0, 70, name="128"),
    ]
    assert instructions([*extra, *SCHEDULE]) == SCHEDULE
    assert critical_path([*extra, *SCHEDULE], 70, CAUSES) == critical_path(
        SCHEDULE, 70, CAUSES
    )


def test_no_instructions_no_path() -> None:
    assert critical_path([], 0) == [] and by_line([]) == []


ENGINES = ("load_queue", "tensor", "vector")


@st.composite
def schedules(draw) -> list[Event]:
    """Instructions in program order, each starting when its engine and one operand allow."""
    free, events = dict.fromkeys(ENGINES, 0), []
    for i in range(draw(st.integers(1, 25))):
        engine = draw(st.sampled_from(ENGINES))
        on = draw(st.sampled_from([None, *events]))
        ready, maker = (on.ready, on.engine) if on else (0, "")
        cause = "engine" if free[engine] >= ready else CAUSES.get(maker, maker)
        start = max(free[engine], ready)
        end = start + draw(st.integers(1, 9))
        done = end + draw(st.integers(0, 9))
        free[engine] = end
        events.append(event(engine, start, end, cause, done=done, where=f"k.py:{i}"))
    return events


@given(schedules())
def test_the_path_tiles_the_time_and_follows_the_program(events: list[Event]) -> None:
    end = max(max(e.end, e.ready) for e in events)
    path = critical_path(events, end, CAUSES)
    assert (path[0].start, path[-1].end) == (0, end)
    assert all(a.end == b.start for a, b in itertools.pairwise(path))
    at = [events.index(s.event) for s in path]
    assert at == sorted(at)
    assert sum(x.ticks for x in by_line(path)) == end
    # Nothing but instructions that follow on each other exactly: no time is unexplained.
    for a, b in itertools.pairwise(path):
        assert b.event.start in (a.event.end, a.event.ready)
