"""What comes after all else a core has to do: read once, and true whenever it comes."""

import functools

import numpy as np
import pytest
from jax import lax

from emu import Known, Program
from emu.clock.ticks import LATE, is_late
from emu.loops import classes
from emu.loops.late import times_late
from tests import helpers
from tests.helpers import F32, THROTTLED, TOY, counted, fetch, hop, op, tile

CORES, HOPS, TILES = 4, 16, 5
WORK = dict(busy=4, latency=9)


def waiting_kernel(x, delays, kinds):
    """Each hop is sent after a delay of its own; tiles read what arrived, or do not."""

    def tile_step(arrived, acc, kind):
        def of_its_own(acc):
            return op(acc, acc, engine="io", **WORK)

        def of_what_arrived(acc):
            passing = op(tile(buffers=2), arrived, engine="mul", busy=40, latency=45)
            return op(acc, passing, engine="add", **WORK)

        def of_both(acc):
            aside = op(tile(buffers=2), acc, engine="io", **WORK)
            acc = op(acc, aside, engine="mul", **WORK)
            return of_what_arrived(acc)

        cases = [lambda acc: acc, of_its_own, of_what_arrived, of_both]
        return lax.switch(kind.astype(np.int32), cases, acc), None

    def step(carry, xs):
        held, spare, acc = carry
        delay, row = xs
        held = counted(held, held, delay, engine="dma", busy=1)
        arrived = hop(spare, held, axis="r", engine="dma", busy=3, latency=11)
        acc, _ = lax.scan(functools.partial(tile_step, arrived), acc, row)
        return (arrived, held, acc), None

    start = tuple(fetch(tile(), x, engine="io", busy=1, latency=1) for _ in range(3))
    return lax.scan(step, start, (delays, kinds))[0]


def reading(seed, device, **options):
    """Of cores that have the same tiles in every hop, or in every second, and random delays."""
    rng = np.random.default_rng(seed)
    longest = rng.choice([150, 600, 9000])
    delays = rng.integers(0, longest, (CORES, HOPS)).astype(np.int32)
    kinds = rng.integers(0, 4, (CORES, 2, TILES)).astype(np.int8)
    kinds = kinds[:, np.arange(HOPS) % rng.integers(1, 3)]
    program = Program(waiting_kernel, {"r": CORES}, ((), ("r",), ("r",)))
    return program.read(device, F32, Known(delays), Known(kinds), **options)


@pytest.fixture
def left_open(monkeypatch):
    """The arrivals of cores that were told what a loop does without its time."""
    found = []

    class Told(classes.Merge):
        def __init__(self, entry, outcomes, ids, base, late, traced):
            super().__init__(entry, outcomes, ids, base, late, traced)
            found.extend(late[late > 0].tolist())

    monkeypatch.setattr(classes, "Merge", Told)
    return found


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize("device", [TOY, THROTTLED], ids=["steady", "throttled"])
def test_an_arrival_left_open_is_as_if_it_were_walked(seed, device, left_open):
    found, stepped = reading(seed, device), reading(seed, device, jump=False)
    helpers.same_clock(found, stepped)
    helpers.adds_up(found)
    assert left_open
    assert found.stepped < stepped.stepped


def test_a_traced_core_is_walked_as_it_is(left_open):
    for core in ((0,), (2,)):
        found = reading(0, TOY, trace_core=core)
        helpers.same_clock(found, reading(0, TOY, jump=False, trace_core=core))
    assert left_open


def test_sums_tell_how_often_an_arrival_is_in_them():
    assert times_late(812) == (0, 812)
    assert times_late(LATE + 20 - 100) == (1, -80)
    assert times_late(2 * LATE + 5) == (2, 5)
    assert is_late(LATE - 100) and not is_late(10**15)
