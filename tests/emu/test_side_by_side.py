"""Independent tiles: computed side by side or in order, the clock reads one loop."""

import contextlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax import lax

from emu import Program
from emu.errors import StaleTile
from emu.tracing import jaxpr as jx
from emu.tracing.side_by_side import in_order, is_in_order, tiles
from tests.helpers import (
    SHAPE,
    TOY,
    accumulate,
    add,
    copy_into,
    load,
    mul,
    same_clock,
    store,
    tile,
)

ROWS, COLUMNS = SHAPE
READINGS = {"side by side": contextlib.nullcontext, "in order": in_order}


def doubled(x):
    """One tile's work: `x² + x²`."""
    loaded = load(tile(buffers=2), x)
    square = mul(tile(buffers=2), loaded, loaded)
    return add(tile(), square, square)


def emit(into, at, y):
    return copy_into(into, y, at * ROWS)


def collected(xs, at_once=None):
    """Every slice doubled, in one SBUF tile, and stored."""
    into = tile(shape=(len(xs) * ROWS, COLUMNS))
    return store(tiles(doubled, xs, into=into, emit=emit, at_once=at_once))


def stored(xs, at_once=None):
    """Every slice doubled and stored by itself."""
    return tiles(lambda x: store(doubled(x)), xs, at_once=at_once)


def collected_by_hand(xs):
    def one(into, at):
        i, x = at
        return emit(into, i, doubled(x)), None

    into = tile(shape=(len(xs) * ROWS, COLUMNS))
    return store(lax.scan(one, into, (jnp.arange(len(xs)), xs))[0])


def stored_by_hand(xs):
    return lax.scan(lambda _, x: (None, store(doubled(x))), None, xs)[1]


PAIRS = {
    "collected": (collected, collected_by_hand),
    "stored": (stored, stored_by_hand),
}


def program(kernel, cores=1):
    return Program(kernel, {"core": cores}, (("core",),))


def draw(count, cores=1):
    return np.random.default_rng(count).standard_normal(
        (cores, count, *SHAPE), np.float32
    )


def expected(xs):
    return 2 * np.square(xs)


# --- values ---


@settings(max_examples=12, deadline=None)
@given(st.integers(1, 7), st.none() | st.integers(1, 8), st.sampled_from(sorted(PAIRS)))
def test_values_are_the_same_however_many_are_computed_at_once(count, at_once, name):
    xs = draw(count, cores=2)
    kernel = lambda xs: PAIRS[name][0](xs, at_once)  # noqa: E731
    for reading in READINGS.values():
        with reading():
            out = program(kernel, cores=2).run(xs)
            np.testing.assert_array_equal(
                np.asarray(out).reshape(xs.shape), expected(xs)
            )


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_parts_along_any_axis(axis):
    """Each slice is added to its own part of what the buffer holds."""
    parts, shape = 3, [2, 2, 2]
    shape[axis] *= parts
    into = jnp.arange(24, dtype=jnp.float32).reshape(shape)
    xs = jnp.asarray([1.0, 10.0, 100.0])

    def widen(into, at, y):
        old = lax.dynamic_slice_in_dim(into, at * 2, 2, axis)
        return lax.dynamic_update_slice_in_dim(into, old + y, at * 2, axis)

    added = jnp.repeat(xs, 2).reshape([6 if d == axis else 1 for d in range(3)])
    for reading in READINGS.values():
        with reading():
            out = tiles(lambda x: x, xs, into=into, emit=widen, axis=axis)
            np.testing.assert_array_equal(out, into + jnp.broadcast_to(added, shape))


def test_nested():
    """A loop of tiles in each tile of another."""
    xs = draw(6)[0].reshape(2, 3, *SHAPE)
    for reading in READINGS.values():
        with reading():
            np.testing.assert_array_equal(tiles(stored, jnp.asarray(xs)), expected(xs))


@pytest.mark.parametrize("reading", READINGS)
def test_gradient(reading):
    xs = jnp.asarray(draw(3)[0])
    with READINGS[reading]():
        slope = jax.grad(lambda xs: stored(xs).sum())(xs)
    np.testing.assert_array_equal(slope, 4 * xs)  # of 2 x²


