"""Values of elementwise arithmetic and of copies against float64 NumPy.

Bounds count float32 roundings: elementwise instructions make one an operation.
"""

import functools
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest

from emu.boxes import Old
from emu.errors import LimitExceeded
from emu.trainium import isa
from emu.trainium.engines.operators import BINARY, BITWISE
from tests.emu.trainium.operands import (
    BF16,
    E4M3,
    F16,
    F32,
    I32,
    U8,
    assert_close,
    blank,
    draw,
    wide,
)

DTYPES = pytest.mark.parametrize("dtype", [F32, BF16], ids=["fp32", "bf16"])
NUMPY = {
    "add": np.add,
    "subtract": np.subtract,
    "multiply": np.multiply,
    "max": np.maximum,
    "min": np.minimum,
    "equal": np.equal,
    "not_equal": np.not_equal,
    "greater": np.greater,
    "greater_equal": np.greater_equal,
    "less": np.less,
    "less_equal": np.less_equal,
    "logical_and": np.logical_and,
    "logical_or": np.logical_or,
    "logical_xor": np.logical_xor,
}
BITS = {
    "bitwise_and": np.bitwise_and,
    "bitwise_or": np.bitwise_or,
    "bitwise_xor": np.bitwise_xor,
    "left_shift": np.left_shift,
    "right_shift": np.right_shift,
}


# Of a narrower domain, or of one side: `test_operators`.
ELSEWHERE = {"divide", "power", "abs_max", "abs_min", "abs", "rsqrt", "reciprocal"}


def test_every_operator_is_tried():
    assert NUMPY.keys() == BINARY.keys() - ELSEWHERE and BITS.keys() == BITWISE.keys()


@DTYPES
@pytest.mark.parametrize("op", NUMPY)
def test_operators(op, dtype):
    a, b, c = draw(0, 8, 33, dtype=dtype), draw(1, 8, 33, dtype=dtype), draw(2, 8, 1)
    b[:, ::3], a[:, 1::3] = a[:, ::3], 0  # some equal, some zero
    x, y, s, out = (
        jnp.asarray(a),
        jnp.asarray(b),
        jnp.asarray(c),
        blank(8, 33, dtype=dtype),
    )

    def f(left, right):
        return NUMPY[op](left, right).astype(np.float64)

    assert_close(isa.tensor_tensor(out, x, y, op=op), f(wide(a), wide(b)))
    assert_close(isa.tensor_scalar(out, x, s, op=op), f(wide(a), wide(c)))
    assert_close(isa.tensor_scalar(out, x, s, op=op, reverse=True), f(wide(c), wide(a)))
    assert_close(isa.tensor_immediate(out, x, op=op, value=0.5), f(wide(a), 0.5))
    fused = isa.scalar_tensor_tensor(out, x, s, y, op0=op, op1="add")
    first = f(wide(a), wide(c))
    scale = np.abs(first) + np.abs(wide(b))
    assert_close(fused, first + wide(b), operations=3, scale=scale)
    swapped = isa.scalar_tensor_tensor(
        out, x, s, y, op0=op, op1="subtract", reverse0=True, reverse1=True
    )
    first = f(wide(c), wide(a))
    scale = np.abs(first) + np.abs(wide(b))
    assert_close(swapped, wide(b) - first, operations=3, scale=scale)


@DTYPES
def test_two_operators_in_one(dtype):
    """`(a - c) · 3`, `3 - a · c` and `max(a + c, d)`."""
    a, c, d = draw(0, 8, 3, 11, dtype=dtype), draw(1, 8, 1), draw(2, 8, 1)
    x, s, t, out = (
        jnp.asarray(a),
        jnp.asarray(c),
        jnp.asarray(d),
        blank(8, 3, 11, dtype=dtype),
    )
    column, other = wide(c)[..., None], wide(d)[..., None]
    size = 3 * (np.abs(wide(a)) + np.abs(column) + 1) * (1 + np.abs(column))

    def check(actual, expected):
        assert_close(actual, expected, operations=3, scale=size)

    params: Any = dict(op="subtract", op1="multiply", value1=3.0)
    check(isa.tensor_scalar(out, x, s, **params), (wide(a) - column) * 3)
    check(isa.tensor_immediate(out, x, value=0.25, **params), (wide(a) - 0.25) * 3)
    y = isa.tensor_scalar(
        out, x, s, op="multiply", op1="subtract", value1=3.0, reverse1=True
    )
    check(y, 3 - wide(a) * column)
    y = isa.tensor_scalars(out, x, s, t, op0="add", op1="max")
    check(y, np.maximum(wide(a) + column, other))
    y = isa.tensor_scalars(
        out, x, s, t, op0="subtract", op1="subtract", reverse0=True, reverse1=True
    )
    check(y, other - (column - wide(a)))


@pytest.mark.parametrize("op", BITS)
def test_bit_operators_keep_integers(op):
    rng = np.random.default_rng(0)
    a = rng.integers(0, 2**31 - 1, (4, 9), np.int32)
    b = rng.integers(0, 20, (4, 9), np.int32)
    out = jnp.zeros((4, 9), jnp.int32)
    expected = BITS[op](a, b)
    actual = isa.tensor_tensor(out, jnp.asarray(a), jnp.asarray(b), op=op)
    np.testing.assert_array_equal(actual, expected)
    column = isa.tensor_scalar(out, jnp.asarray(a), jnp.asarray(b[:, :1]), op=op)
    np.testing.assert_array_equal(column, BITS[op](a, b[:, :1]))
    fixed = isa.tensor_immediate(out, jnp.asarray(a), op=op, value=5)
    np.testing.assert_array_equal(fixed, BITS[op](a, np.int32(5)))


