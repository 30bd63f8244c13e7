"""Values of activations against float64 NumPy.

A transcendental is good to a few units in the last place, a sum of n terms makes at most n float32
roundings.
"""

import math

import jax.numpy as jnp
import numpy as np
import pytest

from emu.errors import LimitExceeded
from emu.trainium import isa
from emu.trainium.engines.operators import UNARY, VALID_RANGE
from tests.emu.trainium.operands import BF16, F32, assert_close, blank, draw, wide

DTYPES = pytest.mark.parametrize("dtype", [F32, BF16], ids=["fp32", "bf16"])
erf = np.vectorize(math.erf)


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def normal(x):
    return (1 + erf(x / np.sqrt(2))) / 2


NUMPY = {
    "copy": lambda x: x,
    "identity": lambda x: x,
    "exp": np.exp,
    "silu": lambda x: x * sigmoid(x),
    "silu_dx": lambda x: sigmoid(x) * (1 + x * (1 - sigmoid(x))),
    "square": np.square,
    "sqrt": np.sqrt,
    "rsqrt": lambda x: 1 / np.sqrt(x),
    "reciprocal": lambda x: 1 / x,
    "sigmoid": sigmoid,
    "tanh": np.tanh,
    "relu": lambda x: np.maximum(x, 0),
    "gelu": lambda x: x * normal(x),
    "gelu_apprx_tanh": lambda x: (
        x / 2 * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))
    ),
    "gelu_apprx_sigmoid": lambda x: x * sigmoid(1.702 * x),
    "gelu_dx": lambda x: normal(x) + x * np.exp(-(x**2) / 2) / np.sqrt(2 * np.pi),
    "softplus": lambda x: np.log1p(np.exp(x)),
    "mish": lambda x: x * np.tanh(np.log1p(np.exp(x))),
    "erf": erf,
    "erf_dx": lambda x: 2 / np.sqrt(np.pi) * np.exp(-(x**2)),
    "log": np.log,
    "sin": np.sin,
    "arctan": np.arctan,
    "sign": np.sign,
    "abs": np.abs,
}
POSITIVE = ("sqrt", "rsqrt", "log", "reciprocal")
# Near a zero.
CANCELS = (
    "silu_dx",
    "gelu_dx",
    "gelu",
    "gelu_apprx_tanh",
    "log",
    "erf",
    "mish",
)


def inputs(op, dtype):
    x, bias = draw(0, 8, 33, dtype=dtype), draw(1, 8, 1)
    if op in POSITIVE:
        return np.abs(x), np.abs(bias)
    return (np.clip(x, -1.5, 1.5), bias / 16) if op == "arctan" else (x, bias)


def steepness(op, x):
    """How much a change of the input moves the result, by a central difference."""
    f, h = NUMPY[op], 1e-6 * (1 + np.abs(x))
    if op in POSITIVE:
        h = np.minimum(h, x / 4)
    return np.abs(f(x + h) - f(x - h)) / (2 * h)


def test_every_function_is_tried():
    assert NUMPY.keys() == UNARY.keys()


@DTYPES
@pytest.mark.parametrize("op", NUMPY)
def test_activations(op, dtype):
    x, bias = inputs(op, dtype)
    given, column, out = jnp.asarray(x), jnp.asarray(bias), blank(8, 33, dtype=dtype)
    scaled = wide(x) * 0.75
    expected = NUMPY[op](scaled)
    scale = np.abs(expected) + (1.0 if op in CANCELS else 0.0)
    plain = isa.activation(out, given, op=op, scale=0.75)
    assert_close(plain, expected, operations=16, scale=scale)
    # The bias may cancel the input: its roundings are relative to both, times the steepness.
    shifted = scaled + wide(bias)
    y = NUMPY[op](shifted)
    size = (np.abs(scaled) + np.abs(bias)) * steepness(op, shifted)
    scale = np.abs(y) + size + (1.0 if op in CANCELS else 0.0)
    both = isa.activation_bias(out, given, column, op=op, scale=0.75)
    assert_close(both, y, operations=16, scale=scale)
    by_column = isa.activation_scaled(out, given, jnp.full((8, 1), 0.75), column, op=op)
    np.testing.assert_array_equal(by_column, both)
    piece, total = isa.activation_reduce(
        out, blank(8, 1), given, column, op=op, scale=0.75
    )
    np.testing.assert_array_equal(piece, both)
    sums = np.sum(scale, axis=1, keepdims=True)
    assert_close(total, y.sum(axis=1, keepdims=True), operations=16 + 33, scale=sums)


