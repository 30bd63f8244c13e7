"""The stepper's front: the path it takes, and errors that name the PE, the color and the cycle."""

import dataclasses

import jax
import numpy as np
import pytest

from emu.errors import LimitExceeded, OutOfMemory
from emu.wse import WSE2, WSE3, WSE3_SILICON
from emu.wse.fabric import ops, stepper
from emu.wse.fabric.cycles import run as cycle_run
from emu.wse.fabric.encoding.encode import encode
from emu.wse.fabric.errors import (
    Deadlock,
    Endless,
    FabricError,
    TwoArrivals,
    Unread,
)
from emu.wse.fabric.ops import copy, receive, send
from emu.wse.fabric.program import FabricProgram
from tests.emu.wse.fabric.wavelets import simulate

DEVICE = WSE3.at()


def pair(sent: int = 4, taken: int = 4, **where: str) -> FabricProgram:
    """PE 1 sends to its western neighbour, which takes what it takes."""
    p = FabricProgram(2)
    x = p.buffer("x", 64)
    p.route("red", np.s_[0, 1], receive="ramp", send=where.get("send", "west"))
    p.route("red", np.s_[0, 0], receive=where.get("receive", "east"), send="ramp")
    p.task("send", [copy(send("red"), x[:sent])], np.s_[0, 1], start=True)
    p.task("take", [copy(x[:taken], receive("red"))], np.s_[0, 0], start=True)
    return p


def test_both_paths_and_why_one_was_taken() -> None:
    trains = stepper.run(pair(), DEVICE, {"x": np.arange(64, dtype=np.float32)})
    cycles = stepper.run(pair(), DEVICE, {"x": 0.0}, path="cycles")
    assert (trains.path, trains.why) == ("trains", "")
    assert (cycles.path, cycles.why) == ("cycles", stepper.ASKED)
    # the sender's set-up 4, the push, ramp, hop, ramp; four words; drain 4
    assert trains.cycles == cycles.cycles == 4 + 1 + 2 + 2 + 2 + 4 + 4
    assert trains.values["x"][0, 0, :4].tolist() == [0, 1, 2, 3]
    assert (
        stepper.run(pair(), WSE2.at(), path="trains").cycles
        == 17 + 1 + 2 + 1 + 2 + 4 + 4
    )


