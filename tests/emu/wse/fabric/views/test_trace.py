"""What is told of a stepped run: states, spans, traces, drawings, phases and totals agree."""

import collections
import functools
import itertools
import json

import numpy as np
import pytest

from emu.datasheet import Device
from emu.wse import WSE2, WSE3
from emu.wse.fabric import stepper
from emu.wse.fabric.cycles import log
from emu.wse.fabric.cycles import states as cycle_states
from emu.wse.fabric.ops import Code, Stamp, add, copy, receive, send
from emu.wse.fabric.program import FabricProgram
from emu.wse.fabric.result import Run
from emu.wse.fabric.views import summary
from emu.wse.fabric.views.drawing import drawn
from emu.wse.fabric.views.spans import spans
from emu.wse.fabric.views.trace import trace
from kernels.wse.programs.microbench import one_way, vector_op

WORDS = 12


def local(device: Device) -> FabricProgram:
    """One PE: 40 float32 added, both sources in one bank."""
    return vector_op(device, "add", "float32", 40, bank_conflict=True)


def chain(device: Device) -> FabricProgram:
    """Four PEs to the west of each other add what comes to their own."""
    p = FabricProgram(4)
    x = p.buffer("x", WORDS)[:]
    for k, c in enumerate(("a", "b", "c")):
        p.route(c, (0, k + 1), receive="ramp", send="west")
        p.route(c, (0, k), receive="east", send="ramp")
    p.task("main", [Stamp("begin"), copy(send("c"), x)], (0, 3), start=True)
    p.task("main", [add(send("b"), receive("c"), x)], (0, 2), start=True)
    p.task("main", [add(send("a"), receive("b"), x)], (0, 1), start=True)
    p.task("main", [add(x, receive("a"), x), Code(5, "check")], (0, 0), start=True)
    return p


def threads(device: Device) -> FabricProgram:
    """A microthread's send that fills its queue, and a task at its end."""
    return one_way(40, 3)


PROGRAMS = {"local": (local, WSE2), "chain": (chain, WSE3), "threads": (threads, WSE3)}
EACH = pytest.mark.parametrize("name", PROGRAMS)


@functools.cache
def run(name: str) -> Run:
    """A program stepped, with all PEs traced."""
    build, sheet = PROGRAMS[name]
    device = sheet.at()
    return stepper.run(
        build(device),
        device,
        path="cycles",
        watch=np.s_[:],
        links=True,
        profile=True,
        phases=True,
    )


def states(name: str) -> np.ndarray:
    stepped = run(name).stepped
    assert stepped is not None
    return stepped.states


# --- states, totals and phases ---


@EACH
def test_every_cycle_of_every_pe_is_told_once(name: str) -> None:
    r = run(name)
    assert sum(summary.pe_cycles(r).values()) == r.cycles * r.ends.size
    assert min(summary.pe_cycles(r).values()) >= 0


@EACH
def test_states_of_threads_are_what_the_counters_count(name: str) -> None:
    s, r = states(name), run(name)
    held = np.isin(s, (cycle_states.ISSUING, cycle_states.CONFLICT))
    assert (held.sum(axis=1) <= 1).all()  # a datapath serves one thread
    assert (held.any(axis=1).sum(axis=0) == r.profile["datapath"].reshape(-1)).all()
    for state, what in (
        (cycle_states.CONFLICT, "bank conflict"),
        (cycle_states.DATAPATH_BUSY, "datapath busy"),
    ):
        counted = (s == state).any(axis=1).sum(axis=0)
        assert (counted == r.profile[what].reshape(-1)).all()