# Function: inputs at the edges of its range, and just outside.
EDGES = {
    "log": ([2.0**-64, 2.0**64], [2.0**-65, 2.0**65, 0.0, -1.0]),
    "sin": ([-3.1415926, 3.1415926], [-3.1415930, 3.1415930]),
    "arctan": ([-1.5707963, 1.5707963], [-1.5707965, 1.5707965]),
    "sqrt": ([2.0**-116, 2.0**118], [2.0**-117, 2.0**119, 0.0, -1.0]),
    "rsqrt": ([2.0**-87, 2.0**97], [2.0**-88, 2.0**98, 0.0, -1.0]),
    "reciprocal": ([2.0**-42, -(2.0**42)], [2.0**-43, -(2.0**43), 0.0]),
}


@pytest.mark.parametrize("op", EDGES)
def test_outside_its_range_a_result_is_invalid(op):
    assert EDGES.keys() == VALID_RANGE.keys()
    for x, test in zip(EDGES[op], (np.isfinite, np.isnan), strict=True):
        given = jnp.asarray([x], jnp.float32)
        assert test(np.asarray(isa.activation(blank(*given.shape), given, op=op))).all()


CHAINS = {
    ("multiply", "add"): lambda x, a, b: x * a + b,
    ("multiply", "subtract"): lambda x, a, b: x * a - b,
    ("multiply", "bypass"): lambda x, a, b: x * a,
    ("add", "bypass"): lambda x, a, b: x + a,
    ("subtract", "bypass"): lambda x, a, b: x - a,
    ("bypass", "bypass"): lambda x, a, b: x,
}
REDUCED = {
    "add": np.sum,
    "max": np.max,
    "min": np.min,
    "absmax": lambda x, axis: np.max(np.abs(x), axis),
    "absmin": lambda x, axis: np.min(np.abs(x), axis),
}


@pytest.mark.parametrize("reduce", REDUCED)
@pytest.mark.parametrize("op0, op1", CHAINS)
def test_activate2(op0, op1, reduce):
    x, a, b = draw(0, 8, 3, 11), draw(1, 8, 1), draw(2, 8, 1)
    y, total = isa.activate2(
        blank(8, 3, 11),
        blank(8, 1),
        *(jnp.asarray(v) for v in (x, a, b)),
        op="tanh",
        op0=op0,
        op1=op1,
        reduce=reduce,
    )
    columns = (wide(v)[..., None] for v in (a, b))
    expected = np.tanh(CHAINS[op0, op1](wide(x), *columns))
    size = (
        np.abs(wide(x)) * (1 + np.abs(a[..., None]))
        + np.abs(a[..., None])
        + np.abs(b[..., None])
    )
    assert_close(y, expected, operations=16, scale=size)
    flat = expected.reshape(8, -1)
    sums = size.reshape(8, -1).sum(1, keepdims=True)
    assert_close(
        total, REDUCED[reduce](flat, 1)[:, None], operations=16 + 33, scale=sums
    )


def test_activate2_with_sides_swapped():
    """`b - a · x` and `a - x`, exact for small integers."""
    x, a, b = (
        np.random.default_rng(i).integers(-9, 9, (3, 5)).astype(F32) for i in range(3)
    )
    args = jnp.asarray(x), jnp.asarray(a[:, :1]), jnp.asarray(b[:, :1])
    dst = blank(3, 5), blank(3, 1)
    y, _ = isa.activate2(
        *dst, *args, op="copy", op0="multiply", op1="subtract", reverse1=True
    )
    np.testing.assert_array_equal(y, b[:, :1] - a[:, :1] * x)
    y, _ = isa.activate2(*dst, *args, op="copy", op0="subtract", reverse0=True)
    np.testing.assert_array_equal(y, a[:, :1] - x)


def test_no_such_function():
    with pytest.raises(
        LimitExceeded, match="trn.activation: op is 'cosh', must be one of copy"
    ):
        isa.activation(jnp.zeros((2, 2)), jnp.zeros((2, 2)), op="cosh")
