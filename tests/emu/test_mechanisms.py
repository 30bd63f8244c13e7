"""What makes kernels differ from sums of instructions, each on a case worked out by hand.

A cycle is 2 ticks of `mul`, 3 of `add`, 4 of `io` and 1 of `dma`.
"""

import pytest
from jax import lax

from emu import Program
from emu.errors import OutOfMemory
from tests.helpers import F32, THROTTLED, TOY, adds_up, fetch, op, part, tile, with_sbuf

ONE = {"r": 1}


def read(kernel, device=TOY, **options):
    clock = Program(kernel, ONE, ((),)).read(device, F32, **options)
    if options.get("contended", True):
        adds_up(clock)
    return clock


def events(kernel, device=TOY):
    found = read(kernel, device, trace_core=(0,)).events
    return [e for e in found if not e.engine.endswith("in use")]


def streamed(buffers, count=10):
    """Loads of 40 ticks, latency 400; each tile is then used for 24 ticks."""

    def kernel(x):
        def body(total, _):
            t = fetch(tile(buffers=buffers), x, engine="io", busy=10, latency=100)
            return op(total, t, engine="mul", busy=12, latency=12), None

        total = fetch(tile(), x, engine="dma", busy=0, latency=0)
        return lax.scan(body, total, None, length=count)[0]

    return kernel


@pytest.mark.parametrize("buffers", [1, 2, 3, 20])
def test_ring_holds_as_many_loads_as_it_is_deep(buffers):
    # A load starts when the ring's next buffer was last read: `buffers` loads in each 424 ticks,
    # or one in 40 where the queue is what limits.
    period = max(40, 424 / buffers)
    end = read(streamed(buffers)).end_ticks
    assert abs(end - (424 + 9 * period)) <= 424
    assert read(streamed(buffers), as_written=True).end_ticks == 10 * 424


def test_ring_takes_its_depth_of_memory():
    def program(x):
        t = fetch(tile(buffers=3), x, engine="io", busy=1, latency=1)
        return op(tile(), t, engine="mul", busy=1, latency=1)

    fits = Program(program, ONE, ((),))
    assert fits.memory(with_sbuf(4 * 24), F32)["sbuf"] == 4 * 24
    with pytest.raises(OutOfMemory, match="96 bytes of sbuf, has 95"):
        fits.memory(with_sbuf(4 * 24 - 1), F32)


def test_queues_share_what_they_take_from_each_other():
    def kernel(x):
        shared = {"taken": (("dma", 400),)}
        a = fetch(tile(), x, engine="io", busy=100, latency=100, **shared)
        b = fetch(tile(), x, engine="dma", busy=50, latency=50)
        return a, b

    first, second = events(kernel)
    assert (first.start, first.end) == (0, 400)
    assert (second.start, second.end, second.cause) == (400, 450, "shared")


def test_queue_starts_no_faster_than_its_interval():
    def kernel(x):
        cost = {"engine": "io", "busy": 10, "latency": 10, "interval_cycles": 25}
        return [fetch(tile(), x, **cost) for _ in range(3)]

    first, second, third = events(kernel)
    assert [first.start, second.start, third.start] == [0, 100, 200]
    assert (
        second.cause == "interval"
        and read(kernel).spent[("io", "wait:interval")] == 120
    )


def test_engines_that_share_a_port_take_turns():
    def kernel(x):
        a = fetch(tile(), x, engine="mul", busy=50, latency=50, ports=("fast",))
        b = fetch(tile(), x, engine="mul", busy=30, latency=30)
        c = fetch(tile(), x, engine="add", busy=10, latency=10, ports=("fast",))
        d = fetch(tile(), x, engine="add", busy=10, latency=10, ports=("fast",))
        return a, b, c, d

    _, second, third, fourth = events(kernel)
    # A tick of `mul` is 2: the port is free after the first 50, while `mul` goes on without it.
    assert (second.start, second.end) == (100, 160)
    assert (third.start, third.cause) == (100, "port")
    # Its own user waits for the engine alone.
    assert (fourth.start, fourth.cause) == (third.end, "engine")


def test_operand_must_be_ready_a_lead_before_the_start():
    def kernel(x):
        a = fetch(tile(), x, engine="io", busy=1, latency=25)
        b = op(tile(), a, engine="mul", busy=2, latency=2, lead_cycles=((1, 8),))
        return op(b, a, engine="mul", busy=2, latency=2, lead_cycles=((1, 8),))

    _, first, second = events(kernel)
    assert (first.start, first.cause) == (25 * 4 + 8 * 2, "lead")
    # Loaded in the meantime.
    assert (second.start, second.cause) == (
        first.end,
        "engine",
    )


def test_handover_delays_the_dependent_but_not_the_end():
    def kernel(x):
        a = fetch(tile(), x, engine="mul", busy=5, latency=20, handover_cycles=7)
        return op(tile(), a, engine="mul", busy=5, latency=20, handover_cycles=7)

    first, second = events(kernel)
    assert (first.end, first.done, first.ready) == (10, 40, 54)
    assert (second.start, second.cause) == (54, "mul")
    assert read(kernel).end_ticks == 54 + 40


