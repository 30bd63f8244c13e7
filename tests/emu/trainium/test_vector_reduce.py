"""Values of reductions, scans and statistics against float64 NumPy.

Bounds count float32 roundings: a sum of n terms makes at most n.
"""

import jax.numpy as jnp
import numpy as np
import pytest

from emu.trainium import isa
from emu.trainium.engines.operators import REDUCE
from tests.emu.trainium.operands import BF16, F32, assert_close, blank, draw, wide

DTYPES = pytest.mark.parametrize("dtype", [F32, BF16], ids=["fp32", "bf16"])
NUMPY = {
    "add": np.sum,
    "multiply": np.prod,
    "max": np.max,
    "min": np.min,
    "absmax": lambda x, axis: np.max(np.abs(x), axis),
    "absmin": lambda x, axis: np.min(np.abs(x), axis),
}


def magnitude(op, x):
    """What the roundings of a reduction are relative to."""
    return NUMPY["add" if op == "add" else op](np.abs(x), -1)


@DTYPES
@pytest.mark.parametrize("op", NUMPY)
def test_reduce(op, dtype):
    assert NUMPY.keys() == REDUCE.keys()
    x = draw(0, 8, 3, 33, dtype=dtype)
    given, expected = jnp.asarray(x), NUMPY[op](wide(x), -1)[..., None]
    scale = magnitude(op, wide(x))[..., None]
    for negate in (False, True):
        actual = isa.tensor_reduce(
            blank(8, 3, 1, dtype=dtype), given, op=op, negate=negate
        )
        sign = -1 if negate else 1
        assert_close(actual, sign * expected, operations=33, scale=scale)


@DTYPES
@pytest.mark.parametrize("reduce", ["add", "multiply", "max", "min"])
def test_scalar_reduce(reduce, dtype):
    x, c = draw(0, 8, 3, 9, dtype=dtype), draw(1, 8, 1)
    y, total = isa.tensor_scalar_reduce(
        blank(8, 3, 9, dtype=dtype),
        blank(8, 1),
        jnp.asarray(x),
        jnp.asarray(c),
        op="multiply",
        reduce=reduce,
    )
    products = wide(x) * wide(c)[..., None]
    assert_close(y, products)
    flat = products.reshape(8, -1)
    scale = magnitude(reduce, flat)[:, None]
    assert_close(
        total, NUMPY[reduce](flat, -1)[:, None], operations=2 * 27, scale=scale
    )


@DTYPES
@pytest.mark.parametrize(
    "op0, op1", [("multiply", "add"), ("max", "add"), ("add", "min")]
)
def test_scan(op0, op1, dtype):
    a, b, start = (
        draw(0, 5, 40, dtype=dtype),
        draw(1, 5, 40, dtype=dtype),
        draw(2, 5, 1),
    )
    a = (a / 4).astype(dtype)  # so that products do not grow
    f = {"multiply": np.multiply, "add": np.add, "max": np.maximum, "min": np.minimum}
    state, expected = wide(start)[:, 0], np.empty((5, 40))
    for i in range(40):
        state = expected[:, i] = f[op1](f[op0](wide(a)[:, i], state), wide(b)[:, i])
    actual = isa.tensor_tensor_scan(
        blank(5, 40, dtype=dtype),
        jnp.asarray(a),
        jnp.asarray(b),
        jnp.asarray(start),
        op0=op0,
        op1=op1,
    )
    scale = np.cumsum(np.abs(wide(a)) + np.abs(wide(b)), 1) + np.abs(wide(start)) + 1
    assert_close(actual, expected, operations=80, scale=scale)


def test_scan_with_sides_swapped():
    """`b - (state - a)`, which is exact for small integers."""
    a, b = (
        np.random.default_rng(i).integers(-9, 9, (3, 7)).astype(F32) for i in range(2)
    )
    state, expected = np.ones(3), np.empty((3, 7))
    for i in range(7):
        state = expected[:, i] = b[:, i] - (state - a[:, i])
    actual = isa.tensor_tensor_scan(
        blank(3, 7),
        jnp.asarray(a),
        jnp.asarray(b),
        jnp.ones((3, 1)),
        op0="subtract",
        op1="subtract",
        reverse0=True,
        reverse1=True,
    )
    np.testing.assert_array_equal(actual, expected)


@DTYPES
@pytest.mark.parametrize("n", [1, 2, 101, 512])
def test_bn_stats(n, dtype):
    x = draw(0, 6, n, dtype=dtype)
    stats = isa.bn_stats(blank(6, 6), jnp.asarray(x))
    for i, part in enumerate((wide(x)[:, ::2], wide(x)[:, 1::2])):
        count, mean, spread = np.asarray(stats)[:, 3 * i : 3 * i + 3].T
        size = part.shape[1]
        assert (count == size).all()
        if size:
            assert_close(
                mean, part.mean(1), operations=size, scale=np.abs(part).mean(1)
            )
            squares = (part**2).sum(1)
            assert_close(spread, part.var(1) * size, operations=4 * size, scale=squares)


def test_bn_aggr_of_several_tiles():
    """Statistics of three pieces of different length give those of the whole."""
    x = draw(0, 6, 700) + np.float32(3)
    pieces = [jnp.asarray(p) for p in np.split(x, [512, 613], axis=1)]
    stats = jnp.concatenate([isa.bn_stats(blank(6, 6), p) for p in pieces], axis=1)
    mean, variance = np.asarray(isa.bn_aggr(blank(6, 2), stats)).T
    assert_close(mean, wide(x).mean(1), operations=700)
    assert_close(variance, wide(x).var(1), operations=2 * 700)


@DTYPES
def test_exponential(dtype):
    x = draw(0, 8, 33, dtype=dtype)
    highest = x.max(1, keepdims=True).astype(F32)
    y, total = isa.exponential(
        blank(8, 33, dtype=dtype), blank(8, 1), jnp.asarray(x), jnp.asarray(highest)
    )
    expected = np.exp(wide(x) - wide(highest))
    # The difference rounds once, relative to its size, which exp turns into a relative error.
    scale = expected * (1 + np.abs(wide(x) - wide(highest)))
    assert_close(y, expected, operations=4, scale=scale)
    sums = scale.sum(1, keepdims=True)
    assert_close(total, expected.sum(1, keepdims=True), operations=33 + 4, scale=sums)
