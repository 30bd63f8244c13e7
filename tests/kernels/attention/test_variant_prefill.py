"""A variant's prefill: batches, unequal lengths, gradients; sizes that do not fit."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from emu.errors import EmulationError
from kernels import masks
from kernels.attention.prefill import prefill
from kernels.attention.reading import read

SLOPES = np.array([0.5, 0.25, 0.125, 0.0625], np.float32)
SIZES: dict[str, Any] = dict(columns=8, lanes=2)


def alibi(s: Any, b: Any, h: Any, q: Any, k: Any) -> Any:
    return jnp.where(k <= q + 3 * b, s - jnp.asarray(SLOPES)[h] * (q - k), -jnp.inf)


def draw(*shape: int) -> np.ndarray:
    return np.random.default_rng(len(shape)).standard_normal(shape).astype(np.float32)


def dense(q: Any, k: Any, v: Any, *, scale: float) -> tuple[jax.Array, jax.Array]:
    batch, heads, queries, _ = q.shape
    group = heads // k.shape[1]
    keys, values = (jnp.repeat(x, group, axis=1) for x in (k, v))
    scores = jnp.einsum("bhqd,bhkd->bhqk", q, keys) * scale
    b, h, row, column = np.indices(scores.shape)
    scores = scores - SLOPES[h] * (row - column).astype(np.float32)
    scores = jnp.where(column <= row + 3 * b, scores, -jnp.inf)
    p = jax.nn.softmax(scores, axis=-1)
    out = jnp.einsum("bhqk,bhkd->bhqd", p, values)
    return out, jax.nn.logsumexp(scores, axis=-1)


@pytest.mark.parametrize(
    ("queries", "keys"),
    # As many of both is the easiest: `test_packed.py` has 19 of each.
    [(13, 21), (21, 13), pytest.param(21, 21, marks=pytest.mark.slow)],
)
def test_a_batch_of_any_lengths_is_as_dense(queries: int, keys: int) -> None:
    q, k = draw(2, 4, queries, 16), draw(2, 2, keys, 16)
    v = draw(2, 2, keys, 8)
    reading = read("alibi", alibi)
    given = prefill(reading, q, k, v, chips=2, scale=0.3, **SIZES)
    for one, other in zip(given, dense(q, k, v, scale=0.3), strict=True):
        assert one is not None
        np.testing.assert_allclose(one, other, atol=4e-6)


@pytest.mark.slow
def test_a_gradient_is_that_of_dense_attention() -> None:
    q, k, v = draw(1, 4, 8, 8), draw(1, 4, 8, 8), draw(1, 4, 8, 8)
    reading = read("alibi", alibi)

    def loss(q: Any, k: Any, v: Any) -> jax.Array:
        out, lse = prefill(reading, q, k, v, **SIZES)
        assert lse is not None
        return jnp.sum(jnp.sin(out)) + jnp.sum(lse)

    def of_dense(q: Any, k: Any, v: Any) -> jax.Array:
        out, lse = dense(q, k, v, scale=8**-0.5)
        return jnp.sum(jnp.sin(out)) + jnp.sum(lse)

    operands = (0, 1, 2)
    given = jax.jit(jax.grad(loss, argnums=operands))(q, k, v)
    for one, other in zip(given, jax.grad(of_dense, operands)(q, k, v), strict=True):
        np.testing.assert_allclose(one, other, atol=4e-6)


@pytest.mark.parametrize(
    ("shapes", "words"),
    [
        (((4, 8, 8), (1, 4, 8, 8), (1, 4, 8, 8)), "q has shape .*, must have four"),
        (((1, 4, 8, 8), (2, 4, 8, 8), (2, 4, 8, 8)), "must agree in batch"),
        (((1, 4, 8, 8), (1, 4, 8, 8), (1, 4, 9, 8)), "must agree in batch, heads"),
        (((1, 4, 8, 8), (1, 3, 8, 8), (1, 3, 8, 8)), "must be a multiple"),
    ],
)
def test_sizes_that_do_not_fit_are_told(shapes: Any, words: str) -> None:
    with pytest.raises(EmulationError, match=words):
        prefill(read("full", mask=masks.full), *(draw(*shape) for shape in shapes))
