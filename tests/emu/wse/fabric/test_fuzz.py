"""Random fabric programs: the fast paths against a plain simulation, wavelet by wavelet."""

import collections

import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, given, settings

from emu.datasheet import Device
from emu.errors import EmulationError
from emu.wse import WSE2, WSE3, stepper
from emu.wse.fabric.cycles import run as cycle_run
from emu.wse.fabric.cycles import verdict
from emu.wse.fabric.encoding.encode import Encoded, encode
from emu.wse.fabric.errors import FabricError
from emu.wse.fabric.program import FabricProgram
from emu.wse.fabric.trains import flow
from tests.emu.wse.fabric.random_programs import (
    HEIGHT,
    MANY_COLORS,
    WIDTH,
    data,
    programs,
    wide_shape,
)
from tests.emu.wse.fabric.wavelet_routers import Simulated
from tests.emu.wse.fabric.wavelets import simulate

PES = HEIGHT * WIDTH
FEW = settings(
    max_examples=20,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
    phases=(Phase.explicit, Phase.reuse, Phase.generate),  # shrinking takes minutes
)
MANY = settings(FEW, max_examples=1000)


def stepped(e: Encoded) -> tuple[cycle_run.Cycles, str]:
    """The cycle path of a program and how it ended."""
    run = cycle_run.run(e, watch=np.arange(PES), profiled=True, shape=wide_shape(e))
    try:
        verdict.check(e, run)
    except FabricError as error:
        return run, type(error).__name__
    return run, "ok"


def verdict_of(plain: Simulated) -> str:
    if plain.mixed:
        return "TwoArrivals"
    if plain.stuck:
        return "Deadlock"
    if plain.unread or plain.stranded:
        return "Unread"
    return "FabricError" if plain.shared else "ok"


def check_stepped(program: FabricProgram, device: Device) -> None:
    """Every dispatch, end and link of the cycle path is the plain simulation's."""
    try:
        e = encode(program, device)
    except EmulationError:
        return  # a program that is refused before it runs
    plain = simulate(e)
    run, ended = stepped(e)
    assert ended == verdict_of(plain)
    if ended == "TwoArrivals":
        return  # what follows the first one is not defined
    assert sorted(run.order.rows()) == sorted(plain.order)
    assert run.counters is not None
    end, links = run.state.end, run.counters.links
    assert {n: end[n] for n in np.flatnonzero(end)} == {
        n: t for n, t in plain.ends.items() if t
    }
    assert {(d, n): links[d, n] for d, n in np.argwhere(links)} == dict(plain.links)
    check_conserved(program, plain, links, run)


def check_conserved(
    program: FabricProgram, plain: Simulated, links: np.ndarray, run: cycle_run.Cycles
) -> None:
    """Nothing is lost, doubled or overtaken: each receiver reads each sender's words in order.

    On routes that merge, copies may come on several ways: each way brings every word once.
    """
    merges = {
        c.index for c in program.colors.values() if (c.receive & (c.receive - 1)).any()
    }
    for (_, pe), tags in plain.read.items():
        by_sender = collections.defaultdict(list)
        for sender, color, number in tags:
            by_sender[sender, color].append(number)
        for (_, color), numbers in by_sender.items():
            ways = collections.Counter(numbers)
            assert sorted(ways) == list(range(min(ways), max(ways) + 1))
            assert all(ways[n] >= ways[n + 1] for n in sorted(ways))
            assert color in merges or numbers == sorted(ways)
        into = sum(len(t) for (_, p), t in plain.read.items() if p == pe)
        under_way = run.state.inputs_held[:, pe].sum()
        assert into + under_way == links[4, pe]


@FEW
@given(programs())
def test_stepping_is_the_plain_simulation(program: FabricProgram) -> None:
    for sheet in (WSE2, WSE3):
        check_stepped(program, sheet.at())


@pytest.mark.slow
@settings(MANY, max_examples=4500)
@given(programs())
def test_stepping_is_the_plain_simulation_thousands_of_times(
    program: FabricProgram,
) -> None:
    for sheet in (WSE2, WSE3):
        check_stepped(program, sheet.at())


@pytest.mark.slow
@settings(MANY, max_examples=500)
@given(programs(colors=MANY_COLORS))
def test_stepping_18_colors_is_the_plain_simulation(program: FabricProgram) -> None:
    for sheet in (WSE2, WSE3):
        check_stepped(program, sheet.at())


def check_trains(program: FabricProgram, device: Device) -> None:
    """Where the trains may be believed they are the cycle path; both refuse the same programs."""
    try:
        e = encode(program, device)
    except EmulationError:
        return
    assert e.straight
    run, ended = stepped(e)
    try:
        flowed = flow.run(e, data(0), timed=True)
    except FabricError:
        assert ended != "ok"
        with pytest.raises(FabricError) as refused:
            stepper.run(program, device, data(0))
        assert type(refused.value).__name__ == ended
        return
    if flowed.times is None:
        assert flowed.why
        return
    assert ended in ("ok", "Unread")
    assert run.counters is not None
    assert (flowed.times.ends.reshape(-1) == run.state.end).all()
    assert (flowed.times.links.reshape(5, -1) == run.counters.links).all()


@FEW
@given(programs(straight=True))
def test_trains_are_the_cycle_path(program: FabricProgram) -> None:
    for sheet in (WSE2, WSE3):
        check_trains(program, sheet.at())


@pytest.mark.slow
@MANY
@given(programs(straight=True))
def test_trains_are_the_cycle_path_a_thousand_times(program: FabricProgram) -> None:
    for sheet in (WSE2, WSE3):
        check_trains(program, sheet.at())
