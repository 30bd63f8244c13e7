"""Loops read once per class of cores: each core as if alone, and no state read twice."""

import functools

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from jax import lax

from emu import Known, Program
from emu.loops import classes
from tests import helpers
from tests.helpers import F32, MESH, THROTTLED, TOY, counted, fetch, hop, op, tile

LAW = settings(max_examples=20, derandomize=True, deadline=None)
ALONE = ("rotate", "turn", "make")  # what a core does without others


def alone(program, core, device, **options):
    """The reading of one core that is given its indices."""
    kernel = lambda x, r, c: helpers.kernel_of(program, x, (r, c))  # noqa: E731
    index = [Known(np.int32(i)) for i in core]
    return Program(kernel, {"one": 1}, ((), (), ())).read(
        device, F32, *index, **options
    )


def as_if_alone(program, device, **options):
    """Asserts that every core of a mesh is timed as if it were alone."""
    kernel = functools.partial(helpers.kernel_of, program)
    clock = Program(kernel, MESH, ((),)).read(device, F32, **options)
    sums: dict = {}
    for core in np.ndindex(clock.grid):
        own = alone(program, core, device, **options)

        def here(x, core=core):
            return int(np.broadcast_to(x, clock.grid)[core])

        assert here(clock.end) == own.end
        assert {e: here(t) for e, t in clock.last.items()} == own.last
        spent = {k: here(t) for k, t in clock.spent.items() if here(t)}
        assert spent == {k: t for k, t in own.spent.items() if t}
        for x, y in zip(clock.outputs, own.outputs, strict=True):
            assert here(x.ready) == y.ready
        for key, n in own.tally.sums.items():
            sums[key] = sums.get(key, 0) + n
    assert {k: n for k, n in clock.tally.sums.items() if n} == {
        k: n for k, n in sums.items() if n
    }


@LAW
@given(helpers.programs(more=ALONE))
@pytest.mark.parametrize(
    "options", [{}, {"contended": False}, {"as_written": True}], ids=str
)
def test_random_programs_core_by_core(options, program):
    as_if_alone(program, TOY, **options)


@LAW
@given(helpers.programs(more=ALONE))
def test_random_programs_core_by_core_with_a_throttled_engine(program):
    as_if_alone(program, THROTTLED)


def test_a_tile_made_inside_is_its_makers_until_it_is_done():
    """The last tile that the loop makes is done 1,200 ticks after its start, then partly rewritten.

    Who writes a part waits for nothing but that the tile is idle.
    """
    slow = {"engine": "io", "busy": 1, "latency": 300}
    quick = {"engine": "mul", "busy": 1, "latency": 1}
    busy = {"engine": "mul", "busy": 9, "latency": 9}
    # So that there are two classes, of which one core each is read.
    either = ("cond", "core", 0, [[("op", 3, 0, quick)], [("op", 3, 0, busy)]])
    program = [
        ("scan", "scan", 40, [either, ("make", 2, 0, slow)]),
        ("part", 2, 0, quick),
    ]
    as_if_alone(program, TOY)


@LAW
@given(helpers.programs())
@pytest.mark.parametrize("device", [TOY, THROTTLED], ids=["plain", "throttled"])
def test_loops_inside_loops_met_again(device, program):
    """However small the loop, a state met before is not read again, and the clock is the same."""
    p = Program(functools.partial(helpers.kernel_of, program), MESH, ((),))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(classes, "SMALL", -1)
        found = p.read(device, F32)
    helpers.same_clock(found, p.read(device, F32, jump=False))


@pytest.mark.parametrize("contended", [True, False])
def test_cores_may_hold_different_buffers_inside_a_loop(contended):
    """Core 0 swaps two tiles in each of two iterations: in between it holds them the other way."""

    def kernel(x, core):
        def step(carry, _):
            first, second = lax.cond(
                core == 0, lambda a, b: (b, a), lambda a, b: (a, b), *carry
            )
            return (op(first, second, engine="mul", busy=4, latency=9), second), None

        tiles = [fetch(tile(), x, engine="io", busy=1, latency=n) for n in (5, 50)]
        return lax.scan(step, tuple(tiles), length=2)[0]

    def of_all(x):
        return kernel(x, lax.axis_index("r"))

    clock = Program(of_all, {"r": 3}, ((),)).read(TOY, F32, contended=contended)
    single = Program(kernel, {"one": 1}, ((), ()))
    for core in range(3):
        own = single.read(TOY, F32, Known(np.int32(core)), contended=contended)
        assert np.broadcast_to(clock.end, 3)[core] == own.end
        for ours, alone_ in zip(clock.outputs, own.outputs, strict=True):
            assert np.broadcast_to(ours.ready, 3)[core] == alone_.ready


# --- a ring of cores: some work, others pass on ---

RING, BLOCKS, TILES = 16, 5, 6
WORK = dict(busy=4, latency=9)


