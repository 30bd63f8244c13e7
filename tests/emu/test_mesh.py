"""One program, run as `vmap`, on real devices and differentiated, gives the same numbers."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from emu import Known, Program, strict_jit
from emu.errors import LimitExceeded
from tests.helpers import (
    F32,
    SHAPE,
    TOY,
    accumulate,
    add,
    all_add,
    copy_into,
    load,
    mul,
    split,
    store,
    tile,
)

MESH = {"r": 4, "c": 2}


def exchange(x, w):
    """`sum over r of (x * w)`, plus the core's own index."""
    p = mul(tile(), load(tile(), x), load(tile(), w))
    total = all_add(tile(), p, axis="r")

    def body(acc, _):
        return accumulate(acc, total), None

    acc, _ = lax.scan(body, load(tile(), x), None, length=3)
    low, high = split(tile(), tile(), acc)
    return store(low), store(high)


def arguments(seed):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(4, 2, *SHAPE)).astype(np.float32), rng.normal(
        size=(2, *SHAPE)
    ).astype(np.float32)


PROGRAM = Program(exchange, MESH, (("r", "c"), ("c",)), (("r", "c"), ("r", "c")))


def test_vmap_equals_numpy_and_shard_map():
    x, w = arguments(0)
    low, high = PROGRAM.run(x, w)
    wide = x.astype(np.float64)
    expected = wide + 3 * (wide * w).sum(0, keepdims=True)
    np.testing.assert_allclose(low, np.minimum(expected, 0), atol=1e-5)
    np.testing.assert_allclose(high, np.maximum(expected, 0), atol=1e-5)
    for mine, real in zip(
        (low, high), PROGRAM.sharded(check_vma=True)(x, w), strict=True
    ):
        np.testing.assert_allclose(mine, real, rtol=1e-6, atol=1e-6)


def test_collective_along_the_inner_axis():
    p = Program(
        lambda x: store(all_add(tile(), load(tile(), x), axis="c")), MESH, (("r", "c"),)
    )
    x, _ = arguments(1)
    np.testing.assert_array_equal(
        p.run(x), np.broadcast_to(x[:, :1] + x[:, 1:], x.shape)
    )
    np.testing.assert_array_equal(p.run(x), p.sharded()(x))


def test_axes_in_any_place():
    """Mesh axes may lead, trail or be swapped in arguments and results."""
    p = Program(
        lambda x: store(load(tile(), x)),
        MESH,
        (("c", None, "r"),),
        (None, "c", None, "r"),
    )
    x = np.arange(2 * 2 * 4 * 3, dtype=np.float32).reshape(2, 2, 4, 3)
    expected = np.transpose(x, (1, 0, 3, 2))
    np.testing.assert_array_equal(p.run(x), expected)
    np.testing.assert_array_equal(p.sharded()(x), expected)
    assert (
        p.read(TOY, x).end_ticks
        == p.read(TOY, jax.ShapeDtypeStruct(x.shape, x.dtype)).end_ticks
    )


@pytest.mark.parametrize("kernel", [exchange, lambda x, w: (tile(), load(tile(), x))])
def test_varying_result_cannot_be_declared_replicated(kernel):
    """Even a fresh tile varies: each core has its own."""
    p = Program(kernel, MESH, (("r", "c"), ("c",)), ((), ()))
    with pytest.raises(ValueError, match="out_specs"):
        p.sharded(check_vma=True)(*arguments(0))


def test_replicated_argument_makes_a_varying_result():
    p = Program(lambda x: store(load(tile(), x)), MESH, ((),), ())
    with pytest.raises(ValueError, match="out_specs"):
        p.sharded(check_vma=True)(np.ones(SHAPE, np.float32))


def test_gradient_equals_plain_jax():
    def loss(f):
        return lambda x, w: sum(jnp.sum(y * y) for y in f(x, w))

    def plain(x, w):
        acc = x + 3 * (x * w).sum(0, keepdims=True)
        return jnp.minimum(acc, 0), jnp.maximum(acc, 0)

    x, w = map(jnp.asarray, arguments(2))
    mine = jax.grad(loss(PROGRAM.batched), argnums=(0, 1))(x, w)
    wide = jax.grad(loss(lambda x, w: plain(x, w[None])), argnums=(0, 1))(x, w)
    for a, b in zip(mine, wide, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5)


def test_partial_write_and_jvp():
    def kernel(x, row):
        return copy_into(load(tile(), x), load(tile(shape=(1, 3)), row), jnp.int32(1))

    p = Program(kernel, {"r": 1}, (("r",), ("r",)))
    x, row = np.zeros((1, 2, 3), np.float32), np.ones((1, 1, 3), np.float32)
    y, dy = jax.jvp(p.batched, (x, row), (x + 5, row + 1))
    assert y.tolist() == [[[0] * 3, [1] * 3]] and dy.tolist() == [[[5] * 3, [2] * 3]]


def test_fresh_tiles_hold_nan():
    p = Program(lambda x: accumulate(tile(), load(tile(), x)), {"r": 2}, ((),))
    assert np.isnan(p.run(np.ones(SHAPE, np.float32))).all()


def test_every_intermediate_is_rounded():
    """A chain of bfloat16 multiplies and adds equals NumPy's, which rounds each step."""
    bf16 = np.dtype(jnp.bfloat16)
    t = lambda: tile(shape=(7, 143), dtype=jnp.bfloat16)  # noqa: E731

    def kernel(x, w):
        x, w = load(t(), x), load(t(), w)
        for _ in range(3):
            x = add(t(), mul(t(), x, w), w)
        return store(x)

    rng = np.random.default_rng(3)
    x, w = (rng.normal(size=(2, 7, 143)).astype(bf16) for _ in range(2))
    expected, loose = x, x.astype(np.float32)
    for _ in range(3):
        expected = expected * w + w
        loose = loose * w.astype(np.float32) + w.astype(np.float32)
    got = Program(kernel, {"r": 2}, (("r",), ("r",))).run(x, w)
    np.testing.assert_array_equal(np.asarray(got), expected)
    assert (
        loose.astype(bf16) != expected
    ).mean() > 0.1  # so the test could have failed
    np.testing.assert_array_equal(strict_jit(lambda x, w: x * w + w)(x, w), x * w + w)


def test_pytrees_and_known_arguments():
    def kernel(batch, n):
        t = load(tile(), batch["x"])
        return {"y": store(lax.cond(n > 2, lambda t: add(t, t, t), lambda t: t, t))}

    p = Program(kernel, {"r": 2}, (({"x": ("r",)}), ()), {"y": ("r",)})
    x = np.ones((2, *SHAPE), np.float32)
    for n in (2, 3):
        np.testing.assert_array_equal(
            p.run({"x": x}, Known(np.int32(n)))["y"], x * (1 + (n > 2))
        )
        r = p.read(TOY, {"x": x}, Known(np.int32(n)))
        assert r.tally.by("count").get("toy.add", 0) == 2 * (n > 2)
    with pytest.raises(LimitExceeded, match="1 argument, must be 2"):
        p.read(TOY, {"x": F32})
