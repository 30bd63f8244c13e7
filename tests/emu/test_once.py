"""A step that is traced once makes the program that it makes when traced in each place."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from emu import Known, Program
from emu.tracing import equal_bodies
from emu.tracing import jaxpr as jx
from emu.tracing.once import once
from tests import helpers
from tests.helpers import F32, TOY, fetch, op, tile

WORK = dict(busy=4, latency=9)


def ring_of(wrap, x, table):
    """A step in a loop over all but the last of a table's rows, and for the last one apart."""
    outside = fetch(tile(), x, engine="io", busy=1, latency=1)

    def step(acc, row):
        def add(acc, kind):
            passing = op(tile(buffers=2), outside, engine="mul", **WORK)
            used = functools.partial(op, engine="add", **WORK)
            core = lax.axis_index("r")
            return lax.cond(kind > core, used, lambda a, b: a, acc, passing), None

        return lax.scan(add, acc, row)[0]

    step = wrap(step)
    acc = fetch(tile(), x, engine="io", busy=1, latency=30)
    acc, _ = lax.scan(lambda acc, row: (step(acc, row), None), acc, table[:-1])
    return step(acc, table[-1])


TABLE = np.arange(12, dtype=np.int32).reshape(4, 3) % 5


def as_it_is(step):
    return step


def test_equations_are_those_of_the_step_itself():
    avals = [F32, jax.ShapeDtypeStruct(TABLE.shape, TABLE.dtype)]

    def twice(wrap):
        return lambda *args: [ring_of(wrap, *args), ring_of(as_it_is, *args)]

    for wrap in (once, as_it_is):
        body = equal_bodies.shared(jx.trace(twice(wrap), avals, {"r": 2}))
        loops = [eqn for eqn in body.eqns if eqn.primitive.name == "scan"]
        bodies = [jx.scan(eqn).body for eqn in loops]
        # Of the loop over rows and of the last row's, with the wrap and without.
        assert len(bodies) == 4
        assert bodies[:2] == bodies[2:]


def test_clock_and_values_are_those_of_the_step_itself():
    x = np.arange(6, dtype=np.float32).reshape(helpers.SHAPE)
    programs = [
        Program(functools.partial(ring_of, wrap), {"r": 2}, ((), ()))
        for wrap in (once, as_it_is)
    ]
    found, wanted = [program.read(TOY, F32, Known(TABLE)) for program in programs]
    helpers.same_clock(found, wanted)
    values = [program.run(x, jnp.asarray(TABLE)) for program in programs]
    np.testing.assert_array_equal(*values)


def test_a_step_is_traced_once_for_each_shape():
    shapes = []

    def step(x):
        shapes.append(x.shape)
        return {"doubled": 2 * x}

    own = once(step)
    jax.make_jaxpr(lambda x, y: [own(x), own(x + 1), own(y)])(np.ones(3), np.ones(4))
    assert shapes == [(3,), (4,)]