def test_integers_are_exact_on_gpsimd_only():
    """2**24 + 1 is the first integer that float32 does not hold."""
    x, y = jnp.full((2, 3), 2**24 + 1, jnp.int32), jnp.ones((2, 3), jnp.int32)
    assert (isa.tensor_tensor(x, x, y, op="add", engine="gpsimd") == 2**24 + 2).all()
    assert (
        isa.tensor_tensor(x, x, y, op="multiply", engine="gpsimd") == 2**24 + 1
    ).all()
    assert (isa.tensor_tensor(x, x, y, op="multiply") == 2**24).all()


def test_no_such_operator():
    x = jnp.zeros((2, 2))
    with pytest.raises(
        LimitExceeded, match=r"trn.tensor_tensor: op is 'sum', must be one of add"
    ):
        isa.tensor_tensor(x, x, x, op="sum")


@DTYPES
def test_writes_to_part_of_a_tile(dtype):
    """The rest of the tile keeps what it held."""
    old, a, b = (
        draw(0, 4, 3, 20, dtype=dtype),
        draw(1, 4, 6, dtype=dtype),
        draw(2, 4, 6),
    )
    place = (slice(None), 1, slice(5, 11))
    dst = jnp.asarray(old)

    def check_rest(actual):
        kept = np.ones(old.shape, bool)
        kept[place] = False
        np.testing.assert_array_equal(np.asarray(actual)[kept], old[kept])

    copied = isa.tensor_copy.at[place](dst, jnp.asarray(a))
    check_rest(copied)
    np.testing.assert_array_equal(copied[place], a)
    product = isa.tensor_tensor.at[place](
        dst, jnp.asarray(a), jnp.asarray(b), op="multiply"
    )
    check_rest(product)
    assert_close(product[place], wide(a) * wide(b))
    add = functools.partial(isa.tensor_tensor.at[place], op="add")
    np.testing.assert_array_equal(add(dst, Old(), jnp.zeros((4, 6))), old)
    added = add(dst, Old(), jnp.asarray(b))
    check_rest(added)
    before = wide(old[place])
    assert_close(
        added[place], before + wide(b), operations=2, scale=np.abs(before) + np.abs(b)
    )


@DTYPES
def test_reciprocal(dtype):
    x = draw(0, 8, 33, dtype=dtype)
    out = isa.reciprocal(blank(8, 33, dtype=dtype), jnp.asarray(x))
    assert_close(out, 1 / wide(x), operations=2)


# --- copies ---


@DTYPES
def test_copies_are_exact(dtype):
    x = draw(0, 5, 9, dtype=dtype)
    given = jnp.asarray(x)
    np.testing.assert_array_equal(isa.tensor_copy(blank(5, 9, dtype=dtype), given), x)
    np.testing.assert_array_equal(
        isa.tensor_copy(blank(5, 9, dtype=BF16), given), x.astype(BF16)
    )
    turned = isa.nc_transpose_vector(blank(9, 5, dtype=dtype), given)
    np.testing.assert_array_equal(turned, x.T)
    filled = isa.memset(blank(5, 9, dtype=dtype), value=0.5)
    np.testing.assert_array_equal(filled, np.full((5, 9), 0.5, dtype))


def test_a_copy_to_fp8_saturates():
    x = jnp.asarray([[500.0, -1e9, 448.0, 0.1]])
    expected = np.array(
        [[448.0, -448.0, 448.0, np.float32(0.1).astype(E4M3)]], np.float32
    )
    actual = np.asarray(isa.tensor_copy(blank(1, 4, dtype=E4M3), x)).astype(np.float32)
    np.testing.assert_array_equal(actual, expected)
    wide_range = isa.tensor_copy(blank(1, 4, dtype=F16), x)
    assert np.isinf(np.asarray(wide_range)[0, 1])


def test_copies_at_an_address_in_sbuf():
    x, offset = draw(0, 4, 20), jnp.asarray([[7]], I32)
    part = isa.tensor_copy_dynamic_src(blank(4, 6), jnp.asarray(x), offset)
    np.testing.assert_array_equal(part, x[:, 7:13])
    new = draw(1, 4, 6)
    whole = isa.tensor_copy_dynamic_dst(jnp.asarray(x), jnp.asarray(new), offset)
    np.testing.assert_array_equal(whole, np.hstack([x[:, :7], new, x[:, 13:]]))


@pytest.mark.parametrize("reverse", [False, True])
def test_copy_where_a_predicate_holds(reverse):
    old, new = draw(0, 4, 20), draw(1, 4, 20)
    predicate = np.random.default_rng(2).integers(0, 3, (4, 20)).astype(U8)
    actual = isa.tensor_copy_predicated(
        jnp.asarray(old), jnp.asarray(new), jnp.asarray(predicate), reverse=reverse
    )
    np.testing.assert_array_equal(
        actual, np.where((predicate > 0) != reverse, new, old)
    )


def test_shuffle_within_quadrants():
    """Reversed, but for partition 3 of each quadrant, which is kept."""
    x, old = draw(0, 64, 2, 5), draw(1, 64, 2, 5)
    mask = tuple(255 if i == 3 else 31 - i for i in range(32))
    actual = isa.nc_stream_shuffle(jnp.asarray(old), jnp.asarray(x), mask=mask)
    expected = np.concatenate([x[31::-1], x[:31:-1]])
    expected[[3, 35]] = old[[3, 35]]
    np.testing.assert_array_equal(actual, expected)
