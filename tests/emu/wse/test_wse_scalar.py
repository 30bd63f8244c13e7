"""Scalar code and reductions of a PE: values against float64 NumPy, cycles worked out by hand."""

from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest

from emu import wse
from tests.emu.wse.single_pe import data, read, struct, wide

CLOSE: dict[str, Any] = {"rtol": 2e-6, "atol": 1e-6}


def tile(*shape: int, dtype: str = "float32") -> Any:
    return wse.sram_tile(shape=shape, dtype=jnp.dtype(dtype))


def test_square_sum() -> None:
    x = data(0, 3, 8)
    np.testing.assert_allclose(
        wse.square_sum(tile(3), x), (wide(x) ** 2).sum(1), **CLOSE
    )
    clock = read(lambda x: wse.square_sum(tile(3), x), x)
    assert clock.end_ticks == 3 * (2 * 4 + 6) + 2.25 * 24 and clock.tally.flops == 48


@pytest.mark.parametrize("op", ["add", "max"])
def test_fold_counts_live_slots(op: str) -> None:
    x = data(0, 3, 9).at[:, 7:].set(jnp.nan)
    expected = wide(x)[:, :7].sum(1) if op == "add" else wide(x)[:, :7].max(1)
    np.testing.assert_allclose(wse.fold(tile(3), x, 7, op=op), expected, **CLOSE)
    clock = read(lambda x, n: wse.fold(tile(3), x, n, op=op), x, 7)
    assert clock.end_ticks == 3 * (2 * 4 + 6) + 2 * 21
    nothing = np.asarray(wse.fold(tile(3), x, 0, op=op))
    assert (nothing == (0 if op == "add" else np.finfo(np.float32).min)).all()


def test_exp_of_live_slots() -> None:
    x, top = data(0, 3, 9).at[:, 7:].set(jnp.nan), data(1, 3)
    got = np.asarray(wse.exp(tile(3, 9), x, top, 7, scale=0.5))
    expected = np.exp(0.5 * (wide(x) - wide(top)[:, None]))[:, :7]
    np.testing.assert_allclose(got[:, :7], expected, **CLOSE)
    assert (got[:, 7:] == 0).all()
    clock = read(lambda x, t, n: wse.exp(tile(3, 9), x, t, n, scale=0.5), x, top, 7)
    assert clock.end_ticks == 21 * (10 + 60 + 2 * 2)


def test_scalar_functions() -> None:
    x = jnp.abs(data(0, 5)) + 0.1
    np.testing.assert_allclose(
        wse.silu(tile(5), x), wide(x) / (1 + np.exp(-wide(x))), **CLOSE
    )
    assert read(lambda x: wse.silu(tile(5), x), x).end_ticks == 5 * (
        10 + 60 + 50 + 2 * 2
    )
    some = np.asarray(wse.silu(x, x, 2))
    assert (some[2:] == np.asarray(x)[2:]).all() and (
        some[:2] == wse.silu(tile(2), x[:2])
    ).all()
    assert read(lambda x: wse.silu(x, x, 2), x).end_ticks == 2 * (10 + 60 + 50 + 2 * 2)
    np.testing.assert_allclose(wse.reciprocal(tile(5), x), 1 / wide(x), **CLOSE)
    assert read(lambda x: wse.reciprocal(tile(5), x), x).end_ticks == 5 * 50
    root = wse.rsqrt_mean(tile(5), x, n=7, eps=1e-3)
    np.testing.assert_allclose(root, (wide(x) / 7 + 1e-3) ** -0.5, **CLOSE)
    clock = read(lambda x: wse.rsqrt_mean(tile(5), x, n=7, eps=1e-3), x)
    assert clock.end_ticks == 5 * (2 * 50 + 50 + 2)


@pytest.mark.parametrize("dtype", ["int32", "float32"])
@pytest.mark.parametrize("token", [39, 40, 43, 47, 48])
def test_lookup_is_zero_where_another_pe_owns_the_token(token: int, dtype: str) -> None:
    table = data(0, 5, 8)
    got = wse.lookup(tile(5), table, jnp.array([token], dtype), 40)
    owned = 40 <= token < 48
    assert (np.asarray(got) == (np.asarray(table)[:, token - 40] if owned else 0)).all()


def test_lookup_cost_cannot_depend_on_the_token() -> None:
    clock = read(
        lambda *a: wse.lookup(tile(5), *a), struct((5, 8)), struct((1,), "int32"), 40
    )
    # Compares, branch, 20 bytes moved.
    assert clock.end_ticks == 2 * 2 + 6 + (2 * 4 + 6 + 2)
    # A number held as a float is converted first.
    by_float = struct((5, 8)), struct((1,), "float32"), 40
    converted = read(lambda *a: wse.lookup(tile(5), *a), *by_float)
    assert converted.end_ticks == clock.end_ticks + 2


def test_argmax_takes_the_lowest_of_equals_and_no_padding() -> None:
    x = jnp.array([1.0, 3.0, 3.0, 9.0], jnp.float32)
    top, at = wse.argmax(tile(1), tile(1, dtype="int32"), x, 3, 100)
    assert (float(top[0]), int(at[0])) == (3.0, 101)
    top, _ = wse.argmax(tile(1), tile(1, dtype="int32"), x, 0, 100)
    assert float(top[0]) == -np.inf

    def call(x: Any, valid: Any) -> Any:
        return wse.argmax(tile(1), tile(1, dtype="int32"), x, valid, 100)

    assert read(call, x, 3).end_ticks == 3 * (10 + 2 + 6)