def test_a_tile_of_another_iteration_is_poison():
    """Reading the part before: in order there is a value, side by side only the part's own NaN."""

    def chained(xs):
        def emit_sum(into, at, y):
            before = lax.dynamic_slice_in_dim(into, (at - 1) * ROWS, ROWS, 0)
            return copy_into(into, add(tile(), y, before), at * ROWS)

        # The part before the first is the last one, as indices below 0 count from the end.
        into = copy_into(
            tile(shape=(3 * ROWS, COLUMNS)), jnp.zeros(SHAPE), jnp.int32(2 * ROWS)
        )
        return tiles(doubled, xs, into=into, emit=emit_sum)

    xs = jnp.ones((3, *SHAPE))
    with in_order():
        each_adds_2 = np.repeat([[2.0], [4.0], [6.0]], ROWS, axis=0)
        np.testing.assert_array_equal(
            chained(xs), np.repeat(each_adds_2, COLUMNS, axis=1)
        )
    assert np.isnan(chained(xs)[: 2 * ROWS]).all()


def test_a_tile_shared_by_iterations_is_found_by_the_clock():
    """Adding to a tile declared outside: the second iteration reads what the first overwrote."""

    def shared(xs):
        total = load(tile(), xs[0])
        return tiles(lambda x: store(accumulate(total, load(tile(), x))), xs)

    with pytest.raises(StaleTile, match="overwritten by toy.accumulate"):
        program(shared).read(TOY, draw(3))


def largest(body):
    """Elements of the largest array that a jaxpr makes."""
    sizes = [1]
    for eqn in body.eqns:
        inner = jx.scan(eqn).body if eqn.primitive.name == "scan" else jx.call(eqn)
        sizes += [v.aval.size for v in eqn.outvars]
        sizes += [largest(inner)] if inner else []
    return max(sizes)


def test_memory_is_bounded_by_how_many_are_computed_at_once():
    """Each of 256 slices of 64 elements makes a matrix of 64 x 64 on the way to one number."""
    xs = jnp.ones((256, 64))

    def made(at_once):
        def outer(x):
            return (x[:, None] * x[None]).max()

        def fn(xs):
            return tiles(outer, xs, at_once=at_once)

        return largest(jx.body(jax.make_jaxpr(fn)(xs)))

    assert made(8) == max(8 * 64 * 64, xs.size)
    assert made(None) == 256 * 64 * 64


def test_parts_must_be_equal():
    with pytest.raises(
        ValueError, match=r"float32\[4, 3\] has no equal part for each of 3 slices"
    ):
        tiles(doubled, draw(3)[0], into=jnp.zeros((4, COLUMNS)), emit=emit)


# --- clock ---


@pytest.mark.parametrize("name", PAIRS)
@pytest.mark.parametrize("jump", [True, False])
def test_the_clock_reads_one_loop(name, jump):
    ours, by_hand = (program(kernel) for kernel in PAIRS[name])
    xs = draw(9)
    clock = ours.read(TOY, xs, jump=jump)
    same_clock(clock, by_hand.read(TOY, xs, jump=jump))
    assert ours.memory(TOY, xs) == by_hand.memory(TOY, xs)


def test_ticks_do_not_depend_on_how_a_kernel_is_given_or_run():
    """Structs, arrays, jitted, launched by vmap, and side by side at any width."""
    xs = draw(5, cores=2)
    plain = program(collected, cores=2)
    clock = plain.read(TOY, jax.ShapeDtypeStruct(xs.shape, xs.dtype))
    same_clock(clock, plain.read(TOY, xs))
    plain.run(xs)
    same_clock(clock, plain.read(TOY, xs))
    for at_once in (1, 2, 5):
        same_clock(
            clock, program(lambda xs: collected(xs, at_once), cores=2).read(TOY, xs)
        )
    jitted = program(jax.jit(collected), cores=2)
    jitted.run(xs)  # traces it side by side, which the clock must not be given
    same_clock(clock, jitted.read(TOY, xs))
    np.testing.assert_array_equal(jitted.run(xs), plain.run(xs))


def test_only_the_clock_traces_in_order_unasked():
    """A kernel is traced again for its values, whichever reading comes first."""
    seen = []

    @jax.jit
    def kernel(xs):
        seen.append(is_in_order())
        return stored(xs)

    xs = draw(2)
    noted = program(kernel)
    for _ in range(2):
        noted.read(TOY, xs)
        noted.run(xs)
    assert seen == [True, False]
    assert not is_in_order()


def test_run_in_order_takes_the_trace_that_is_read():
    seen = []

    @jax.jit
    def kernel(xs):
        seen.append(is_in_order())
        return stored(xs)

    xs = draw(2)
    noted = program(kernel)
    one_by_one = noted.run(xs, in_order=True)
    noted.read(TOY, xs)
    assert seen == [True]
    np.testing.assert_array_equal(one_by_one, noted.run(xs))
    assert seen == [True, False]