@EACH
def test_phases_hold_every_issue_and_do_not_depend_on_chunks(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    r = run(name)
    assert sum(p.datapath_cycles for p in r.phases) == summary.pe_cycles(r)["datapath"]
    assert max(p.last_cycle for p in r.phases) == r.cycles
    monkeypatch.setattr(log, "FEWEST_ROWS", 3)
    monkeypatch.setattr(log, "MOST_ROWS", 3)
    again = stepper.run(r.encoded.program, r.encoded.device, path="cycles", phases=True)
    assert again.phases == r.phases


def test_phases_of_a_local_operation_by_hand() -> None:
    """A stamp takes 17 cycles; set-up 2, 40 elements of two cycles in one bank, drain 4."""
    first, operation, last = run("local").phases
    assert (first.what, first.first_cycle, first.last_cycle) == ("stamp 'start'", 0, 17)
    assert (operation.what, operation.task) == ("add y, x -> y", "main")
    assert (operation.first_cycle, operation.last_cycle) == (17, 17 + 2 + 80 + 4)
    assert (operation.datapath_cycles, operation.spent_cycles) == (80, 86)
    assert last.first_cycle == operation.last_cycle
    assert summary.stalls(run("local"))["bank conflict"] == 40


def test_trains_and_steps_tell_the_same_phases_and_links() -> None:
    stepped = run("chain")
    trains = stepper.run(
        stepped.encoded.program,
        stepped.encoded.device,
        path="trains",
        links=True,
        phases=True,
    )
    assert trains.phases == stepped.phases
    assert summary.links(trains) == summary.links(stepped)


def test_links_and_routes_by_hand() -> None:
    r = run("threads")
    east, ramp = summary.links(r)
    assert (east.direction, east.wavelets, east.links, east.most) == (
        "east",
        3 * 40,
        3,
        40,
    )
    assert (ramp.direction, ramp.wavelets, ramp.x) == ("ramp", 40, 3)
    assert summary.wavelet_hops(r) == 3 * 40 and summary.longest_route(r) == (3, "out")
    assert json.loads(json.dumps(summary.as_json(r)))["wavelet_hops"] == 120


@EACH
def test_hops_by_color_are_those_of_the_links(name: str) -> None:
    r = run(name)
    colors = summary.hops_by_color(r)
    assert sum(sum(of.values()) for of in colors.values()) == summary.wavelet_hops(r)
    if name == "chain":
        assert colors == {c: {"west": WORDS} for c in "abc"}


def test_phases_that_read_alike_are_merged() -> None:
    phases = run("chain").phases
    twice = summary.merged(phases + phases)
    assert [p.what for p in twice] == [p.what for p in summary.merged(phases)]
    assert sum(p.spent_cycles for p in twice) == 2 * sum(p.spent_cycles for p in phases)


# --- spans, traces, drawings ---


@EACH
def test_spans_cover_what_is_not_idle_and_never_overlap(name: str) -> None:
    r = run(name)
    assert r.stepped is not None
    found = spans(r.encoded, r.stepped)
    assert (
        sum(s.end - s.start for s in found) == (states(name) != cycle_states.IDLE).sum()
    )
    for _, track in itertools.groupby(found, key=lambda s: (s.pe, s.thread)):
        assert all(a.end <= b.start for a, b in itertools.pairwise(track))


@EACH
def test_a_trace_has_a_process_per_pe_and_a_track_per_thread(name: str) -> None:
    r = run(name)
    assert r.stepped is not None
    data = json.loads(json.dumps(trace(r.encoded, r.stepped)))["traceEvents"]
    assert {e["ph"] for e in data} == {"M", "X", "i"}
    named = {(e["pid"], e["tid"]) for e in data if e["name"] == "thread_name"}
    assert len({pid for pid, _ in named}) == r.ends.size
    tracks = collections.defaultdict(list)
    for e in data:
        if e["ph"] == "X":
            tracks[e["pid"], e["tid"]].append(e)
            cycles = e["args"]["end_cycles"] - e["args"]["start_cycles"]
            assert round(e["dur"] * 1000) == cycles > 0
            assert round(e["ts"] * 1000) == e["args"]["start_cycles"]
    assert set(tracks) <= named
    for track in tracks.values():
        for a, b in itertools.pairwise(track):
            assert a["ts"] + a["dur"] <= b["ts"]


def test_a_trace_marks_tasks_and_stamps() -> None:
    r = run("threads")
    assert r.stepped is not None
    marks = [
        (e["name"], e["args"]["cycle"])
        for e in trace(r.encoded, r.stepped)["traceEvents"]
        if e["ph"] == "i"
    ]
    end = int(r.stamps["end"].max())
    assert ("task 'send'", 0) in marks and ("task 'receive'", 0) in marks
    assert marks[-2:] == [("task 'arrived'", end), ("stamp 'end'", end)]


def test_waits_have_the_vendors_names() -> None:
    found = {
        (s.thread, s.name(r.encoded))
        for r in (run("threads"),)
        if r.stepped
        for s in spans(r.encoded, r.stepped)
    }
    assert {
        (1, "queue full"),
        (1, "waiting for wavelets"),
        (1, "set-up"),
        (0, "start of microthread 1"),
        (1, "copy data -> send 'out'"),
    } <= found


def test_a_drawing_by_hand() -> None:
    """A stamp of 17 cycles, set-up 2, then issues and conflicts in turn."""
    r = run("local")
    assert r.stepped is not None
    row, scale, legend = drawn(r.encoded, r.stepped, columns=200).splitlines()
    assert row == f"(x=0, y=0) {'▒' * 19}{'█▓' * 40}{'▒' * 21}  67%"
    assert scale.endswith("120 cycles") and legend.split("  ")[0] == "▓ bank conflict"
    narrow = drawn(r.encoded, r.stepped, columns=12).splitlines()[0]
    assert narrow == f"(x=0, y=0) ▒▒{'▓' * 8}▒▒  67%"
