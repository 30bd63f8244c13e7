"""Calls that do the same are one of stacked arrays; others are what they are, one after another."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from emu.tracing import alike
from emu.tracing.side_by_side import in_order

ROWS = np.arange(24, dtype=np.float32).reshape(3, 2, 4)
KEYS = np.arange(20, dtype=np.float32).reshape(4, 5) - 7


def scores(rows: jax.Array, keys: jax.Array) -> list[dict[str, jax.Array]]:
    """Of each of three tiles of rows its products with the same keys, and their sum."""

    def of_tile(tile: jax.Array) -> dict[str, jax.Array]:
        products = tile @ keys
        return {"products": products, "total": products.sum()}

    return alike.each([lambda tile=tile: of_tile(tile) for tile in rows])


def products(jaxpr: Any) -> int:
    """How many matrix products a traced function has."""
    return str(jaxpr).count("dot_general")


def test_what_does_the_same_is_one_product() -> None:
    together = jax.make_jaxpr(scores)(ROWS, KEYS)
    assert products(together) == 1
    with in_order():
        apart = jax.make_jaxpr(scores)(ROWS, KEYS)
    assert products(apart) == 3


def test_each_has_its_own_result() -> None:
    made = jax.jit(scores)(ROWS, KEYS)
    for own, rows in zip(made, ROWS, strict=True):
        # Whole numbers below 2²⁴: float32 has them and their sums exactly.
        np.testing.assert_array_equal(own["products"], rows @ KEYS)
        assert own["total"] == (rows @ KEYS).sum()


def test_what_differs_in_a_number_is_computed_apart() -> None:
    def scaled(x: jax.Array) -> list[jax.Array]:
        return alike.each([lambda: x * 2.0, lambda: x * 3.0])

    twice, thrice = jax.jit(scaled)(ROWS)
    np.testing.assert_array_equal(twice, ROWS * 2)
    np.testing.assert_array_equal(thrice, ROWS * 3)


def test_other_trees_of_the_same_arrays_are_other_results() -> None:
    def named(x: jax.Array, y: jax.Array) -> list[dict[str, jax.Array]]:
        return alike.each([lambda: {"a": x + 1}, lambda: {"b": y + 1}])

    first, second = jax.jit(named)(ROWS[0], ROWS[1])
    assert list(first) == ["a"]
    assert list(second) == ["b"]
    np.testing.assert_array_equal(second["b"], ROWS[1] + 1)


def test_the_same_arrays_give_the_same_results() -> None:
    def again(x: jax.Array) -> list[jax.Array]:
        return alike.each([lambda: x + 1, lambda: x + 1])

    first, second = jax.jit(again)(ROWS)
    np.testing.assert_array_equal(first, ROWS + 1)
    np.testing.assert_array_equal(second, ROWS + 1)


@pytest.mark.parametrize("tiles", [1, 3])
def test_derivatives_go_to_each_ones_own(tiles: int) -> None:
    def total(rows: jax.Array) -> jax.Array:
        totals = [own["total"] for own in scores(rows, jnp.asarray(KEYS))]
        return jnp.stack(totals).sum()

    slope = jax.grad(total)(ROWS[:tiles])
    expected = np.broadcast_to(KEYS.sum(axis=1), (tiles, 2, 4))
    np.testing.assert_array_equal(slope, expected)
