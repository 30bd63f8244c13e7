"""A part of a buffer is replaced bit by bit, and its derivative goes where the part does."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from emu.in_place import replaced

DTYPES = (
    jnp.float32,
    jnp.float16,
    jnp.bfloat16,
    jnp.float8_e4m3fn,
    jnp.float8_e5m2,
    jnp.float8_e8m0fnu,
    jnp.float4_e2m1fn,
    jnp.int8,
    jnp.int32,
)
ROW, COLUMN = jnp.int32(1), jnp.int32(2)


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_part_alone_is_replaced(dtype: jnp.dtype) -> None:
    buffer = np.asarray(jnp.arange(1, 13).reshape(3, 4).astype(dtype))
    block = np.asarray(jnp.array([[2, 1]]).astype(dtype))
    expected = buffer.copy()
    expected[1:2, 2:4] = block
    made = jax.jit(replaced)(jnp.asarray(buffer), jnp.asarray(block), [ROW, COLUMN])
    assert made.dtype == dtype
    assert np.asarray(made).tobytes() == expected.tobytes()


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_its_derivative_is_that_of_what_lies_there(dtype: jnp.dtype) -> None:
    """Of the squares of 2 b and 3 x in its place: 8 b but for the part, and 18 x."""
    buffer = jnp.ones((3, 4), dtype)
    block = jnp.full((1, 2), 2, dtype)

    def squares(buffer: jax.Array, block: jax.Array) -> jax.Array:
        made = replaced(2 * buffer, 3 * block, [ROW, COLUMN])
        return jnp.sum(made.astype(jnp.float32) ** 2)

    by_buffer, by_block = jax.grad(squares, (0, 1))(buffer, block)
    expected = np.full((3, 4), 8.0)
    expected[1, 2:] = 0
    np.testing.assert_array_equal(np.asarray(by_buffer, np.float32), expected)
    np.testing.assert_array_equal(np.asarray(by_block, np.float32), 36.0)


def test_stacked_buffers_have_parts_of_their_own() -> None:
    buffers = jnp.zeros((2, 3), jnp.bfloat16)
    blocks = jnp.ones((2, 1), jnp.bfloat16)
    made = jax.vmap(lambda b, x, i: replaced(b, x, [i]))(
        buffers, blocks, jnp.array([0, 2])
    )
    np.testing.assert_array_equal(np.asarray(made, np.float32), [[1, 0, 0], [0, 0, 1]])
