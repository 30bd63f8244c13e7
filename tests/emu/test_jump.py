"""Jumping a loop and stepping it agree to the tick, on random programs and on the hard cases."""

import functools
import re
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import example, given, settings
from jax import lax

from emu import Known, Program
from emu.clock.skew import settled
from emu.errors import StaleTile
from tests import helpers
from tests.helpers import F32, MESH, TICKS, TOY, fetch, make, op, tile

LAW = settings(max_examples=40, derandomize=True, deadline=None)
ONE = {"r": 1, "c": 1}


def both(kernel, *args, mesh=MESH, device=TOY, **options):
    """Readings by jump and by stepping, held equal."""
    p = Program(kernel, mesh, ((),) * len(args))
    jumped = p.read(device, *args, **options)
    stepped = p.read(device, *args, jump=False, **options)
    helpers.same_clock(jumped, stepped)
    if options.get("contended", True):
        helpers.adds_up(jumped)
    return jumped, stepped


# The producer takes 130 ticks an iteration and the consumer 186, so that it leads by seven of them
# after 23: until then the ring's buffers are idle in time, from then on it waits for them. All of
# them have been used as often, though in each role another one stands than an iteration before.
@example(
    [
        ("spares", [], {"engine": "io", "busy": 1, "latency": 1}),
        (
            "scan",
            "fori",
            40,
            [
                (
                    "scratch",
                    3,
                    1,
                    7,
                    None,
                    {"engine": "dma", "busy": 0, "latency": 2, "interval_cycles": 130},
                    {"engine": "add", "busy": 2, "latency": 62},
                )
            ],
        ),
    ]
)
@LAW
@given(helpers.programs())
def test_random_programs(program):
    kernel = functools.partial(helpers.kernel_of, program)
    jumped, _ = both(kernel, F32)
    # A trace asks more of what repeats, so a loop that it has stepped may be jumped without it.
    traced, _ = both(kernel, F32, trace_core=(1, 2))
    assert jumped.end_ticks == traced.end_ticks
    free, _ = both(kernel, F32, contended=False)
    assert jumped.end_ticks >= max(free.end_ticks, *jumped.most_busy_ticks.values())


DMA = {"engine": "dma", "busy": 9, "latency": 9}


# The loop turns six tiles six times around: whoever reads one from before it must be told that the
# loop wrote it, though the walk had not come to that tile when it jumped.
@example(
    [
        ("spares", [None] * 6, DMA),
        ("scan", "scan", 37, [("turn", 0, DMA)]),
        ("first", 2, 1, {"engine": "io", "busy": 1, "latency": 4}),
    ]
)
@LAW
@given(helpers.turning_programs())
def test_tiles_that_turn(program):
    """A jump knows who used each tile, in which bank it is and whether it was written at all."""
    kernel = functools.partial(helpers.kernel_of, program)
    readings: list[tuple[Any, dict[str, Any]]] = [
        (ONE, {"trace_core": (0, 0)}),
        (ONE, {}),
        (MESH, {}),
    ]
    for mesh, options in readings:
        try:
            both(kernel, F32, mesh=mesh, **options)
        except StaleTile as refused:
            stepped = Program(kernel, mesh, ((),))
            with pytest.raises(StaleTile, match=re.escape(str(refused))):
                stepped.read(TOY, F32, jump=False, **options)


@LAW
@given(helpers.programs())
def test_random_programs_with_a_throttled_engine(program):
    slow, _ = both(
        functools.partial(helpers.kernel_of, program),
        F32,
        device=helpers.THROTTLED,
        trace_core=(0, 1),
    )
    fast = Program(functools.partial(helpers.kernel_of, program), MESH, ((),)).read(
        TOY, F32
    )
    assert slow.end_ticks >= fast.end_ticks


@LAW
@given(helpers.programs())
def test_rings_never_make_a_program_slower(program):
    p = Program(functools.partial(helpers.kernel_of, program), MESH, ((),))
    assert p.read(TOY, F32).end_ticks <= p.read(TOY, F32, as_written=True).end_ticks