def ring_kernel(x, live, kinds):
    """A hop, then blocks of tiles, each dead, short or long as a table of this core says."""

    def tile_step(acc, kind):
        def use(n, acc):
            for engine in ("mul", "add", "io")[:n]:
                passing = op(tile(buffers=3), acc, engine=engine, **WORK)
                acc = op(acc, passing, engine="add", **WORK)
            return acc

        cases = [functools.partial(use, n) for n in range(3)]
        return lax.switch(kind.astype(jnp.int32), cases, acc), None

    def block(acc, xs):
        on, row = xs
        return lax.cond(
            on != 0, lambda a: lax.scan(tile_step, a, row)[0], lambda a: a, acc
        ), None

    def step(carry, xs):
        held, spare, acc = carry
        arrived = hop(spare, held, axis="r", engine="dma", busy=3, latency=11)
        return (arrived, held, lax.scan(block, acc, xs)[0]), None

    start = tuple(fetch(tile(), x, engine="io", busy=1, latency=1) for _ in range(3))
    return lax.scan(step, start, (live, kinds))[0]


def contiguous(hops):
    """Core i works at step r if `i >= r`: on the diagonal at first, on whole blocks later."""
    i, r = np.ogrid[:RING, :hops]
    kinds = np.where((i >= r)[..., None, None], 2, 0) + np.zeros((BLOCKS, TILES), int)
    kinds[:, 0] = 2 * (np.arange(BLOCKS)[:, None] > np.arange(TILES)) + np.eye(
        BLOCKS, TILES
    )
    return kinds.astype(np.int8)


def read_ring(hops, **options):
    kinds = contiguous(hops)
    p = Program(ring_kernel, {"r": RING}, ((), ("r",), ("r",)))
    args = F32, Known(kinds.any(-1).astype(np.int8)), Known(kinds)
    return p.read(THROTTLED, *args, **options)


@pytest.mark.parametrize(
    "options", [{}, {"trace_core": (7,)}, {"as_written": True}], ids=str
)
def test_a_ring_jumped_and_stepped(options):
    found, stepped = read_ring(RING, **options), read_ring(RING, jump=False, **options)
    helpers.same_clock(found, stepped)
    helpers.adds_up(found)
    assert stepped.stepped > 10 * found.stepped or "trace_core" in options


def test_a_state_met_before_is_not_read_again():
    """Sixteen steps cost few instructions more than four."""
    few, many = read_ring(4), read_ring(RING)
    assert many.issued > 2 * few.issued
    assert many.stepped < few.stepped + 12 * (1 + 5)


def test_a_stack_of_what_the_loop_does_not_make():
    """Slices that are ready with a tile from outside, later on some cores than on others."""

    def kernel(x):
        old = fetch(tile(), x, engine="io", busy=1, latency=1)
        old = helpers.counted(old, old, lax.axis_index("c") * 9, engine="add", busy=1)
        acc = hop(
            tile(),
            fetch(tile(), x, engine="io", busy=1, latency=900),
            axis="r",
            engine="dma",
            busy=1,
            latency=2,
        )

        def body(acc, _):
            return op(acc, acc, engine="io", busy=1, latency=1), old

        return lax.scan(body, acc, None, length=20)

    p = Program(kernel, MESH, ((),))
    helpers.same_clock(p.read(TOY, F32), p.read(TOY, F32, jump=False))
    slices = p.read(TOY, F32).outputs[1].ready
    assert np.broadcast_to(slices, (2, 3))[0].tolist() == [
        4 + 3 * (1 + 9 * c) for c in range(3)
    ]


def offset_kernel(x, delay, offset):
    """Every second step depends on an offset, which is another on each core of a row."""

    def step(acc, number):
        pick = (offset < 100).astype(np.int32) * (number % 2)
        cases = [lambda acc: op(acc, acc, engine=e, **WORK) for e in ("mul", "add")]
        return lax.switch(pick, cases, acc), None

    acc = fetch(tile(), x, engine="io", busy=1, latency=1)
    acc = counted(acc, acc, delay, engine="dma", busy=1)
    acc, _ = lax.scan(step, acc, np.arange(6, dtype=np.int32))
    return lax.scan(step, acc, np.arange(6, dtype=np.int32))[0]


@pytest.mark.parametrize(
    ("offsets", "frame"), [([5, 6, 7, 8], (2, 1)), ([5, 6, 700, 8], (2, 4))]
)
def test_cores_that_know_different_integers_and_decide_alike_are_one_cell(
    offsets, frame, monkeypatch
):
    frames = []

    class Told(classes.Merge):
        def __init__(self, entry, *rest):
            super().__init__(entry, *rest)
            frames.append(entry.frame)

    monkeypatch.setattr(classes, "Merge", Told)
    program = Program(offset_kernel, {"r": 2, "c": 4}, ((), ("r",), ("c",)))
    delay = Known(np.array([3, 900], np.int32))
    offset = Known(np.array(offsets, np.int32))
    found = program.read(TOY, F32, delay, offset)
    assert frames == [frame, frame]
    helpers.same_clock(found, program.read(TOY, F32, delay, offset, jump=False))
    traced = program.read(TOY, F32, delay, offset, trace_core=(1, 3))
    ends = np.broadcast_arrays(traced.end, found.end)
    np.testing.assert_array_equal(ends[0], ends[1])
