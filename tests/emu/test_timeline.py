"""The clock on examples worked out by hand: hazards, engines, rounding, branches, views."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from emu import BANDS, Known, Program
from tests.helpers import (
    F32,
    SHAPE,
    TOY,
    ToySheet,
    accumulate,
    add,
    all_add,
    copy_into,
    counted,
    fetch,
    load,
    mul,
    op,
    split,
    store,
    tile,
)

ONE = {"r": 1}
# Ticks worked out from the toy's costs and clocks.
LOAD, LOAD_BUSY = 100 * 4, 10 * 4
STORE = 50 * 4
ADD, ACCUMULATE, MUL, MUL_BUSY = 7 * 3, 4 * 3, 20 * 2, 5 * 2


def read(kernel, *args, mesh=ONE, device=TOY, **options):
    return Program(kernel, mesh, ((),) * len(args)).read(device, *args, **options)


def ready(kernel, *args, **kw):
    """When each output of the kernel is ready, on the first core."""
    return [int(np.ravel(v.ready)[0]) for v in read(kernel, *args, **kw).outputs]


def test_read_after_write_and_one_engine_in_order():
    def kernel(x, y):
        a, b = load(tile(), x), load(tile(), y)
        c = add(tile(), a, b)
        return store(mul(tile(), c, a))

    r = read(kernel, F32, F32)
    # The second load issues behind the first; each later instruction waits for its operands.
    assert r.end_ticks == LOAD_BUSY + LOAD + ADD + MUL + STORE
    assert r.busy_ticks == {"mul": MUL_BUSY, "add": ADD, "io": 3 * LOAD_BUSY, "dma": 0}
    assert r.cycles("io") == 30 and r.utilisation("add") == ADD / r.end_ticks
    assert r.seconds == r.end_ticks / 12e9
    assert r.tally.by("count") == {
        "toy.load": 2,
        "toy.add": 1,
        "toy.mul": 1,
        "toy.store": 1,
    }
    assert r.tally.flops == 2 * 6 and r.tally.by("bytes") == {
        "hbm_read": 2 * 24,
        "sbuf_write": 4 * 24,
        "sbuf_read": (2 + 2 + 1) * 24,
        "hbm_write": 24,
    }
    assert r.issued == 2 + 1 + 1 + 1 and r.cores == 1


def test_write_after_read_waits_for_the_reader():
    def kernel(x, y):
        t = load(tile(), x)
        m = mul(tile(), t, t)
        return m, load(t, y)

    assert ready(kernel, F32, F32) == [LOAD + MUL, LOAD + MUL + LOAD]


def test_write_after_write_waits_for_the_first():
    def kernel(x):
        a = fetch(tile(), x, engine="io", busy=0, latency=0)
        t = op(tile(), a, engine="mul", busy=5, latency=100)
        return op(t, a, engine="add", busy=1, latency=1)

    assert ready(kernel, F32) == [100 * 2 + 3]
    # Its result needs nothing of the first.
    assert ready(kernel, F32, contended=False) == [3]


def test_engines_overlap_and_pipeline():
    def kernel(x):
        a = load(tile(), x)
        products = [mul(tile(), a, a) for _ in range(3)]
        return *products, add(tile(), a, a)

    starts = [LOAD, LOAD + MUL_BUSY, LOAD + 2 * MUL_BUSY]
    assert ready(kernel, F32) == [*(s + MUL for s in starts), LOAD + ADD]
    assert ready(kernel, F32, contended=False) == [*[LOAD + MUL] * 3, LOAD + ADD]


def test_parts_wait_for_readers_but_not_for_one_another():
    def kernel(x, row):
        t = load(tile(), x)
        r = load(tile(shape=(1, 3)), row)
        t = copy_into(t, r, jnp.int32(0))
        t = copy_into(t, r, jnp.int32(1))
        m = mul(tile(), t, t)
        return m, copy_into(t, r, jnp.int32(0))

    # Both parts issue back to back (3 cycles of 4 ticks each); the third waits for `mul`.
    parts = LOAD_BUSY + LOAD + 2 * 12
    assert ready(kernel, F32, jax.ShapeDtypeStruct((1, 3), jnp.float32)) == [
        parts + MUL,
        parts + MUL + 12,
    ]


def test_two_results():
    def kernel(x):
        return split(tile(), tile(), load(tile(), x))

    assert ready(kernel, F32) == [LOAD + 12] * 2


@pytest.mark.parametrize(
    "engine, cycles, ticks",
    [
        ("add", 2.5, 8),
        ("dma", 64 * 1.4, 90),
        ("dma", (0.1 + 0.2) * 10, 3),
        ("mul", 0.25, 1),
    ],
)
def test_ticks_round_up_once(engine, cycles, ticks):
    def kernel(x):
        t = fetch(tile(), x, engine="io", busy=0, latency=0)
        for _ in range(4):
            t = op(t, t, engine=engine, busy=cycles, latency=0)
        return t

    assert ready(kernel, F32) == [4 * ticks]


def test_bands():
    latencies = {"low": 80, "nominal": 100, "high": 150}
    kernel = lambda x: load(tile(), x)  # noqa: E731
    for band in BANDS:
        assert ready(kernel, F32, device=ToySheet().at(band)) == [4 * latencies[band]]


def test_tile_declared_in_a_loop_is_one_buffer():
    def kernel(x):
        def body(acc, _):
            return accumulate(acc, load(tile(), x)), None

        return lax.scan(body, load(tile(), x), None, length=5)[0]

    # Load, then add, then the tile is free for the next load.
    assert ready(kernel, F32) == [LOAD_BUSY + 5 * (LOAD + ACCUMULATE)]


def test_trace_has_every_instruction():
    def kernel(x):
        acc = load(tile(), x)
        return lax.scan(lambda a, _: (accumulate(a, a), None), acc, None, length=50)[0]

    events = read(kernel, F32, trace_core=(0,)).events
    spans = [(e.start, e.end) for e in events if e.engine == "add"]
    assert spans == [
        (LOAD + i * ACCUMULATE, LOAD + (i + 1) * ACCUMULATE) for i in range(50)
    ]
    assert events[0].where.startswith("test_timeline.py:")


# --- many cores ---


def core_kernel(x, which):
    def early(t):
        return op(t, t, engine="mul", busy=9, latency=30)

    def late(t):
        return counted(t, t, which, engine="add", busy=2)

    t = load(tile(), x)
    t = lax.cond(lax.rem(which, jnp.int32(2)) == 0, early, late, t)
    return op(t, t, engine="io", busy=1, latency=1)


def test_each_core_is_timed_as_if_alone():
    def own_index(x):
        return core_kernel(x, lax.axis_index("r"))

    together = read(own_index, F32, mesh={"r": 5, "c": 2}).outputs[0].ready
    alone = [ready(core_kernel, F32, Known(np.int32(r)))[0] for r in range(5)]
    assert np.ravel(together).tolist() == alone
    assert alone[1] == LOAD + (2 + 1) * 3 + 4 and alone[2] == LOAD + 30 * 2 + 4


def test_times_stay_small_until_cores_differ():
    def kernel(x):
        a = load(tile(), x)
        b = op(tile(), a, engine="mul", busy=1, latency=1)
        c = lax.cond(
            lax.axis_index("c") < 7, lambda b: mul(b, a, a), lambda b: add(b, a, a), b
        )
        d = all_add(tile(), c, axis="r")
        return a, c, d

    r = read(kernel, F32, mesh={"r": 300, "c": 400})
    assert [np.shape(v.ready) for v in r.outputs[:2]] == [(), (1, 400)]
    assert r.tally.by("count")["toy.mul"] == 300 * 7
    assert r.tally.by("count")["toy.add"] == 300 * 393


def test_collective_waits_for_the_last_core():
    def kernel(x):
        t = load(tile(), x)
        t = counted(t, t, lax.axis_index("r"), engine="add", busy=0)
        return all_add(tile(), t, axis="r")

    r = read(kernel, F32, mesh={"r": 4})
    assert np.ravel(r.outputs[0].ready).tolist() == [LOAD + 3 * 3 + 30 + 9] * 4


# --- what does not change the time ---


def test_abstract_real_and_jitted_read_alike():
    def kernel(x, y):
        return store(add(tile(), load(tile(), x), load(tile(), y)))

    x = np.ones(SHAPE, np.float32)
    ends = [
        read(kernel, F32, F32).end_ticks,
        read(kernel, x, jnp.asarray(x)).end_ticks,
        read(jax.jit(kernel), F32, F32).end_ticks,
        read(kernel, F32, F32).end_ticks,
    ]
    assert ends == [LOAD_BUSY + LOAD + ADD + STORE] * 4


def test_views_are_free():
    def kernel(x):
        halves = load(tile(shape=(2, 3)), lax.slice(x, (0, 0), (2, 3)))
        row = load(tile(shape=(1, 3)), x[1:2])
        return store(halves.reshape(3, 2)), store(row)

    big = jax.ShapeDtypeStruct((4, 3), jnp.float32)
    assert read(kernel, big).end_ticks == max(LOAD + STORE, LOAD_BUSY + LOAD + STORE)


def test_mesh_without_axes():
    assert ready(lambda x: load(tile(), x), F32, mesh={}) == [LOAD]
