"""What is there before anything asks for it: one reading holds however early it comes."""

import functools
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
from jax import lax

from emu import Known, Program
from emu.clock.resources import Row
from emu.loops import classes
from tests import helpers
from tests.helpers import F32, THROTTLED, TOY, counted, fetch, hop, op, part, tile

CORES, HOPS, TILES = 3, 10, 3
WORK = dict(busy=30, latency=45)


def busy_kernel(x, delays, kinds, gives_back):
    """Keys and values that arrive are read behind a core's own work, at once, or not at all.

    A third tile goes with them. If the loop gives it back, it has a time of its own where nobody
    writes it.
    """

    def of_kind(keys, values, kind, carry, _):
        acc, third = carry

        def read_late(acc, third):
            acc = op(acc, acc, engine="io", **WORK)
            copied = op(tile(buffers=2), keys, engine="io", busy=2, latency=7)
            return op(acc, copied, engine="add", **WORK), third

        def read_at_once(acc, third):
            copied = op(tile(buffers=2), keys, engine="mul", busy=5, latency=6)
            copied = op(copied, values, engine="mul", busy=5, latency=6)
            return op(acc, copied, engine="io", **WORK), third

        def left_alone(acc, third):
            return op(acc, acc, engine="io", **WORK), third

        def written_in_parts(acc, third):
            acc = op(acc, acc, engine="io", **WORK)
            return acc, part(third, acc, engine="add", busy=1, latency=2)

        cases = [read_late, read_at_once, left_alone, written_in_parts]
        return lax.switch(kind, cases, acc, third), None

    def tile_step(keys, values, carry, kind):
        kind = kind.astype(np.int32)
        if gives_back:
            body = functools.partial(of_kind, keys, values, kind)
            return lax.scan(body, carry, None, length=2)[0], None

        def alone(acc, _):
            # Who has no third tile to give back writes none.
            (acc, _), _ = of_kind(keys, values, kind % 3, (acc, acc), None)
            return acc, None

        acc, third = carry
        return (lax.scan(alone, acc, None, length=2)[0], third), None

    def step(carry, xs):
        held, spare, acc = carry
        delay, row = xs
        delayed = functools.partial(counted, engine="dma", busy=1)
        held = [delayed(tile, tile, delay[i]) for i, tile in enumerate(held)]
        send = functools.partial(hop, axis="r", engine="dma", busy=3, latency=11)
        keys, values, third = [send(*pair) for pair in zip(spare, held)]
        body = functools.partial(tile_step, keys, values)
        if gives_back:
            (acc, third), _ = lax.scan(body, (acc, third), row)
            acc = op(acc, third, engine="add", busy=1, latency=2)
        else:
            alone = lambda acc, kind: (body((acc, None), kind)[0][0], None)  # noqa: E731
            acc, _ = lax.scan(alone, acc, row)
        return ([keys, values, third], held, acc), None

    made = [fetch(tile(), x, engine="io", busy=1, latency=1) for _ in range(7)]
    return lax.scan(step, (made[:3], made[3:6], made[6]), (delays, kinds))[0]


def reading(seed, device, gives_back=False, **options):
    """Of cores with the same tiles in every hop, or in every second; keys come by chance."""
    rng = np.random.default_rng(seed)
    longest = rng.choice([40, 400, 3000])
    delays = rng.integers(0, longest, (CORES, HOPS, 3)).astype(np.int32)
    kinds = rng.integers(0, 4, (CORES, 2, TILES)).astype(np.int8)
    kinds = kinds[:, np.arange(HOPS) % rng.integers(1, 3)]
    kernel = functools.partial(busy_kernel, gives_back=gives_back)
    program = Program(kernel, {"r": CORES}, ((), ("r",), ("r",)))
    return program.read(device, F32, Known(delays), Known(kinds), **options)


@pytest.fixture(params=[False, True], ids=["walked", "looked_up"])
def inner_loops(request, monkeypatch):
    """Whether loops inside a core that is read alone are looked up, however small they are."""
    if request.param:
        monkeypatch.setattr(classes, "SMALL", 0)


@pytest.fixture
def taken_over(monkeypatch):
    """Whether each core that was in a new state took over what the loop does from another."""
    found = []

    class Counted(classes.Met):
        def holds(self, state):
            found.append(super().holds(state))
            return found[-1]

    monkeypatch.setattr(classes, "Met", Counted)
    return found


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("device", [TOY, THROTTLED], ids=["steady", "throttled"])
@pytest.mark.parametrize("gives_back", [False, True], ids=["keeps", "gives_back"])
def test_early_operands_are_as_if_they_were_walked(
    seed, device, gives_back, inner_loops
):
    found = reading(seed, device, gives_back)
    stepped = reading(seed, device, gives_back, jump=False)
    helpers.same_clock(found, stepped)
    helpers.adds_up(found)


def test_some_states_are_taken_over_and_some_are_not(taken_over, monkeypatch):
    monkeypatch.setattr(classes, "SMALL", 0)
    for seed in range(5):
        reading(seed, TOY)
    assert {True, False} == set(taken_over)
    taken_over.clear()
    reading(0, TOY, jump=False)
    assert not taken_over


LIMIT = 200


def state_of(*ready, name=7):
    """An engine and two operands that may be ready at some time, whom they are of, and a charge."""
    return np.array([0, *ready, 1, name, name, 0], np.int64).tobytes()


ROWS: list[Row] = [("last", "mul"), ("ready", 0), ("ready", 1)]


def met_in(state, **limits) -> Any:
    """A state met, with the limits of operands by their place."""
    of_places = {int(place[1:]): limit for place, limit in limits.items()}
    return classes.Met.of(state, ROWS, cast(Any, SimpleNamespace(limits=of_places)))


def test_what_is_ready_before_its_limit_may_be_so_at_any_time():
    met = met_in(state_of(30, 40), _1=LIMIT)
    assert met.holds(state_of(30, 40)) and met.holds(state_of(30, LIMIT - 1))
    # As late as the instruction that waits for it, it may be the cause of a wait.
    assert not met.holds(state_of(30, LIMIT))
    # Of the other operand no other time will do, nor another name.
    assert not met.holds(state_of(31, 40)) and not met.holds(state_of(30, 40, name=8))
    both = met_in(state_of(30, 40), _0=LIMIT, _1=LIMIT)
    assert both.holds(state_of(31, 1, name=8))
    assert met_in(state_of(30, 40)) is None