def test_two_engines_cannot_use_one_bank_at_a_time():
    def kernel(bank):
        def run(x):
            a, b = tile(bank=0), tile(bank=bank)
            a = fetch(a, x, engine="mul", busy=50, latency=50)
            return a, fetch(b, x, engine="add", busy=10, latency=10)

        return run

    assert [e.start for e in events(kernel(0))] == [0, 100]
    assert events(kernel(0))[1].cause == "bank"
    assert [e.start for e in events(kernel(1))] == [0, 0]


def test_busy_time_without_work_is_told_apart():
    def kernel(x):
        return fetch(
            tile(), x, engine="mul", busy=50, latency=50, lost=(("idling", 20),)
        )

    clock = read(kernel)
    assert clock.spent[("mul", "idling")] == 40 and clock.spent[("mul", "work")] == 60
    assert clock.most_busy_ticks["mul"] == 100


def run_of(count, gap, busy=30, duty=1.0):
    """`count` instructions of `busy` cycles of `mul`, `gap` ticks of `dma` between them."""

    def kernel(x):
        def body(t, _):
            if gap:
                t = op(t, t, engine="dma", busy=gap, latency=gap)
            return op(t, t, engine="mul", busy=busy, latency=busy, duty=duty), None

        return lax.scan(
            body, fetch(tile(), x, engine="dma", busy=0, latency=0), None, length=count
        )[0]

    return kernel


def test_throttled_engine_is_slow_until_it_was_busy_for_a_window():
    # The window is 120 ticks, slow instructions take 180 instead of 60: the first fills it.
    assert read(run_of(10, 0), THROTTLED).end_ticks == 180 + 9 * 60
    assert read(run_of(10, 0), THROTTLED).spent[("mul", "throttle")] == 120
    assert read(run_of(10, 0), TOY).end_ticks == 600


def test_idle_engine_is_throttled_again():
    # Idle for 60 ticks of every 240 it stays fast once it was; idle for 200 it empties each time.
    busy = read(run_of(40, 60), THROTTLED)
    assert busy.spent[("mul", "throttle")] == 120
    idle = read(run_of(40, 200), THROTTLED)
    assert idle.spent[("mul", "throttle")] == 40 * 120


def test_engine_used_by_less_than_the_share_stays_slow():
    assert read(run_of(10, 0, duty=0.25), THROTTLED).end_ticks == 10 * 180
    assert read(run_of(10, 0, duty=0.75), THROTTLED).end_ticks < 10 * 180


def test_throttle_spans_and_lifetimes_are_traced():
    clock = read(run_of(3, 0), THROTTLED, trace_core=(0,))
    slow = [e for e in clock.events if e.engine == "throttle"]
    assert [(e.name, e.start, e.end) for e in slow] == [("mul", 0, 180)]
    held = [e for e in clock.events if e.engine == "sbuf in use"]
    assert {e.name for e in held} == {"24"}
    assert max(e.end for e in held) == clock.end_ticks


def test_partial_writes_extend_a_lifetime():
    def kernel(x):
        t = fetch(tile(), x, engine="mul", busy=5, latency=5)
        return part(t, t, engine="add", busy=10, latency=10)

    held = [
        e for e in read(kernel, trace_core=(0,)).events if e.engine == "sbuf in use"
    ]
    assert [(e.start, e.end) for e in held] == [(0, 10 + 30)]


def test_a_tile_declared_anew_begins_another_lifetime():
    def kernel(x):
        def body(total, _):  # the partial write never ends a lifetime by itself
            t = part(tile(buffers=2), x_tile, engine="mul", busy=5, latency=5)
            return op(total, t, engine="add", busy=10, latency=10), None

        x_tile = fetch(tile(), x, engine="dma", busy=0, latency=0)
        total = fetch(tile(), x, engine="dma", busy=0, latency=0)
        return lax.scan(body, total, None, length=20)[0]

    clock = read(kernel, trace_core=(0,))
    held = [e for e in clock.events if e.engine == "sbuf in use"]
    # 20 tiles, 21 values of `total`, and `x_tile`, the only one that lives long.
    assert (
        sum(e.end - e.start < clock.end_ticks / 2 for e in held) == 41
        and len(held) == 42
    )
    jumped = sorted((e.start, e.end) for e in held)
    stepped = read(kernel, trace_core=(0,), jump=False).events
    assert jumped == sorted(
        (e.start, e.end) for e in stepped if e.engine == "sbuf in use"
    )


def test_every_engine_splits_into_fill_work_and_waits():
    def kernel(x):
        a = fetch(tile(), x, engine="io", busy=10, latency=100)  # ready at 400
        b = op(tile(), a, engine="mul", busy=12, latency=12)  # 400 to 424
        c = op(tile(), a, engine="add", busy=20, latency=20)  # 400 to 460
        b = op(b, c, engine="mul", busy=1, latency=1)  # 460
        return b

    spent = read(kernel).spent
    assert spent[("mul", "fill")] == 400 and spent[("mul", "wait:add")] == 36
    assert spent[("mul", "work")] == 26 and spent[("add", "fill")] == 400
