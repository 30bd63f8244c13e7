"""Every NeuronCore instruction's value against float64 NumPy, in float32 and bfloat16.

Bounds count float32 roundings: elementwise instructions make one an operation, a transcendental is
good to a few units in the last place, a sum of n terms makes at most n.
"""

import jax.numpy as jnp
import numpy as np
import pytest

from emu.trainium import isa, memory, neuronlink
from tests.emu.trainium.operands import BF16, F32, assert_close, draw, wide

DTYPES = pytest.mark.parametrize("dtype", [F32, BF16], ids=["fp32", "bf16"])
NUMPY = {"add": np.add, "subtract": np.subtract, "multiply": np.multiply, "max": np.maximum}
UNARY = {
    "copy": lambda x: x,
    "exp": np.exp,
    "silu": lambda x: x / (1 + np.exp(-x)),
    "square": np.square,
    "rsqrt": lambda x: 1 / np.sqrt(x),
}


def blank(*shape, dtype=F32):
    return jnp.full(shape, jnp.nan, dtype)


@DTYPES
@pytest.mark.parametrize("accumulate", [0, 1])
def test_matmul(dtype, accumulate):
    a, b, old = draw(0, 96, 40, dtype=dtype), draw(1, 96, 72, dtype=dtype), draw(2, 40, 72)
    dst = jnp.asarray(old) if accumulate else blank(40, 72)
    actual = isa.nc_matmul(dst, jnp.asarray(a), jnp.asarray(b), accumulate)
    expected = wide(a).T @ wide(b) + accumulate * wide(old)
    scale = np.abs(wide(a)).T @ np.abs(wide(b)) + np.abs(old)
    assert_close(actual, expected, operations=97, scale=scale)


@DTYPES
def test_transpose_and_copies_are_exact(dtype):
    x = draw(0, 5, 9, dtype=dtype)
    given = jnp.asarray(x)
    np.testing.assert_array_equal(isa.nc_transpose(blank(9, 5, dtype=dtype), given), x.T)
    np.testing.assert_array_equal(isa.tensor_copy(blank(5, 9, dtype=dtype), given), x)
    np.testing.assert_array_equal(memory.dma_load(blank(5, 9, dtype=dtype), given), x)
    np.testing.assert_array_equal(memory.dma_store(given), x)
    tiles = draw(1, 3, 5, 9, dtype=dtype)
    several = memory.dma_load_tiles(blank(5, 3, 9, dtype=dtype), jnp.asarray(tiles))
    np.testing.assert_array_equal(several, tiles.swapaxes(0, 1))
    cast = isa.tensor_copy(blank(5, 9, dtype=BF16), given)
    np.testing.assert_array_equal(cast, x.astype(BF16))


@DTYPES
@pytest.mark.parametrize("op", UNARY)
def test_activations(op, dtype):
    x, bias = draw(0, 8, 33, dtype=dtype), draw(1, 8, 1)
    if op == "rsqrt":
        x, bias = np.abs(x), np.abs(bias)
    out = blank(8, 33, dtype=dtype)
    scaled = wide(x) * 0.75
    plain = isa.activation(out, jnp.asarray(x), op=op, scale=0.75)
    assert_close(plain, UNARY[op](scaled), operations=16)
    both = isa.activation_bias(out, jnp.asarray(x), jnp.asarray(bias), op=op, scale=0.75)
    y = UNARY[op](scaled + wide(bias))
    # The bias may cancel the input: its roundings are relative to both, times the derivative, of
    # which the steepest is half of y cubed (rsqrt).
    scale = np.abs(y) + (np.abs(scaled) + np.abs(bias)) * (1 + np.abs(y)) ** 3
    assert_close(both, y, operations=16, scale=scale)
    piece, total = isa.activation_reduce(
        out, blank(8, 1), jnp.asarray(x), jnp.asarray(bias), op=op, scale=0.75
    )
    np.testing.assert_array_equal(piece, both)
    sums = np.sum(scale, axis=1, keepdims=True)
    assert_close(total, y.sum(axis=1, keepdims=True), operations=16 + 33, scale=sums)


@DTYPES
@pytest.mark.parametrize("op", NUMPY)
def test_elementwise(op, dtype):
    a, b, c = draw(0, 8, 33, dtype=dtype), draw(1, 8, 33, dtype=dtype), draw(2, 8, 1)
    x, y, s, out = jnp.asarray(a), jnp.asarray(b), jnp.asarray(c), blank(8, 33, dtype=dtype)
    f = NUMPY[op]
    assert_close(isa.tensor_tensor(out, x, y, op=op), f(wide(a), wide(b)))
    assert_close(isa.tensor_scalar(out, x, s, op=op), f(wide(a), wide(c)))
    assert_close(isa.tensor_immediate(out, x, op=op, value=0.5), f(wide(a), 0.5))
    fused = isa.scalar_tensor_tensor(out, x, s, y, op0=op, op1="add")
    first = f(wide(a), wide(c))
    assert_close(fused, first + wide(b), operations=3, scale=np.abs(first) + np.abs(wide(b)))


