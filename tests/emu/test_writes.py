"""Which inputs a body writes in place, through views, branches and loops."""

import jax
import jax.numpy as jnp
from jax import lax

from emu.loops.writes import written
from emu.tracing import jaxpr as jx
from tests.helpers import add, load, tile

F = jax.ShapeDtypeStruct((8, 16), jnp.float32)


def inputs_written(fn, n):
    return written(jx.trace(fn, [F] * n, {}))


def test_destinations_are_written_and_sources_are_not() -> None:
    assert inputs_written(lambda dst, x: load(dst, x), 2) == {0}
    assert inputs_written(lambda a, b: add(tile(shape=(8, 16)), a, b), 2) == frozenset()


def test_views_share_their_buffer() -> None:
    def kernel(dst, x):
        return load(dst.reshape(16, 8).reshape(8, 16), x)

    assert inputs_written(kernel, 2) == {0}


def test_branches_and_loops_are_looked_into() -> None:
    def kernel(a, b, x):
        a = lax.cond(lax.eq(jnp.int32(0), 1), lambda a: load(a, x), lambda a: a, a)
        b, _ = lax.scan(lambda b, _: (load(b, x), None), b, None, length=3)
        return a, b

    assert inputs_written(kernel, 3) == {0, 1}


def test_a_result_is_its_destination_and_not_what_was_read() -> None:
    def kernel(dst, x):
        def body(dst, _):
            # Written again in the next iteration: `x` is still only read.
            dst = load(dst, x)
            return add(dst, dst, dst), None

        dst, _ = lax.scan(body, dst, None, length=3)
        dst = lax.cond(lax.eq(jnp.int32(0), 1), lambda d: load(d, x), lambda d: d, dst)
        return load(dst, x)

    assert inputs_written(kernel, 2) == {0}


def test_a_carry_may_become_another_input() -> None:
    def kernel(a, b, x):
        def body(state, _):
            a, b = state
            return (b, load(a, x)), None

        return lax.scan(body, (a, b), None, length=3)[0]

    assert inputs_written(kernel, 3) == {0, 1}
