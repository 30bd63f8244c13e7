"""Which integers decide: followed back through branches, calls and the carries of loops."""

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from emu.clock.ticks import folded
from emu.loops import relevant
from emu.tracing import jaxpr as jx

MESH = {"chip": 4, "core": 2}


def loop_of(fn, *avals):
    """The one `scan` of a function."""
    body = jx.trace(fn, list(avals), MESH)
    (eqn,) = [eqn for eqn in body.eqns if eqn.primitive.name == "scan"]
    return jx.scan(eqn)


def whole(*shape):
    return jax.ShapeDtypeStruct(shape, jnp.int32)


def test_what_is_carried_into_a_branch_matters_and_what_is_beside_it_does_not():
    def fn(first, beside, steps):
        def turn(carry, step):
            limit, other = carry
            core = lax.axis_index("core")
            # A turn later `limit` is what `step` was: both matter. `other` meets no branch.
            taken = lax.cond(
                limit < lax.axis_index("chip"), lambda x: x + 1, lambda x: x, other
            )
            return (limit + step, taken + core), None

        return lax.scan(turn, (first, beside), steps)

    found = relevant.of_loop(loop_of(fn, whole(), whole(), whole(5)))
    assert found.inputs == {0, 2}
    assert found.axes == {"chip"}


def test_a_chain_of_carries_is_followed_to_its_end():
    """What is decided in the third turn came in as the last of three carries."""

    def fn(a, b, c, d):
        def turn(carry, _):
            a, b, c, d = carry
            x = lax.cond(a > 0, lambda x: x, lambda x: -x, d)
            return (b, c, c + 1, x), None

        return lax.scan(turn, (a, b, c, d), length=5)

    found = relevant.of_loop(loop_of(fn, *[whole()] * 4))
    assert found.inputs == {0, 1, 2} and not found.axes


def test_calls_and_loops_inside_are_followed():
    def fn(table, bound, unread):
        def turn(carry, _):
            limit = jax.jit(lambda x: x // 2)(bound)

            def inner(total, x):
                return lax.cond(x < limit, lambda t: t + 1, lambda t: t, total), None

            total, _ = lax.scan(inner, carry, table)
            return total + unread, None

        return lax.scan(turn, jnp.int32(0), length=3)

    loop = loop_of(fn, whole(7), whole(), whole())
    found = relevant.of_loop(loop)
    atoms = [loop.body.invars[place].aval.shape for place in found.inputs]
    assert sorted(atoms) == [(), (7,)]


def test_times_that_agree_along_a_dimension_are_told_once():
    times = np.array([[[5, 5], [7, 7]], [[5, 5], [7, 7]]])
    assert folded(times, but=0).tolist() == [[[5], [7]], [[5], [7]]]
    assert folded(times, but=2).tolist() == [[[5, 5], [7, 7]]]
    unlike = np.array([[1, 2], [3, 4]])
    assert folded(unlike, but=0) is unlike
