"""Known integers follow the same rules as the integers JAX computes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax import lax

from emu import Known, Program
from tests.helpers import TOY

INTS = st.integers(-(2**20), 2**20)
LAW = settings(max_examples=25, derandomize=True, deadline=None)


def both(fn, *args):
    """What the clock knows of `fn(*args)`, and what JAX computes."""
    args = [np.asarray(a) for a in args]
    p = Program(fn, {"r": 3, "c": 2}, ((),) * len(args))
    outs = p.read(TOY, *map(Known, args)).outputs
    return [v.known for v in outs], jax.tree.leaves(
        jax.jit(fn)(*map(jnp.asarray, args))
    )


def agree(fn, *args):
    for known, computed in zip(*both(fn, *args), strict=True):
        assert known is not None and known.dtype == computed.dtype
        full = np.broadcast_to(known, (3, 2, *computed.shape))
        np.testing.assert_array_equal(full, np.broadcast_to(computed, full.shape))


def arithmetic(a, b):
    return (
        a + b,
        a - b,
        -a,
        lax.div(a, b),
        lax.rem(a, b),
        a // b,
        a % b,
        lax.max(a, b),
        lax.min(a, b),
        lax.abs(a),
        lax.sign(a),
        a < b,
        a <= b,
        a > b,
        a >= b,
        a == b,
        a != b,
        a & b,
        a | b,
        a ^ b,
        ~a,
        lax.select(a < b, a, b),
        lax.clamp(jnp.int32(-5), a, b),
        (a < b) & (a > 0),
        a << 3,
        lax.shift_right_arithmetic(a, jnp.int32(2)),
        lax.convert_element_type(a, jnp.int8),
        (a * 3).astype(jnp.bool_),
    )


@LAW
@given(INTS, st.sampled_from([0, 1, -1]) | INTS)
def test_arithmetic(a, b):
    agree(arithmetic, np.int32(a), np.int32(b))


def shapes(x, i):
    return (
        lax.dynamic_slice(x, (i, i - 2), (2, 3)),
        lax.dynamic_index_in_dim(x, i, 1),
        x[i],
        x[1, i],
        lax.broadcast_in_dim(x, (4, 2, 5), (0, 2)),
        x.reshape(2, 10),
        x[1:4:2, ::3],
        jnp.squeeze(x[:1]),
        jnp.where(x > 0, x, jnp.zeros_like(x)),
        x + lax.broadcast(i, (4, 5)),
        lax.iota(jnp.int32, 7),
        lax.broadcasted_iota(jnp.int32, (3, 2), 0),
        jnp.arange(2, 9) * 2,
    )


@LAW
@given(st.lists(INTS, min_size=20, max_size=20), st.integers(-9, 9))
def test_shapes_and_clamped_slices(values, i):
    agree(shapes, np.array(values, np.int32).reshape(4, 5), np.int32(i))


@pytest.mark.parametrize("pick", [-3, 0, 1, 2, 40, 99])
def test_switch_with_many_branches(pick):
    def fn(i):
        return lax.switch(i, [lambda i, k=k: i * 2 + k for k in range(50)], i)

    agree(fn, np.int32(pick))


def test_core_indices_differ_between_cores():
    def fn(table):
        r, c = lax.axis_index("r"), lax.axis_index("c")
        return lax.dynamic_index_in_dim(table, r * 2 + c, keepdims=False) + r

    table = np.array([5, 7, 11, 13, 17, 19], np.int32)
    out = Program(fn, {"r": 3, "c": 2}, ((),)).read(TOY, Known(table)).outputs[0]
    assert out.known is not None and out.known.tolist() == [[5, 7], [12, 14], [19, 21]]


def test_known_argument_split_over_the_mesh():
    p = Program(lambda n: n * 2, {"r": 3, "c": 2}, (("c", None, "r"),))
    value = np.arange(2 * 4 * 3).reshape(2, 4, 3)
    out = p.read(TOY, Known(value)).outputs[0]
    np.testing.assert_array_equal(out.known, np.transpose(value, (2, 0, 1)) * 2)
    assert out.shape == (4,) and out.known is not None and out.known.dtype == np.int32


# --- at the edges of each integer ---

EDGES = [0, 1, 2, 3, 7, 8, 31, 32, 33]


def at_the_edges(a, b):
    return (
        *(op(a, b) for op in (lax.add, lax.sub, lax.mul, lax.div, lax.rem)),
        *(op(a, b) for op in (lax.min, lax.max, lax.lt, lax.ge, lax.eq)),
        a // b,
        a % b,
        -a,
        ~a,
        jnp.abs(a),
        jnp.sign(a),
        lax.shift_left(a, b),
        lax.shift_right_arithmetic(a, b),
        lax.shift_right_logical(a, b),
        a.astype(jnp.int8),
        a.astype(jnp.uint16),
        a.astype(jnp.bool_),
    )


@pytest.mark.parametrize(
    "dtype", ["int8", "uint8", "int16", "uint16", "int32", "uint32"]
)
def test_every_pair_of_edges(dtype):
    """The least integer has no magnitude, and unsigned ones have no sign to copy."""
    info = np.iinfo(dtype)
    ends = [info.min, info.min + 1, info.max - 1, info.max, -1 if info.min else 5]
    values = np.array([*EDGES, *ends], np.int64).astype(dtype)
    a, b = np.meshgrid(values, values)
    agree(at_the_edges, a.ravel(), b.ravel())


@pytest.mark.parametrize("start", [0, 127, -1])
def test_a_start_of_eight_bits_in_a_long_table(start):
    agree(
        lambda i: lax.dynamic_slice(jnp.arange(300), (i,), (4,)),
        np.asarray(start, np.int8),
    )
