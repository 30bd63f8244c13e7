"""Which results are computed, and have yet to be rounded, is read from a jaxpr."""

import jax
import jax.numpy as jnp
import pytest

from emu import numerics
from emu.tracing import jaxpr as jx
from emu.tracing.unrounded import unrounded

CASES = {
    "an operand": (lambda x, y: x, False),
    "a product": (lambda x, y: x * y, True),
    "a product, turned": (lambda x, y: (x * y).T[:2], True),
    "a product, rounded": (lambda x, y: numerics.rounded(x * y), False),
    "rounded, then moved": (lambda x, y: numerics.rounded(x * y).T[:2], False),
    "part of a tile": (lambda x, y: x.at[:2].set(numerics.rounded(y[:2] * 2)), False),
    "part, not rounded": (lambda x, y: x.at[:2].set(y[:2] * 2), True),
    "a choice": (lambda x, y: jnp.where(x < y, x, -y), False),
    "a choice of sums": (lambda x, y: jnp.where(x < y, x + y, y), True),
    "an activation": (lambda x, y: jax.nn.relu(x), False),
    "a sigmoid": (lambda x, y: jax.nn.sigmoid(x), True),
    "widened": (lambda x, y: (x * y).astype(jnp.bfloat16).astype(x.dtype), False),
    "in bfloat16": (lambda x, y: (x * y).astype(jnp.bfloat16), False),
    "a loop's": (lambda x, y: jax.lax.fori_loop(0, 3, lambda _, s: s * y, x), True),
}


@pytest.mark.parametrize("case", CASES)
def test_a_result(case):
    function, expected = CASES[case]
    x = jnp.ones((4, 4))
    assert unrounded(jx.body(jax.make_jaxpr(function)(x, x))) == (expected,)
