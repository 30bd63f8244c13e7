"""Masks of the catalogue against their definitions, on scalars, arrays and under a trace."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from emu.errors import EmulationError
from kernels import masks

SIZE = 40
LENGTHS = (7, 1, 15, 9)  # 32 tokens: the last 8 belong to no document
OF = np.repeat(np.arange(5), [*LENGTHS, 8])

DEFINITIONS = {
    "full": (masks.full, lambda q, k: True),
    "causal": (masks.causal, lambda q, k: k <= q),
    "block_causal(8)": (masks.block_causal(8), lambda q, k: k < (q // 8 + 1) * 8),
    "window(6)": (masks.window(6), lambda q, k: q - 6 < k <= q),
    "sinks(3, 6)": (
        masks.sinks(3, 6),
        lambda q, k: k in range(3) and k <= q or q - 6 < k <= q,
    ),
    "prefix(11)": (masks.prefix(11), lambda q, k: k < 11 or k <= q),
    "chunked(8)": (masks.chunked(8), lambda q, k: q - q % 8 <= k <= q),
    "dilated(4)": (masks.dilated(4), lambda q, k: k in range(q, -1, -4)),
    "documents(4 of 32 tokens)": (
        masks.documents(LENGTHS),
        lambda q, k: k <= q and OF[q] == OF[k] < 4,
    ),
}


@pytest.mark.parametrize("name", DEFINITIONS)
def test_mask_is_its_definition(name):
    mask, definition = DEFINITIONS[name]
    assert mask.__name__ == name
    expected = np.array([[definition(q, k) for k in range(SIZE)] for q in range(SIZE)])
    q, k = np.mgrid[:SIZE, :SIZE].astype(np.int32)
    np.testing.assert_array_equal(np.asarray(mask(0, 0, q, k)), expected)
    np.testing.assert_array_equal(mask(0, 0, jnp.asarray(q), jnp.asarray(k)), expected)
    nested = jax.vmap(jax.vmap(mask, (None, None, None, 0)), (None, None, 0, None))
    row = jnp.arange(SIZE, dtype=jnp.int32)
    np.testing.assert_array_equal(jax.jit(nested)(0, 0, row, row), expected)
    assert [bool(mask(0, 0, 20, k)) for k in range(SIZE)] == list(expected[20])


def test_combinators():
    q, k = np.mgrid[:SIZE, :SIZE].astype(np.int32)
    near, apart = masks.window(6), masks.dilated(4)
    a, b = near(0, 0, q, k), apart(0, 0, q, k)
    for mask, expected in (
        (masks.and_masks(near, apart, masks.full), a & b),
        (masks.or_masks(near, apart), a | b),
        (masks.negate(near), ~a),
    ):
        np.testing.assert_array_equal(np.asarray(mask(0, 0, q, k)), expected)
    assert masks.or_masks(near, masks.negate(apart)).__name__ == (
        "window(6) | ~dilated(4)"
    )


def test_beyond_the_documents_nothing_attends_even_far_away():
    mask = masks.documents(LENGTHS)
    assert (
        not mask(0, 0, 10**6, 10**6) and not mask(0, 0, 32, 32) and mask(0, 0, 31, 31)
    )


@pytest.mark.parametrize(
    "make", [masks.window, masks.chunked, masks.dilated, masks.block_causal]
)
def test_sizes_are_positive(make):
    with pytest.raises(
        EmulationError, match="is 0, must be a whole number of 1 or more"
    ):
        make(0)
