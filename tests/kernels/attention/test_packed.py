"""Packed sequences: each is attended to as if it stood alone."""

import jax.numpy as jnp
import numpy as np
import pytest

from kernels import attention, masks
from kernels.attention.variant import Variant
from kernels.refusal import LimitExceeded

BOUNDS = [0, 7, 7, 16]
TOKENS = 19  # three belong to no sequence
BIAS = np.linspace(-1, 1, TOKENS).astype(np.float32)


@attention(mask=masks.causal)
def by_position(s, b, h, q, k):
    """Depends on where in its sequence a key stands, not only on how far it is."""
    return s + BIAS[k] * (h + 1) - 0.1 * q


def finish(state, b, h, q, d):
    return state.output / (state.total + jnp.exp(-state.greatest)) * (q + 1)


last_step = attention.monoid(finish=finish, mask=masks.window(4), name="last_step")


def operands() -> list[np.ndarray]:
    rng = np.random.default_rng(5)
    shapes = [(1, heads, TOKENS, 8) for heads in (4, 2, 2)]
    return [rng.standard_normal(shape).astype(np.float32) for shape in shapes]


def alone(variant: Variant) -> np.ndarray:
    """Each sequence by itself, in float64; zeros where there is none."""
    out = np.zeros((1, 4, TOKENS, 8))
    for start, end in zip(BOUNDS, BOUNDS[1:], strict=False):
        if end > start:
            of_one = [x[:, :, start:end] for x in operands()]
            out[:, :, start:end] = variant.dense(*of_one)[0]
    return out


@pytest.mark.parametrize(
    ("variant", "placement"),
    [
        (by_position, "zigzag"),
        (last_step, "striped"),
        # What a score or a monoid is given does not depend on which rank has which keys.
        pytest.param(by_position, "striped", marks=pytest.mark.slow),
        pytest.param(last_step, "zigzag", marks=pytest.mark.slow),
    ],
    ids=lambda x: getattr(x, "name", x),
)
def test_each_sequence_is_attended_to_as_if_alone(
    variant: Variant, placement: str
) -> None:
    found = attention.packed(variant, BOUNDS)
    wanted = alone(variant)
    dense, _ = found.dense(*operands())
    np.testing.assert_allclose(dense, wanted, rtol=0, atol=1e-12)
    allowed = 2e-6 * max(1, np.abs(wanted).max())
    out, _ = found.prefill(
        *operands(), chips=2, placement=placement, columns=8, lanes=2
    )
    np.testing.assert_allclose(out, wanted, rtol=0, atol=allowed)
    q, k, v = (x[:, :, : BOUNDS[-1]] for x in operands())
    newest, _ = found.decode(q[:, :, -1:], (k, v))
    last = wanted[:, :, BOUNDS[-1] - 1 : BOUNDS[-1]]
    np.testing.assert_allclose(newest, last, rtol=0, atol=allowed)


def test_a_list_that_is_none_is_refused() -> None:
    with pytest.raises(LimitExceeded, match="must be whole numbers that begin with 0"):
        attention.packed(by_position, [0, 5, 3])
