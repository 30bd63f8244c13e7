"""Gradients through ring attention, in float64, against those of dense attention by hand."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from emu.checks import precision
from emu.program import HASTILY
from kernels.trainium.context import layout
from tests.kernels.trainium.context.oracle import (
    EVERY_PLACEMENT,
    FLOAT64,
    MASKS,
    allowed,
    dense,
    errors,
    grid,
    masks_of,
    unwrapped,
)
from tests.kernels.trainium.reference import draw, wide


def dense_gradients(mask, q, k, v, d_out, d_lse):
    """Of the sum of `d_out` times the output and `d_lse` times the log-sum-exp, by q, k and v.

    With weights p and scores x: dx = p (dp - sum over keys of p dp + d_lse), dp = d_out v.
    """
    q, k, v, scale = wide(q), wide(k), wide(v), 1 / np.sqrt(q.shape[-1])
    group = q.shape[1] // k.shape[1]
    keys, values = (np.repeat(x, group, axis=1) for x in (k, v))
    _, lse = dense(mask, q, k, v)
    live = allowed(mask, len(q), len(k)) & np.isfinite(lse.T)[..., None]
    exponent = scale * np.einsum("qhd,khd->hqk", q, keys) - lse.T[..., None]
    p = np.exp(np.where(live, exponent, -np.inf))
    dp = np.einsum("qhd,khd->hqk", d_out, values)
    dx = scale * p * (dp - (p * dp).sum(-1, keepdims=True) + d_lse.T[..., None])
    by_head = np.einsum("hqk,qhd->khd", dx, q), np.einsum("hqk,qhd->khd", p, d_out)
    dk, dv = (x.reshape(len(x), -1, group, x.shape[-1]).sum(2) for x in by_head)
    return np.einsum("hqk,khd->qhd", dx, keys), dk, dv


@functools.cache
def pullback(ring):
    """Results and gradients of the laid-out operands of a `Grid`, compiled once."""
    batched = ring.program.batched

    def both(operands, rest, cotangents):
        results, back = jax.vjp(lambda xs: batched(*xs, *rest), operands)
        return results, back(cotangents)[0]

    # What it changes is rounding of float64.
    return jax.jit(both, compiler_options=HASTILY)


def placed(a, d_out, d_lse, results):
    """Cotangents in the order of the sequence as the program's: `results` of `a` is a permutation
    that drops padding."""
    like = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), results)
    return jax.vjp(a.results, like)[1]((jnp.asarray(d_out), jnp.asarray(d_lse)))[0]


def assert_close(actual, expected):
    expected = np.asarray(expected)
    assert actual.dtype == np.float64
    np.testing.assert_allclose(
        actual, expected, rtol=0, atol=FLOAT64 * np.abs(expected).max()
    )


@pytest.mark.parametrize("mask", MASKS)
@pytest.mark.parametrize("ranks", [2, pytest.param(3, marks=pytest.mark.slow)])
def test_gradients(ranks, mask):
    """On every placement, with the values; 0 of rows that attend to nothing, which documents leave.

    Gradients of padding are 0 too.
    """
    ring = grid(ranks, lanes=1)
    which, (q, k, v) = masks_of(ring.tokens)[mask], ring.inputs
    expected = ring.expected(mask)
    d_out = wide(draw(7, *expected[0].shape))
    d_lse = np.where(np.isfinite(expected[1]), wide(draw(8, *expected[1].shape)), 0)
    by_hand = dense_gradients(which, q, k, v, d_out, d_lse)
    for placement in EVERY_PLACEMENT[:-1]:
        a = ring.attention(mask, placement)
        arguments = jax.tree.map(precision.widen, unwrapped(a.arguments(q, k, v)))
        with precision.exact():
            shapes = jax.eval_shape(ring.program.batched, *arguments)
            cotangents = placed(a, d_out, d_lse, shapes)
            results, gradients = pullback(ring)(
                arguments[:3], arguments[3:], cotangents
            )
            assert max(errors(a.results(results), expected, v)) <= FLOAT64
            laid = layout.laid_out(*by_hand, a.sides, jnp.float64)
            # Of one core.
            jax.tree.map(lambda x, y: assert_close(x, y[:, 0]), gradients, laid)