@DTYPES
def test_writes_to_part_of_a_tile(dtype):
    """The rest of the tile keeps what it held."""
    old, a, b = draw(0, 4, 3, 20, dtype=dtype), draw(1, 4, 6, dtype=dtype), draw(2, 4, 6)
    place = (slice(None), 1, slice(5, 11))

    def expect(values):
        out = old.copy()
        out[place] = values
        return out

    i, j, dst = jnp.int32(1), jnp.int32(5), jnp.asarray(old)
    actual = isa.tensor_copy_at(dst, jnp.asarray(a), i, j)
    np.testing.assert_array_equal(actual, expect(a))
    np.testing.assert_array_equal(memory.dma_load_at(dst, jnp.asarray(a), i, j), expect(a))
    product = isa.tensor_tensor_at(dst, jnp.asarray(a), jnp.asarray(b), i, j, op="multiply")
    assert_close(product[place], wide(a) * wide(b))
    np.testing.assert_array_equal(isa.tensor_add_at(dst, jnp.zeros((4, 6)), i, j), old)
    added = isa.tensor_add_at(dst, jnp.asarray(b), i, j)
    before = wide(old[place])
    assert_close(added[place], before + wide(b), operations=2, scale=np.abs(before) + np.abs(b))
    stored = memory.dma_store_at(jnp.asarray(old), jnp.asarray(a[:3].repeat(4, 1)[:, :20]), i)
    np.testing.assert_array_equal(stored[0], old[0])
    np.testing.assert_array_equal(stored[1], a[:3].repeat(4, 1)[:, :20])


@DTYPES
def test_reductions(dtype):
    x = draw(0, 8, 3, 33, dtype=dtype)
    out = blank(8, 3, 1, dtype=dtype)
    sums = np.abs(wide(x)).sum(-1, keepdims=True)
    total = isa.tensor_reduce(out, jnp.asarray(x), op="add")
    assert_close(total, wide(x).sum(-1, keepdims=True), operations=33, scale=sums)
    highest = isa.tensor_reduce(out, jnp.asarray(x), op="max")
    np.testing.assert_array_equal(highest, x.max(-1, keepdims=True))


@DTYPES
def test_reciprocal_and_memset(dtype):
    x = draw(0, 8, 33, dtype=dtype)
    out = blank(8, 33, dtype=dtype)
    assert_close(isa.reciprocal(out, jnp.asarray(x)), 1 / wide(x), operations=2)
    np.testing.assert_array_equal(isa.memset(out, value=0.5), np.full((8, 33), 0.5, dtype))


def test_max8_and_places():
    """Descending; of equal values the first place."""
    x = draw(0, 3, 40)
    x[:, 30] = x[:, 7] = 9.0
    best = isa.nc_max8(blank(3, 8), jnp.asarray(x))
    np.testing.assert_array_equal(best, -np.sort(-x, axis=1)[:, :8])
    place = isa.nc_find_index8(jnp.zeros((3, 8), jnp.int32), jnp.asarray(x), best)
    assert (np.asarray(place)[:, 0] == 7).all()
    np.testing.assert_array_equal(np.take_along_axis(x, np.asarray(place), 1), best)


@pytest.mark.parametrize("offset", [-3, 0, 4, 100])
def test_affine_select(offset):
    x = draw(0, 6, 10)
    rows, columns = np.indices(x.shape)
    expected = np.where(rows + offset >= columns, x, np.float32(-1e30))
    actual = isa.affine_select(blank(6, 10), jnp.asarray(x), offset, fill=-1e30)
    np.testing.assert_array_equal(actual, expected)


def test_gather():
    table, ids = draw(0, 50, 7), np.array([3, 49, 0, 3], np.int32)
    actual = memory.dma_gather(blank(4, 7), jnp.asarray(table), jnp.asarray(ids))
    np.testing.assert_array_equal(actual, table[ids])


@DTYPES
def test_fresh_tiles_hold_poison(dtype):
    for tile in (memory.sbuf, memory.psum, memory.hbm):
        assert np.isnan(wide(tile(2, 3, dtype=dtype))).all()
    assert (np.asarray(memory.sbuf(2, 3, dtype=jnp.int32)) == np.iinfo(np.int32).max).all()


def test_send_goes_to_the_next_core():
    """The meaning sees every core's operand stacked."""
    x = draw(0, 5, 2)
    actual = neuronlink.send_next.meaning(blank(5, 2), jnp.asarray(x), axis="ring")
    np.testing.assert_array_equal(actual, x[[4, 0, 1, 2, 3]])
