"""Peak bytes of a core, counted by hand."""

import jax
import jax.numpy as jnp
from jax import lax

from emu import Program
from tests.helpers import F32, TILE_BYTES, TOY, accumulate, add, load, mul, store, tile

LENGTH = 7


def peak(kernel, *args):
    return Program(kernel, {"r": 2}, ((),) * len(args)).memory(TOY, *args)


def test_tiles_die_with_their_last_use():
    def kernel(x):
        a = load(tile(), x)
        b = mul(tile(), a, a)  # a and b
        c = add(tile(), b, b)  # b and c: a is dead
        return store(c)

    assert peak(kernel, F32) == {"sbuf": 2 * TILE_BYTES, "hbm": 2 * TILE_BYTES}


def test_views_and_results_in_place_share_storage():
    def kernel(x):
        a = load(tile(), x)
        return store(accumulate(a.reshape(3, 2), a.reshape(3, 2)))

    assert peak(kernel, F32)["sbuf"] == TILE_BYTES


def test_ring_and_tile_declared_in_a_loop_count_once():
    def kernel(x):
        def body(carry, _):
            ring, acc = carry
            new = load(ring[0], x)
            acc = accumulate(acc, mul(tile(), new, new))
            return ((*ring[1:], new), acc), None

        ring = tuple(tile() for _ in range(3))
        (_, acc), _ = lax.scan(body, (ring, load(tile(), x)), None, length=LENGTH)
        return store(acc)

    assert peak(kernel, F32)["sbuf"] == (3 + 1 + 1) * TILE_BYTES


def test_a_loop_early_in_a_kernel_does_not_keep_its_tiles():
    """Inner and outer equations are numbered apart."""

    def kernel(x):
        a = load(tile(), x)

        def body(acc, _):
            for _ in range(20):
                acc = accumulate(acc, a)
            return acc, None

        acc, _ = lax.scan(body, load(tile(), x), None, length=LENGTH)  # a and acc
        b = mul(tile(), acc, acc)  # acc and b: a is dead
        return store(mul(tile(), b, b))

    assert peak(kernel, F32)["sbuf"] == 2 * TILE_BYTES


def test_stacked_outputs_live_from_the_first_iteration():
    def kernel(x):
        def body(acc, _):
            return accumulate(acc, acc), store(acc)

        return lax.scan(body, load(tile(), x), None, length=LENGTH)[1]

    assert peak(kernel, F32)["hbm"] == (1 + LENGTH) * TILE_BYTES


def test_branches_take_the_larger():
    def kernel(x):
        a = load(tile(), x)
        large = lambda t: mul(t, add(tile(), a, a), add(tile(), a, a))  # noqa: E731
        small = lambda t: mul(t, a, a)  # noqa: E731
        return store(
            lax.cond(lax.axis_index("r") == 0, large, small, load(tile(), a_of(x)))
        )

    def a_of(x):
        return x

    assert peak(kernel, F32)["sbuf"] == 4 * TILE_BYTES


def test_arguments_and_constants_are_at_home():
    table = jnp.ones((2, 3))
    other = jax.ShapeDtypeStruct((100,), jnp.bfloat16)

    def kernel(x, unused):
        return load(tile(), x), load(tile(), table)

    assert peak(kernel, F32, other)["hbm"] == 2 * TILE_BYTES + 200
