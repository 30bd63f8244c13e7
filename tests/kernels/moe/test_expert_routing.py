"""Routers against formulas in NumPy, and the examples of their module."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kernels.moe.router import counts, route
from kernels.moe.routing import Routing

LOGITS = jnp.asarray([[2.0, 1.0, 0.0, -1.0]])


def test_softmax_example():
    experts, weights = route(LOGITS, Routing(4, 2))
    shares = np.exp([2.0, 1.0]) / np.exp([2.0, 1.0]).sum()
    assert experts.tolist() == [[0, 1]]
    np.testing.assert_allclose(weights[0], shares, rtol=1e-6)


def test_a_bias_selects_and_does_not_weigh():
    routing = Routing(4, 2, score="sigmoid", selection_bias=True)
    experts, weights = route(LOGITS, routing, jnp.asarray([0.0, 0.0, 0.4, 0.0]))
    own = 1 / (1 + np.exp([-0.0, -2.0]))
    assert experts.tolist() == [[2, 0]]
    np.testing.assert_allclose(weights[0], own / own.sum(), rtol=1e-6)


def test_groups_hide_a_good_expert():
    """The best expert of all stands in a group that is worse as a whole."""
    logits = jnp.asarray([[3.0, -9.0, 2.0, 2.5]])
    routing = Routing(4, 2, score="sigmoid", groups=2, chosen_groups=1)
    experts, _ = route(logits, routing)
    assert experts.tolist() == [[3, 2]]


@pytest.mark.parametrize("score", ["softmax", "sigmoid"])
@pytest.mark.parametrize("normalised", [True, False])
def test_against_numpy(score, normalised):
    with jax.enable_x64(True):
        logits = np.random.default_rng(0).normal(size=(50, 12))
        routing = Routing(12, 3, score=score, normalised=normalised, scale=2.5)
        experts, weights = route(jnp.asarray(logits), routing)
        assert weights.dtype == np.float64
    if score == "softmax":
        scores = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    else:
        scores = 1 / (1 + np.exp(-logits))
    order = np.argsort(-scores, axis=-1, kind="stable")[:, :3]
    chosen = np.take_along_axis(scores, order, axis=-1)
    if normalised:
        chosen = chosen / chosen.sum(-1, keepdims=True)
    np.testing.assert_array_equal(experts, order)
    np.testing.assert_allclose(weights, 2.5 * chosen, rtol=1e-12)


def test_counts_add_up():
    logits = jax.random.normal(jax.random.key(0), (50, 12))
    routing = Routing(12, 3)
    found = counts(route(logits, routing).experts, routing)
    assert found.shape == (12,) and found.sum() == 150


@pytest.mark.parametrize(
    "wrong",
    [
        {"chosen": 5},
        {"groups": 3},
        {"groups": 2, "chosen_groups": 3},
        {"groups": 4},
        {"chosen": 3, "groups": 2},
    ],
)
def test_what_cannot_be_chosen_is_refused(wrong):
    with pytest.raises(ValueError):
        Routing(**{"experts": 4, "chosen": 2, **wrong})


def test_a_missing_bias_is_refused():
    with pytest.raises(ValueError, match="not given"):
        route(LOGITS, Routing(4, 2, selection_bias=True))