@pytest.mark.parametrize("depth", [1, 2, 3, 4])
def test_ring(depth):
    """Loads through a ring: engine `io` takes 40 ticks a load, `mul` 24 ticks an iteration."""

    def kernel(x):
        def body(carry, _):
            ring, acc = carry
            new = fetch(ring[0], x, engine="io", busy=10, latency=100)
            acc = op(acc, new, engine="mul", busy=12, latency=12)
            return ((*ring[1:], new), acc), None

        ring = tuple(tile() for _ in range(depth))
        acc = fetch(tile(), x, engine="io", busy=1, latency=1)
        return lax.scan(body, (ring, acc), None, length=1000)[0][1]

    jumped, stepped = both(kernel, F32)
    assert jumped.stepped < 60 and stepped.stepped == 2000 + depth + 2
    # A tile is loaded (400 ticks), read (24), and then free for the load `depth` iterations later.
    interval = max(40, 24, -(-424 // depth))
    assert abs(jumped.end_ticks - 1000 * interval) < 1000


def test_deeper_rings_are_never_slower():
    def end(depth, busy):
        def kernel(x):
            def body(carry, _):
                ring, acc = carry
                new = fetch(ring[0], x, engine="io", busy=10, latency=100)
                return (
                    (*ring[1:], new),
                    op(acc, new, engine="mul", busy=busy, latency=30),
                ), None

            ring = tuple(tile() for _ in range(depth))
            acc = fetch(tile(), x, engine="io", busy=1, latency=1)
            return lax.scan(body, (ring, acc), None, length=50)[0][1]

        return Program(kernel, ONE, ((),)).read(TOY, F32).end_ticks

    for busy in (1, 15, 80):
        ends = [end(depth, busy) for depth in range(1, 7)]
        assert ends == sorted(ends, reverse=True)


def test_streams_of_different_rates():
    """Two streams that share nothing run at 14 and 27 ticks an iteration."""

    def kernel(x):
        def body(carry, _):
            a, b = carry
            a = op(a, a, engine="mul", busy=7, latency=7)
            return (a, op(b, b, engine="add", busy=9, latency=9)), None

        start = tuple(
            fetch(tile(), x, engine="dma", busy=0, latency=0) for _ in range(2)
        )
        return lax.scan(body, start, None, length=10_000)[0]

    jumped, _ = both(kernel, F32)
    assert [int(np.max(v.ready)) for v in jumped.outputs] == [140_000, 270_000]
    assert jumped.stepped < 50


def test_follower_of_a_clock_that_slowed_down():
    """`late` follows `early` of the iteration before, which once waits 20 ticks for a constant.

    Between the first two iterations `late` grows by 30 ticks, and by 11 from then on.
    """

    def kernel(x):
        c = fetch(tile(), x, engine="dma", busy=0, latency=20)
        early, late = (
            fetch(tile(), x, engine="dma", busy=0, latency=0) for _ in range(2)
        )

        def body(carry, _):
            early, late = carry
            late = make(early, engine="dma", busy=1, latency=1000)
            return (make(c, engine="dma", busy=10, latency=10), late), None

        return lax.scan(body, (early, late), None, length=200)[0]

    jumped, _ = both(kernel, F32)
    assert jumped.outputs[1].ready == 20 + 10 + 198 * 11 + 1000


def test_decisions_that_change_without_changing_the_pace():
    """Iteration 3 takes 30 ticks as did those before, but by waiting; the next take 10."""

    def kernel(x):
        e = fetch(tile(), x, engine="dma", busy=0, latency=110)
        t, u = (fetch(tile(), x, engine="dma", busy=0, latency=0) for _ in range(2))

        def body(carry, i):
            t, u = carry
            u = op(u, e, engine="add", busy=10, latency=10)
            work = lambda t: op(t, t, engine="mul", busy=15, latency=15)  # noqa: E731
            wait = lambda t: op(t, e, engine="mul", busy=5, latency=5)  # noqa: E731
            return (lax.cond(i < 3, work, wait, t), u), None

        return lax.scan(body, (t, u), jnp.arange(100))[0]

    jumped, _ = both(kernel, F32)
    assert jumped.outputs[0].ready == 110 + 97 * 10


def test_trace_of_an_instruction_that_settles_late():
    """The first `mul` moves by 29 ticks at first, its engine by 30: the trace shows both."""

    def kernel(x):
        f = fetch(tile(), x, engine="io", busy=0, latency=250)
        s = fetch(tile(), x, engine="dma", busy=0, latency=0)

        def body(carry, _):
            f, s = carry
            f = op(f, f, engine="add", busy=10, latency=10)
            s = op(s, s, engine="dma", busy=29, latency=29)
            v = make(s, engine="dma", busy=0, latency=0)  # so that `s` is idle at once
            v = make(v, engine="dma", busy=0, latency=985)
            make(v, engine="mul", busy=0, latency=0)
            make(f, engine="mul", busy=0, latency=0)
            return (f, s), None

        return lax.scan(body, (f, s), None, length=60)[0]

    jumped, _ = both(kernel, F32, trace_core=(0, 0))
    both(kernel, F32)
    first = [e.start for e in jumped.events if e.engine == "mul"][::2]
    assert first == [max(985 + 29 * (k + 1), 1000 + 30 * k) for k in range(60)]


def test_loop_in_the_shadow_of_a_long_transfer():
    """A transfer of a million ticks, unrelated to the loop, does not keep it from jumping."""

    def kernel(x):
        big = fetch(tile(), x, engine="dma", busy=1_000_000, latency=1_000_000)
        acc = fetch(tile(), x, engine="io", busy=1, latency=1)
        step = lambda a, _: (op(a, a, engine="mul", busy=3, latency=3), None)  # noqa: E731
        acc, _ = lax.scan(step, acc, None, length=5000)
        return op(big, acc, engine="add", busy=1, latency=1)

    jumped, _ = both(kernel, F32)
    assert jumped.stepped < 20 and jumped.end_ticks == 1_000_000 + 3


@pytest.mark.parametrize("length", [8, 100, 101, 102])
def test_tiles_that_trade_places(length):
    """After the loop each tile is where an odd or even number of swaps left it."""

    def kernel(x):
        a, b = (fetch(tile(), x, engine=e, busy=0, latency=0) for e in ("io", "dma"))
        c = fetch(tile(), x, engine="dma", busy=0, latency=0)

        def body(carry, _):
            a, b, acc = carry
            acc = op(acc, a, engine="mul", busy=5, latency=40)
            acc = op(acc, b, engine="add", busy=2, latency=2)
            return (b, a, acc), None

        (_, _, acc), _ = lax.scan(body, (a, b, c), None, length=length)
        # `a` was never written, so it may still be read, and is overwritten once it is idle.
        return op(a, b, engine="dma", busy=1, latency=1), acc

    both(kernel, F32)


def test_known_integer_after_a_jump():
    """A carried integer of no simple form decides a branch after the loop."""

    def kernel(x):
        def body(carry, i):
            k, last, t = carry
            t = op(t, t, engine="mul", busy=1, latency=1)
            return (lax.rem(k * 3 + 1, jnp.int32(1009)), i, t), None

        t = fetch(tile(), x, engine="io", busy=1, latency=1)
        (k, last, t), _ = lax.scan(
            body, (jnp.int32(5), jnp.int32(0), t), jnp.arange(100)
        )
        return k, last, t

    jumped, _ = both(kernel, F32)
    k = 5
    for _ in range(100):
        k = (k * 3 + 1) % 1009
    assert [int(np.asarray(v.known).item()) for v in jumped.outputs[:2]] == [k, 99]


def test_integer_that_becomes_known_in_the_loop():
    """The loop is stepped rather than jumped to a wrong integer."""

    def kernel(x, n):
        def body(carry, i):
            _, t = carry
            return (i, op(t, t, engine="mul", busy=1, latency=1)), None

        t = fetch(tile(), x, engine="io", busy=1, latency=1)
        (i, t), _ = lax.scan(body, (n, t), jnp.arange(20))
        return i, t

    jumped, _ = both(kernel, F32, jax.ShapeDtypeStruct((), jnp.int32))
    assert np.asarray(jumped.outputs[0].known).item() == 19


@pytest.mark.parametrize("n", [0, 1, 37, 64])
def test_triangle_with_a_known_length(n):
    """Tiles on or under the diagonal cost 9 + i ticks of `add`, others one cycle of `mul`."""

    def kernel(x, n):
        t = fetch(tile(), x, engine="io", busy=1, latency=1)

        def row(t, i):
            def column(t, j):
                live = lambda t: helpers.counted(t, t, i, engine="add", busy=3)  # noqa: E731
                skip = lambda t: op(t, t, engine="mul", busy=1, latency=1)  # noqa: E731
                return lax.cond((j <= i) & (i < n), live, skip, t), None

            return lax.scan(column, t, jnp.arange(64))[0], None

        return lax.scan(row, t, jnp.arange(64))[0]

    jumped, _ = both(kernel, F32, Known(np.int32(n)), mesh=ONE)
    assert jumped.busy_ticks["add"] == sum(
        (i + 1) * TICKS["add"] * (3 + i) for i in range(n)
    )
    skipped = 64 * 64 - n * (n + 1) // 2
    assert jumped.busy_ticks["mul"] == skipped * TICKS["mul"]
    assert jumped.stepped < 64 * 30 and (n > 0 or not jumped.unjumped)


def test_stacked_output_is_ready_with_its_last_slice():
    def kernel(x):
        def body(t, _):
            t = op(t, t, engine="mul", busy=4, latency=4)
            return t, helpers.store(t)

        t = fetch(tile(), x, engine="io", busy=0, latency=0)
        return lax.scan(body, t, None, length=500)[1]

    # Stores of 40 ticks an iteration fall behind operations of 8; the last takes 200.
    # WAR: an operation waits until the store before it has read the tile.
    jumped, _ = both(kernel, F32)
    assert jumped.outputs[0].ready == 500 * (4 * TICKS["mul"] + 50 * TICKS["io"])
    assert jumped.outputs[0].shape == (500, *helpers.SHAPE)


def test_slices_of_a_stacked_output_that_settle_late():
    """Each slice follows a slow stream, 29 ticks an iteration, until its engine (30) overtakes."""

    def kernel(x):
        f = fetch(tile(), x, engine="io", busy=0, latency=250)
        s = fetch(tile(), x, engine="dma", busy=0, latency=0)

        def body(carry, _):
            f, s = carry
            f = op(f, f, engine="add", busy=10, latency=10)
            s = op(s, s, engine="dma", busy=29, latency=29)
            v = make(s, engine="dma", busy=0, latency=0)
            v = make(v, engine="dma", busy=0, latency=985)
            y = make(v, engine="mul", busy=0, latency=0)
            make(f, engine="mul", busy=0, latency=0)
            return (f, s), y

        return lax.scan(body, (f, s), None, length=60)[1]

    jumped, _ = both(kernel, F32)
    slices = [int(settled(t)) for t in jumped.outputs[0].steps or []]
    assert slices == [max(985 + 29 * (k + 1), 1000 + 30 * k) for k in range(60)]


def test_four_nested_loops_read_fast():
    """10^8 iterations of ten instructions from a few thousand steps."""

    def kernel(x):
        def body(t, _):
            for engine in ("mul", "add", "io", "dma", "mul") * 2:
                t = op(t, t, engine=engine, busy=2, latency=2)
            return t, None

        for _ in range(4):
            body = functools.partial(
                lambda f, t, _: (lax.scan(f, t, None, length=100)[0], None), body
            )
        return body(fetch(tile(), x, engine="io", busy=0, latency=0), None)[0]

    r = Program(kernel, ONE, ((),)).read(TOY, F32)
    assert r.end_ticks == 100**4 * 2 * 2 * (2 + 3 + 4 + 1 + 2)
    assert r.stepped < 10 * 4**4 + 10 and not r.unjumped
