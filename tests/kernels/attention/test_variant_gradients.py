"""Gradients of every variant's prefill against those of dense attention in float64."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from emu.program import HASTILY
from kernels import PLACEMENTS, Variant, attention, masks, variants
from kernels.attention.check import ROUNDING
from kernels.variants import Sizes
from tests.kernels.attention.shared_programs import (
    PLAIN,
    SMALL,
    gradients,
    operands,
    plain,
)

# Roundings of the weights, and again of what is made of them on the way back.
ALLOWED = 4 * ROUNDING


def of_results(sizes: Sizes) -> tuple[np.ndarray, np.ndarray]:
    """Random gradients of an output and a log-sum-exp, float32."""
    rng = np.random.default_rng(4)
    of_q, _ = sizes.shapes
    out, sums = rng.standard_normal(of_q), rng.standard_normal(of_q[:3])
    return out.astype(np.float32), sums.astype(np.float32)


def of_dense(
    make: Callable[..., Variant], sizes: Sizes, arrays: tuple[np.ndarray, ...] = ()
) -> tuple[np.ndarray, ...]:
    """Of q, k, v and the arrays that `make` takes, in float64."""
    with jax.enable_x64(True):
        given = [jnp.asarray(x, jnp.float64) for x in (*operands(sizes), *arrays)]
        d_out, d_sums = (jnp.asarray(x, jnp.float64) for x in of_results(sizes))

        def results(q: Any, k: Any, v: Any, *arrays: Any) -> Any:
            return make(*arrays).dense(q, k, v)

        (_, sums), back = jax.vjp(results, *given)
        if sums is not None:
            # Of -inf there is none.
            sums = jnp.where(jnp.isneginf(sums), 0, d_sums)
        found = back((d_out, sums))
        return tuple(np.asarray(x) for x in found)


def assert_close(given: tuple[Any, ...], wanted: tuple[np.ndarray, ...]) -> None:
    for name, one, other in zip("qkv", given, wanted[:3], strict=False):
        allowed = ALLOWED * max(1.0, float(np.abs(other).max()))
        np.testing.assert_allclose(one, other, rtol=0, atol=allowed, err_msg=name)
    for one, other in zip(given[3:], wanted[3:], strict=True):
        # An array's gradient adds up that of every pair.
        allowed = ALLOWED * max(1.0, float(np.abs(other).max())) * 10
        np.testing.assert_allclose(one, other, rtol=0, atol=allowed, err_msg="array")


@pytest.mark.slow
@pytest.mark.parametrize(("turn", "name"), list(enumerate(PLAIN)))
def test_gradients_of_operands(turn: int, name: str) -> None:
    """On two chips; masks on them are in `test_context_gradients.py`, in float64."""
    variant, sizes = plain(name, SMALL)
    placement = PLACEMENTS[turn % len(PLACEMENTS)]
    given = gradients(variant, sizes, 2, placement, of_results(sizes))
    assert_close(given, of_dense(lambda: variant, sizes))


TINY = Sizes(tokens=16, heads=2, kv_heads=1, head_dim=4)


def alibi(slopes: Any) -> Variant:
    return attention(
        lambda s, b, h, q, k: s - jnp.asarray(slopes)[h] * (q - k), mask=masks.causal
    )


def forgetting(rates: Any) -> Variant:
    """Above the diagonal the logarithm is no number, and no part of a gradient."""
    return attention(
        lambda s, b, h, q, k: s - jnp.asarray(rates)[h] * jnp.log1p(q - k),
        mask=masks.causal,
    )


def by_pair(bias: Any) -> Variant:
    """A bias for every pair, as Swin's and Evoformer's, in a full matrix."""
    return attention(lambda s, b, h, q, k: s + jnp.asarray(bias)[h, q, k])


# How a variant is made of an array, of what shape, and on how many chips.
CAPTURED: dict[str, tuple[Callable[..., Variant], tuple[int, ...], int]] = {
    "forgetting": (forgetting, (2,), 1),
    "head_temperature": (variants.head_temperature, (2,), 1),
    "alibi": (alibi, (2,), 2),
    "relative_bias": (variants.relative_bias, (32, 2), 2),
    "by_pair": (by_pair, (2, 16, 16), 2),
}


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(x, marks=() if x == "forgetting" else pytest.mark.slow)
        for x in CAPTURED
    ],
)
def test_gradients_of_operands_and_captured_arrays(name: str) -> None:
    """By `jax.grad` through `.prefill` itself; one chip compiles in a third of the time."""
    make, shape, chips = CAPTURED[name]
    array = np.random.default_rng(5).uniform(0.5, 1.5, shape).astype(np.float32)
    d_out, d_sums = of_results(TINY)

    def loss(q: Any, k: Any, v: Any, array: Any) -> jax.Array:
        out, sums = make(array).prefill(q, k, v, chips=chips, columns=8, lanes=1)
        return jnp.sum(out * d_out) + jnp.sum(sums * d_sums)

    back = jax.jit(jax.grad(loss, argnums=(0, 1, 2, 3)), compiler_options=HASTILY)
    given = back(*operands(TINY), array)
    assert_close(given, of_dense(make, TINY, (array,)))
