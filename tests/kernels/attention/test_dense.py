"""Dense attention in float64 against each paper's formula, its gradients, and its edges."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from emu.errors import LimitExceeded
from kernels import attention, masks, variants
from kernels.variants import Sizes
from tests.kernels.attention import formulas
from tests.kernels.attention.formulas import FORMULAS, SCALES, WEIGHTS
from tests.kernels.attention.shared_programs import PLAIN, plain

ASKED = Sizes(
    tokens=formulas.TOKENS,
    heads=formulas.HEADS,
    kv_heads=2,
    head_dim=formulas.HEAD_DIM,
    batch=formulas.BATCH,
)


def operands(sizes: Sizes) -> list[np.ndarray]:
    rng = np.random.default_rng(1)
    of_q, of_k = sizes.shapes
    return [rng.normal(size=shape) for shape in (of_q, of_k, of_k)]


def test_every_variant_has_a_formula() -> None:
    assert set(FORMULAS) == set(PLAIN)


@pytest.mark.parametrize("name", FORMULAS)
def test_dense_is_the_papers_formula(name: str) -> None:
    variant, sizes = plain(name, ASKED)
    q, k, v = operands(sizes)
    out, sums = variant.dense(q, k, v)
    wanted, of_sums = formulas.attend(
        q, k, v, FORMULAS[name], SCALES.get(name), WEIGHTS.get(name)
    )
    np.testing.assert_allclose(out, wanted, rtol=0, atol=1e-12)
    if sums is not None:
        np.testing.assert_allclose(sums, of_sums, rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", ["cross", "relative_bias", "soft_cap"])
def test_float32_is_float64_to_its_rounding(name: str) -> None:
    variant, sizes = plain(name, ASKED)
    q, k, v = (x.astype(np.float32) for x in operands(sizes))
    out, sums = map(np.asarray, variant.dense(q, k, v, dtype=jnp.float32))
    wanted, of_sums = map(np.asarray, variant.dense(q, k, v))
    assert out.dtype == sums.dtype == jnp.float32 and wanted.dtype == np.float64
    np.testing.assert_allclose(out, wanted, rtol=0, atol=2e-6)
    np.testing.assert_allclose(sums, of_sums, rtol=0, atol=4e-6)


# Variants with a captured array, as functions of it; and the formula likewise.
CAPTURED: dict[str, tuple[Callable[..., Any], Callable[..., np.ndarray], tuple]] = {
    "alibi": (
        lambda slopes: attention(
            lambda s, b, h, q, k: s - slopes[h] * (q - k), mask=masks.causal
        ),
        formulas.alibi,
        (4,),
    ),
    "relative_bias": (variants.relative_bias, formulas.relative_bias, (32, 4)),
    "head_temperature": (
        variants.head_temperature,
        formulas.head_temperature,
        (4,),
    ),
}


@pytest.mark.parametrize("name", CAPTURED)
def test_gradients_of_operands_and_captured_arrays(name: str) -> None:
    """Along a random direction, against central differences of the formula."""
    make, formula, shape = CAPTURED[name]
    q, k, v = operands(ASKED)
    rng = np.random.default_rng(2)
    point = [q, k, v, rng.uniform(0.5, 1.5, size=shape)]
    along = [rng.normal(size=x.shape) for x in point]
    weights = rng.normal(size=q.shape)
    of_sums = rng.normal(size=q.shape[:3])

    def loss(q: jax.Array, k: jax.Array, v: jax.Array, array: jax.Array) -> jax.Array:
        out, sums = make(array).dense(q, k, v)
        return jnp.sum(out * weights) + jnp.sum(sums * of_sums)

    with jax.enable_x64(True):
        gradients = jax.grad(loss, argnums=(0, 1, 2, 3))(*map(jnp.asarray, point))
    given = [np.sum(np.asarray(g) * x) for g, x in zip(gradients, along, strict=True)]
    step = 1e-5
    for place in range(4):
        ends = []
        for sign in (1, -1):
            moved = list(point)
            moved[place] = point[place] + sign * step * along[place]
            q, k, v, array = moved
            change = functools.partial(formula, array=array)
            out, sums = formulas.attend(q, k, v, change, SCALES.get(name))
            ends.append(np.sum(out * weights) + np.sum(sums * of_sums))
        slope = (ends[0] - ends[1]) / (2 * step)
        assert given[place] == pytest.approx(slope, rel=1e-6, abs=1e-6)


def test_rows_without_a_key_are_zeros_and_have_finite_gradients() -> None:
    q, k, v = (x.astype(np.float32) for x in operands(ASKED))
    variant = attention(lambda b, h, q, k: (k <= q) & (q >= 4))

    def loss(*operands: jax.Array) -> jax.Array:
        out, _ = variant.dense(*operands, dtype=jnp.float32)
        return jnp.sum(out**2)

    out, sums = map(np.asarray, variant.dense(q, k, v))
    assert not np.any(out[:, :, :4]) and np.all(np.isneginf(sums[:, :, :4]))
    assert np.all(np.isfinite(sums[:, :, 4:]))
    for gradient in jax.grad(loss, argnums=(0, 1, 2))(*map(jnp.asarray, (q, k, v))):
        assert np.all(np.isfinite(gradient))


def test_pairs_that_a_mask_leaves_out_are_no_part_of_a_gradient() -> None:
    """Where the score of such a pair is no number, and in rows without a key."""
    q, k, v = operands(ASKED)

    def loss(rate: jax.Array, q: jax.Array) -> jax.Array:
        score = attention(
            lambda s, b, h, q, k: s * jnp.log1p(q - k) - rate * jnp.log1p(q - k - 1),
            mask=lambda b, h, q, k: (k < q) & (q >= 4),
        )
        out, _ = score.dense(q, k, v)
        return jnp.sum(out**2)

    with jax.enable_x64(True):
        point = jnp.asarray(0.5), jnp.asarray(q)
        of_rate, of_q = jax.grad(loss, argnums=(0, 1))(*point)
        step = 1e-3  # logarithms of whole numbers are in float32
        more, less = (float(loss(point[0] + x, point[1])) for x in (step, -step))
    assert float(of_rate) == pytest.approx((more - less) / (2 * step), rel=1e-4)
    assert np.all(np.isfinite(of_q)) and not np.any(of_q[:, :, :4])


def test_the_last_row_is_decoding() -> None:
    variant, sizes = plain("alibi", ASKED)
    q, k, v = operands(sizes)
    whole, of_whole = map(np.asarray, variant.dense(q, k, v))
    newest, last = q[:, :, -1:], sizes.tokens - 1
    row, of_row = map(np.asarray, variant.dense(newest, k, v, q_offset=last))
    np.testing.assert_allclose(row, whole[:, :, -1:], rtol=0, atol=1e-15)
    np.testing.assert_allclose(of_row, of_whole[:, :, -1:], rtol=0, atol=1e-14)


def test_packed_sequences_are_as_if_alone() -> None:
    """Lengths 5, 0 and 11, then three tokens of nobody; ALiBi and a prefix count within each."""
    bounds = [0, 5, 5, 16]
    packed = attention(masks.packed(bounds, masks.prefix(2)))
    q, k, v = (x[:, :, :19] for x in operands(ASKED))
    out, sums = map(np.asarray, packed.dense(q, k, v))
    alone = attention(masks.prefix(2))
    for begin, end in ((0, 5), (5, 16)):
        part = slice(begin, end)
        own = (x[:, :, part] for x in (q, k, v))
        wanted, of_sums = map(np.asarray, alone.dense(*own))
        np.testing.assert_allclose(out[:, :, part], wanted, rtol=0, atol=1e-14)
        np.testing.assert_allclose(sums[:, :, part], of_sums, rtol=0, atol=1e-14)
    assert not np.any(out[:, :, 16:]) and np.all(np.isneginf(sums[:, :, 16:]))


@pytest.mark.parametrize("bounds", [[0], [1, 4], [0, 4, 2], [0.0, 4.0], [[0, 4]]])
def test_bounds_of_sequences_must_be_some(bounds: Any) -> None:
    with pytest.raises(LimitExceeded, match="cu_seqlens is .*test_dense.py:"):
        masks.packed(bounds)


@pytest.mark.parametrize(
    ("shapes", "words"),
    [
        (((4, 8), (4, 8), (4, 8)), "q has shape .*, must have four"),
        (((1, 3, 4, 8), (1, 2, 4, 8), (1, 2, 4, 8)), "must be a multiple"),
        (((1, 2, 4, 8), (1, 2, 4, 6), (1, 2, 4, 6)), "must agree in batch and feat"),
        (((1, 2, 4, 8), (1, 2, 4, 8), (1, 2, 5, 8)), "must agree in batch, heads"),
    ],
)
def test_shapes_that_do_not_fit_are_refused(shapes: Any, words: str) -> None:
    with pytest.raises(LimitExceeded, match=words):
        variants.full().dense(*map(np.ones, shapes))
