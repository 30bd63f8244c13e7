"""An instruction on all cores of a mesh is one equation, and computes what it does core by core."""

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from emu import Program
from emu.tracing import jaxpr as jx
from emu.tracing.used import used
from tests.helpers import SHAPE, add, copy_into, load, mul, tile

MESH = {"chip": 3, "core": 2}


def kernel(x, w):
    """`w` is loaded into a tile that a loop carries, and which so differs from core to core."""
    x = load(tile(), x)

    def step(carried, _):
        held, total = carried
        held = load(held, w)
        return (held, add(total, mul(tile(), x, held), total)), None

    (_, total), _ = lax.scan(step, (load(tile(), x), tile()), None, length=1)
    return total


def equations(jaxpr):
    """Equations within a jaxpr and all that is in it."""
    for eqn in jaxpr.eqns:
        yield eqn
        for body in jx.inner(eqn):
            yield from equations(body)


def arrays():
    rng = np.random.default_rng(0)
    x = rng.standard_normal((3, 2, *SHAPE)).astype(np.float32)
    w = rng.standard_normal((3, *SHAPE)).astype(np.float32)
    return jnp.asarray(x), jnp.asarray(w)


def program(kernel=kernel):
    return Program(kernel, MESH, (("chip", "core"), ("chip",)))


def test_one_equation_for_all_axes():
    traced = jx.body(jax.make_jaxpr(program().batched)(*arrays()))
    found = [eqn for eqn in equations(traced) if eqn.primitive.name == "mapped"]
    names = [eqn.params["meaning"].inst.name for eqn in found]
    tiles = ["toy.tile"] * 4
    loads = ["toy.load"] * 3
    assert sorted(names) == sorted(["toy.add", "toy.mul", *loads, *tiles])
    of_weights = [
        eqn for eqn in found if eqn.invars and eqn.invars[-1].aval.shape == (3, *SHAPE)
    ]
    # Cores share what is loaded: the tile before, which differs, has no part in it.
    assert [eqn.params["maps"] for eqn in of_weights] == [
        ((2, (0, None)), (3, (None, 0)))
    ]


def test_what_all_share_stays_one():
    """Weights of all chips that are loaded into a tile of each stay `[core, *shape]`."""

    def loads(x, w):
        return load(load(tile(), x), w)

    shared = Program(loads, MESH, (("chip", "core"), ("core",)))
    x, w = arrays()
    traced = jx.body(jax.make_jaxpr(shared.batched)(x, w[:2]))
    last = [eqn for eqn in equations(traced) if eqn.primitive.name == "mapped"][-1]
    assert last.outvars[0].aval.shape == (2, *SHAPE)
    np.testing.assert_array_equal(
        shared.run(x, w[:2]), np.broadcast_to(w[:2], (3, 2, *SHAPE))
    )


def test_values_and_gradients():
    x, w = arrays()

    def product(x, w):
        return mul(tile(), load(tile(), x), load(tile(), w))

    of_all = program(product)
    wanted = np.asarray(x) * np.asarray(w)[:, None]
    np.testing.assert_array_equal(of_all.run(x, w), wanted)
    np.testing.assert_array_equal(of_all.batched(x, w), wanted)
    by_x, by_w = jax.grad(lambda x, w: of_all.batched(x, w).sum(), (0, 1))(x, w)
    np.testing.assert_array_equal(
        by_x, np.broadcast_to(np.asarray(w)[:, None], x.shape)
    )
    # Sums of two addends: the order has no part in it.
    np.testing.assert_array_equal(by_w, np.asarray(x[:, 0] + x[:, 1]))


def test_what_a_result_depends_on():
    def of_inner(a, b, c):
        return jax.jit(lambda x, y: x + 1)(a, b), jnp.zeros_like(c)

    body = jx.body(jax.make_jaxpr(of_inner)(*[jnp.ones(3)] * 3))
    assert used(body) == (True, False, False)
    x = jnp.ones(SHAPE)
    write = jax.make_jaxpr(copy_into.meaning)(x, x[:1], 0)
    assert used(jx.body(write)) == (True, True, True)