@pytest.mark.parametrize("hasty_cycles", [7, 10_000])
def test_how_the_step_is_compiled_changes_nothing(
    hasty_cycles: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run of 60 words that goes on, from its cycle 7, in the step that is compiled well."""
    encoded = encode(pair(sent=60, taken=60), DEVICE)

    def cycles(hasty_cycles: int) -> cycle_run.Cycles:
        monkeypatch.setattr(cycle_run, "FEWEST_HASTY_CYCLES", 1)
        monkeypatch.setattr(cycle_run, "HASTY_PE_CYCLES", 2 * hasty_cycles)
        return cycle_run.run(encoded, watch=np.arange(2), profiled=True)

    well, found = cycles(0), cycles(hasty_cycles)
    assert well.cycles == found.cycles > 60
    for expected, got in zip(
        jax.tree.leaves(parts(well)), jax.tree.leaves(parts(found))
    ):
        np.testing.assert_array_equal(got, expected)


def test_a_sender_of_two_words_an_issue_waits_for_room_for_both() -> None:
    encoded = encode(pair(sent=60, taken=60), DEVICE)
    found = cycle_run.run(encoded, watch=np.arange(2))
    plain = simulate(encoded)
    assert sorted(found.order.rows()) == sorted(plain.order)
    assert found.state.end.tolist() == [plain.ends[0], plain.ends[1]]
    # Its queue fills: it sends faster than its router takes.
    assert np.flatnonzero(found.issues[:, 1] == 0).max() > 60 // 2 + 4


def parts(run: cycle_run.Cycles) -> tuple[object, ...]:
    """What a run shows, in arrays and numbers."""
    assert run.counters is not None
    state, counters = map(dataclasses.astuple, (run.state, run.counters))
    return state, counters, run.order.rows(), run.issues, run.steps, run.last


def test_trains_are_refused_where_they_cannot_tell() -> None:
    p = pair()
    p.task("late", [ops.Code(1)], np.s_[0, 0])
    with pytest.raises(
        stepper.NotTrains, match="tasks that start one another; use path='auto'"
    ):
        stepper.run(p, DEVICE, path="trains")
    with pytest.raises(
        LimitExceeded, match="path is 'fast', must be one of auto, trains, cycles"
    ):
        stepper.run(pair(), DEVICE, path="fast")


@pytest.mark.parametrize("path", ["auto", "cycles"])
def test_a_receiver_that_waits_for_ever(path: str) -> None:
    with pytest.raises(FabricError, match=r"PE \(x=0, y=0\).* color 'red'"):
        stepper.run(pair(sent=4, taken=5), DEVICE, path=path)


def test_deadlock_names_the_cycle() -> None:
    with pytest.raises(
        Deadlock, match=r"deadlock in cycle \d+: PE \(x=0, y=0\) waits for 1 wavel"
    ):
        stepper.run(pair(sent=4, taken=5), DEVICE, path="cycles")


def test_a_sender_whose_words_nobody_takes() -> None:
    p = pair(sent=60, taken=2)
    with pytest.raises(
        Deadlock, match=r"PE \(x=1, y=0\) cannot send \d+ wavelets on color 'red'"
    ):
        stepper.run(p, DEVICE, path="cycles")


@pytest.mark.parametrize("path", ["auto", "cycles"])
def test_wavelets_left_in_a_queue(path: str) -> None:
    with pytest.raises(FabricError, match=r"2 .*color 'red'.*PE \(x=0, y=0\)"):
        stepper.run(pair(sent=4, taken=2), DEVICE, path=path)
    with pytest.raises(Unread, match=r"in cycle \d+"):
        stepper.run(pair(sent=4, taken=2), DEVICE, path="cycles")


def test_two_arrivals_on_a_color_in_a_cycle() -> None:
    p = FabricProgram(3)
    x = p.buffer("x", 4)
    for at, side in ((0, "east"), (2, "west")):
        p.route("red", np.s_[0, at], receive="ramp", send=side)
        p.task("send", [copy(send("red"), x[:])], np.s_[0, at], start=True)
    p.route("red", np.s_[0, 1], receive=("west", "east"), send="ramp")
    p.task(
        "take",
        [copy(x[:], receive("red")), copy(x[:], receive("red"))],
        np.s_[0, 1],
        start=True,
    )
    # set-up 4, the push, the ramp and a hop
    with pytest.raises(
        TwoArrivals, match=r"color 'red' reached PE \(x=1, y=0\) in cycle 9;"
    ):
        stepper.run(p, DEVICE)


def test_tasks_that_start_one_another_for_ever() -> None:
    p = FabricProgram(1)
    p.task("a", [ops.Activate("b")], start=True)
    p.task("b", [ops.Activate("a")])
    with pytest.raises(Endless, match="still running after 500 cycles: raise"):
        stepper.run(p, DEVICE, limit_cycles=500)


def test_a_task_that_stays_blocked() -> None:
    p = FabricProgram(1)
    p.task("a", [ops.Code(3)], start=True, blocked=True)
    with pytest.raises(
        Deadlock, match="'a' of PE .* is active but is blocked and nobody unbl"
    ):
        stepper.run(p, DEVICE)


def test_routes_that_go_nowhere() -> None:
    with pytest.raises(
        FabricError, match=r"'red': PE \(x=1, y=0\) sends east, off the edge"
    ):
        stepper.run(pair(send="east"), DEVICE)
    with pytest.raises(
        FabricError, match=r"sends west, where the router does not receive from ea"
    ):
        stepper.run(pair(receive="ramp"), DEVICE)


def test_a_merging_route_in_a_circle() -> None:
    p = FabricProgram(2, 2)
    x = p.buffer("x", 1)
    around = ((0, 0, "south", "east"), (0, 1, "west", "south"), (1, 1, "north", "west"))
    for y, at, receive_from, to in around:
        p.route("red", np.s_[y, at], receive=receive_from, send=to)
    p.route("red", np.s_[1, 0], receive=("east", "ramp"), send="north")
    p.task("send", [copy(send("red"), x[:])], np.s_[1, 0], start=True)
    with pytest.raises(FabricError, match="'red': its route turns in a circle"):
        stepper.run(p, DEVICE)


def test_more_than_the_hardware_has() -> None:
    p = FabricProgram(2)
    p.buffer("x", 11_000, where=np.s_[0, 0])
    p.buffer("y", 1_000, where=np.s_[0, 1])
    with pytest.raises(
        OutOfMemory, match=r"PE \(x=1, y=0\): 52176 bytes .* its SRAM has 49152"
    ):
        stepper.run(p, DEVICE)
    with pytest.raises(LimitExceeded, match="width is 756, WSE-3 has 755"):
        stepper.run(FabricProgram(756), DEVICE)
    with pytest.raises(
        LimitExceeded, match="a stream takes 1.125 cycles a wavelet; the stepper"
    ):
        stepper.run(pair(), WSE3_SILICON.at())
    wide = FabricProgram(1)
    wide.color("red", input_queue=8)
    with pytest.raises(LimitExceeded, match="queue 8, WSE-3 has 0 to 7"):
        stepper.run(wide, DEVICE)


def test_data_tasks_start_by_their_wavelets_alone() -> None:
    p = pair()
    p.task("heard", [ops.Code(1)], np.s_[0, 0], on_wavelet="red", start=True)
    with pytest.raises(
        FabricError, match="'heard' starts with the program and on wavelets of 're"
    ):
        stepper.run(p, DEVICE)
    p = pair()
    p.task("heard", [ops.Code(1)], np.s_[0, 1], on_wavelet="red")
    p.task("other", [ops.Activate("heard")], np.s_[0, 1], start=True)
    with pytest.raises(FabricError, match="'other' activates a data task"):
        stepper.run(p, DEVICE)


def test_bank_conflicts_cost_what_the_datasheet_says() -> None:
    def one(bank: int) -> int:
        p = FabricProgram(1)
        x, y = p.buffer("x", 100, bank=0), p.buffer("y", 100, bank=bank)
        p.task("go", [ops.add(x[:], x[:], y[:])], start=True)
        return stepper.run(p, WSE2.at(), path="cycles").cycles

    assert one(1) == 6 + 100 and one(4) == 6 + 200
