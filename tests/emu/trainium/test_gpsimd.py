"""Values of patterns, masks and gathers against NumPy: exact but for the root."""

import jax.numpy as jnp
import numpy as np
import pytest

from emu.trainium import isa
from tests.emu.trainium.operands import (
    BF16,
    F32,
    I32,
    U16,
    assert_close,
    blank,
    draw,
    wide,
)

COMPARE = {
    "equal": np.equal,
    "not_equal": np.not_equal,
    "less": np.less,
    "less_equal": np.less_equal,
    "greater": np.greater,
    "greater_equal": np.greater_equal,
}


@pytest.mark.parametrize("dtype", [I32, F32], ids=["int32", "fp32"])
def test_iota(dtype):
    p, i, j = np.indices((6, 3, 10))
    actual = isa.iota(
        jnp.zeros((6, 3, 10), dtype), jnp.int32(-4), steps=(100, -2), multiplier=7
    )
    assert actual.dtype == dtype
    np.testing.assert_array_equal(actual, -4 + 7 * p + 100 * i - 2 * j)


@pytest.mark.parametrize("offset", [-3, 0, 4, 100])
def test_affine_select_as_a_causal_mask(offset):
    x = draw(0, 6, 10)
    rows, columns = np.indices(x.shape)
    expected = np.where(rows + offset >= columns, x, np.float32(-1e30))
    actual = isa.affine_select(blank(6, 10), jnp.asarray(x), offset, fill=-1e30)
    np.testing.assert_array_equal(actual, expected)


@pytest.mark.parametrize("compare", COMPARE)
def test_affine_select(compare):
    x = draw(0, 6, 3, 10, dtype=BF16)
    p, i, j = np.indices(x.shape)
    keep = COMPARE[compare](5 - 2 * p + 4 * i - j, 0)
    actual = isa.affine_select(
        blank(6, 3, 10, dtype=BF16),
        jnp.asarray(x),
        5,
        fill=0.5,
        steps=(4, -1),
        multiplier=-2,
        compare=compare,
    )
    np.testing.assert_array_equal(actual, np.where(keep, x, BF16.type(0.5)))


@pytest.mark.parametrize("elements", [1, 4])
def test_local_gather(elements):
    """As AWS's reference describes it: each core's indices, partitions first, on its own rows."""
    x = draw(0, 32, 40, elements)
    index = np.random.default_rng(1).integers(0, 40, (32, 3)).astype(U16)
    expected = np.empty((32, 48, elements), F32)
    for core in range(2):
        rows = slice(16 * core, 16 * core + 16)
        expected[rows] = x[rows][:, index[rows].flatten(order="F")]
    offsets = jnp.asarray(index * U16.type(elements))
    actual = isa.local_gather(blank(32, 48, elements), jnp.asarray(x), offsets)
    np.testing.assert_array_equal(actual, expected)


@pytest.mark.parametrize("dtype", [F32, BF16], ids=["fp32", "bf16"])
def test_rsqrt(dtype):
    x = np.abs(draw(0, 8, 33, dtype=dtype))
    actual = isa.rsqrt_gpsimd(blank(8, 33, dtype=dtype), jnp.asarray(x))
    assert_close(actual, 1 / np.sqrt(wide(x)), operations=4)
