"""The dense form of a block monoid against formulas, and what was read of it against the form."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kernels import attention, masks
from kernels.attention import softmax
from kernels.attention.monoid import Monoid
from kernels.attention.variant import Variant

Z = np.random.default_rng(0)
Q, K, V = (Z.standard_normal((2, heads, 13, 4)) for heads in (4, 2, 2))
SINKS = Z.standard_normal(4).astype(np.float32)
SCALES = Z.uniform(0.5, 2, (2, 4, 13)).astype(np.float32)


def sink(sinks: Any = SINKS) -> Variant:
    """A logit of each head joins the denominator."""

    def finish(state: Any, b: Any, h: Any, q: Any, d: Any) -> Any:
        return state.output / (
            state.total + jnp.exp(jnp.asarray(sinks)[h] - state.greatest)
        )

    return attention.monoid(finish=finish, mask=masks.window(5), name="sink")


def scaled(scales: Any = SCALES) -> Variant:
    """Values are multiplied by a number of each key and head."""

    def partial(s: Any, v: Any, b: Any, h: Any, q: Any, k: Any) -> softmax.State:
        return softmax.State(s, jnp.ones_like(s), v * jnp.asarray(scales)[b, h, k])

    return attention.monoid(partial=partial, mask=masks.window(5), name="scaled")


def squares() -> Variant:
    """Weights are squares of what of the scores is positive; there is nothing to divide by."""

    def partial(s: Any, v: Any, b: Any, h: Any, q: Any, k: Any) -> tuple[Any]:
        return (jax.nn.relu(s) ** 2 * v,)

    return attention.monoid(
        partial=partial,
        merge=lambda one, other: (one[0] + other[0],),
        finish=lambda state, b, h, q, d: state[0] * (d + 1),
        mask=masks.window(5),
        name="squares",
    )


def weights(name: str, scores: np.ndarray, live: np.ndarray) -> np.ndarray:
    """Of each key's value in the output, `[batch, heads, L, S]`."""
    if name == "squares":
        return np.where(live, np.maximum(scores, 0) ** 2, 0)
    p = np.where(live, np.exp(scores), 0)
    total = p.sum(-1, keepdims=True)
    if name == "sink":
        return p / (total + np.exp(SINKS.astype(float))[:, None, None])
    return p / np.where(total, total, 1) * SCALES[:, :, None]


VARIANTS = {"sink": sink, "scaled": scaled, "squares": squares}


@pytest.mark.parametrize("first", [0, 6])
@pytest.mark.parametrize("name", VARIANTS)
def test_dense_is_the_formula(name: str, first: int) -> None:
    variant = VARIANTS[name]()
    out, sums = variant.dense(Q, K, V, q_offset=first)
    k, v = np.repeat(K, 2, 1), np.repeat(V, 2, 1)
    scores = Q @ k.swapaxes(-1, -2) / 2
    query, key = np.arange(13)[:, None] + first, np.arange(13)
    live = (key <= query) & (key > query - 5)
    wanted = weights(name, scores, live) @ v
    if name == "squares":
        wanted *= np.arange(1, 5)
    np.testing.assert_allclose(out, wanted, rtol=0, atol=1e-12)
    # Queries beyond the window's last key attend to nothing.
    assert not np.asarray(out)[:, :, ~live.any(-1)].any()
    if name == "squares":
        assert sums is None
    else:
        with np.errstate(divide="ignore"):
            of_scores = np.log(np.where(live, np.exp(scores), 0).sum(-1))
        np.testing.assert_allclose(sums, of_scores, rtol=0, atol=1e-12)


@pytest.mark.parametrize("backwards", [False, True])
@pytest.mark.parametrize("name", VARIANTS)
def test_the_fold_is_the_monoid(name: str, backwards: bool) -> None:
    variant = VARIANTS[name]()
    part_of = np.random.default_rng(1).integers(0, 3, 13)
    given = variant._folded(Q, K, V, part_of=part_of, backwards=backwards)
    for one, other in zip(given, variant.dense(Q, K, V), strict=True):
        assert (one is None) == (other is None)
        if one is not None:
            np.testing.assert_allclose(one, np.asarray(other), rtol=0, atol=1e-12)


@pytest.mark.parametrize(("make", "held"), [(sink, SINKS), (scaled, SCALES)])
def test_gradients_of_what_a_monoid_holds(make: Any, held: np.ndarray) -> None:
    """Along a random direction, against central differences; queries without keys among them."""
    rng = np.random.default_rng(2)
    along = [rng.standard_normal(x.shape) for x in (V, held)]

    def loss(v: Any, held: Any) -> Any:
        out, _ = make(held).dense(Q, K, v, q_offset=6)
        return jnp.sum(jnp.sin(out))

    with jax.enable_x64(True):
        wide = jnp.asarray(V), jnp.asarray(held, jnp.float64)
        slopes = jax.grad(loss, (0, 1))(*wide)
        given = sum(float(np.vdot(x, y)) for x, y in zip(slopes, along, strict=True))
        step = 1e-5
        ends = [
            float(
                loss(*(x + sign * step * y for x, y in zip(wide, along, strict=True)))
            )
            for sign in (1, -1)
        ]
    assert np.isfinite(given)
    assert given == pytest.approx((ends[0] - ends[1]) / (2 * step), rel=1e-6)


def test_a_sum_of_nothing_is_zero_and_finished() -> None:
    made = attention.monoid(
        partial=lambda s, v, b, h, q, k: (jax.nn.sigmoid(s) * v,),
        merge=lambda one, other: (one[0] + other[0],),
        finish=lambda state, b, h, q, d: state[0] + d,
        mask=masks.window(1),
    )
    out, _ = made.dense(Q, K, V, q_offset=13)
    np.testing.assert_array_equal(out, np.broadcast_to(np.arange(4), out.shape))


def test_the_door_names_it_and_takes_masks_on_top() -> None:
    def halves(state: Any, b: Any, h: Any, q: Any, d: Any) -> Any:
        return state.output / state.total / 2

    made = attention.monoid(finish=halves, mask=masks.causal, scale=0.3)
    assert made.name == "halves" and made.scale == 0.3
    more = attention(made, mask=masks.window(3))
    assert more.monoid is made.monoid and isinstance(more.monoid, Monoid)
    out, _ = more.dense(Q, K, V)
    whole, _ = attention(masks.window(3), scale=0.3).dense(Q, K, V)
    np.testing.assert_allclose(out, np.asarray(whole) / 2, rtol=0, atol=1e-15)


@pytest.mark.parametrize("name", VARIANTS)
def test_decode_on_the_wafer_is_the_last_row(name: str) -> None:
    variant = VARIANTS[name]()
    q, k, v = (x.astype(np.float32) for x in (Q[:, :, -1:], K, V))
    given = variant.decode(q, (k, v))
    for one, other in zip(given, variant.dense(q, k, v, q_offset=12), strict=True):
        assert (one is None) == (other is None)
        if one is not None:
            np.testing.assert_allclose(one, np.asarray(other), rtol=0, atol=4e-6)
