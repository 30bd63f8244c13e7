"""Bodies that equal each other are one, and the clock is what it is of bodies left apart."""

import functools

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from jax import lax

from emu import Program
from emu.tracing import equal_bodies
from emu.tracing import jaxpr as jx
from tests import helpers
from tests.helpers import F32, MESH, THROTTLED, TOY, fetch, op, tile

LAW = settings(max_examples=15, derandomize=True, deadline=None)
WORK = dict(busy=4, latency=9)


def in_turn(*bodies):
    """A kernel with a loop over each body, one after another."""

    def kernel(x):
        acc = fetch(tile(), x, engine="io", busy=1, latency=1)
        for body in bodies:
            acc, _ = lax.scan(body, acc, jnp.arange(5))
        return acc

    return Program(kernel, MESH, ((),))


def inner_bodies(program):
    body, _ = program.trace((F32,))
    return [jx.scan(eqn).body for eqn in body.eqns if eqn.primitive.name == "scan"]


def by_core(engine, busy=4):
    """A new function each time it is called, as a closure of a kernel is."""

    def step(acc, i):
        def use(acc):
            passing = op(tile(buffers=2), acc, engine=engine, busy=busy, latency=9)
            return op(acc, passing, engine="add", **WORK)

        return lax.cond(i < lax.axis_index("r") + 2, use, lambda acc: acc, acc), None

    return step


def test_equal_bodies_are_one():
    first, second, third = inner_bodies(
        in_turn(by_core("mul"), by_core("io"), by_core("mul"))
    )
    assert first is third
    assert first is not second


@pytest.mark.parametrize("busy", [4.0, np.int32(5)])
def test_a_parameter_tells_bodies_apart(busy):
    """4.0 equals 4, and yet is another parameter."""
    first, second = inner_bodies(in_turn(by_core("mul"), by_core("mul", busy)))
    assert first is not second


def test_lines_tell_bodies_apart():
    def once(acc, _):
        return op(acc, acc, engine="add", **WORK), None

    def on_another_line(acc, _):
        return op(acc, acc, engine="add", **WORK), None

    bodies = inner_bodies(in_turn(once, on_another_line, once))
    assert bodies[0] is bodies[2] is not bodies[1]


def test_operands_tell_bodies_apart():
    def step(kept_last, acc, _):
        kept = op(tile(), acc, engine="mul", **WORK)
        acc = op(acc, kept, engine="add", **WORK)
        return op(acc, kept if kept_last else acc, engine="io", **WORK), None

    each = [functools.partial(step, kept_last) for kept_last in (True, False, True)]
    bodies = inner_bodies(in_turn(*each))
    assert bodies[0] is bodies[2] is not bodies[1]


@LAW
@given(helpers.programs())
@pytest.mark.parametrize("device", [TOY, THROTTLED], ids=["plain", "throttled"])
def test_random_programs_twice_in_a_row(device, program):
    """What was kept of the first is right for the second, as stepping bodies apart tells."""
    kernel = functools.partial(helpers.kernel_of, program)

    def twice(x):
        return kernel(x), kernel(x)

    together = Program(twice, MESH, ((),))
    found = together.read(device, F32)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(equal_bodies, "shared", lambda body: body)
        apart = Program(twice, MESH, ((),)).read(device, F32, jump=False)
    helpers.same_clock(found, apart)
