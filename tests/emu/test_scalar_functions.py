"""Scalar functions as straight lines: axes of values, evaluation, and what cannot be read."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from emu import lower
from emu.lower import CannotLower, Elementwise, Input, Slot

Q, K, NONE = frozenset("q"), frozenset("k"), frozenset[str]()
INPUTS = [
    Input("s", Q | K, jnp.float32),
    Input("h", NONE, jnp.int32),
    Input("q", Q, jnp.int32),
    Input("k", K, jnp.int32),
]
SLOPES = np.array([0.5, 0.25], np.float32)


def alibi(s: Any, h: Any, q: Any, k: Any) -> Any:
    unread = jnp.sin(s) + q  # noqa: F841
    slope = jnp.asarray(SLOPES)[h]
    return jnp.where(k <= q, 2 * jnp.tanh(s / 2) - slope * (q - k), -jnp.inf)


def read(function: Any) -> Elementwise:
    return lower.read(function, INPUTS, "score of mine")


def test_values_vary_along_the_axes_of_what_they_are_made_of() -> None:
    function = read(alibi)
    axes = {operation.name: operation.axes for operation in function.operations}
    assert axes["tanh"] == Q | K
    assert axes["squeeze"] == NONE  # the slope
    assert "sin" not in axes  # nobody reads it
    (slope,) = (x for x in function.operations if x.name == "squeeze")
    of_slope = Slot(slope.result)
    assert function.depends_on(of_slope, "h") and not function.depends_on(of_slope, "q")


def test_evaluates_any_value_over_any_axes() -> None:
    function = read(alibi)
    q, k, h = np.arange(3), np.arange(4), np.arange(2)
    given = function.over(function.result, {"h": h, "q": q, "k": k, "s": np.ones(1)})
    wanted = np.where(
        k <= q[:, None],
        2 * np.tanh(0.5) - SLOPES[:, None, None] * (q[:, None] - k),
        -np.inf,
    )
    np.testing.assert_allclose(given[..., 0], wanted, rtol=1e-6)


def test_captured_arrays_may_be_traced() -> None:
    def loss(table: jax.Array) -> jax.Array:
        function = read(lambda s, h, q, k: s + 2 * table[h])
        arguments = {"s": np.ones(1), "h": np.arange(2)}
        return jnp.sum(function.over(function.result, arguments))

    np.testing.assert_array_equal(jax.grad(loss)(jnp.zeros(2)), [2, 2])


def branches(s: Any, h: Any, q: Any, k: Any) -> Any:
    return s if q > k else -s


@pytest.mark.parametrize(
    ("function", "words"),
    [
        (branches, "asks whether a value is true"),
        (lambda s, h, q, k: np.sin(s), "hands a value to NumPy"),
        (
            lambda s, h, q, k: jnp.stack([s, s]),
            r"shapes \[\(2,\)\], must give one scalar",
        ),
        (lambda s, h, q, k: s / undefined, "raises NameError"),  # type: ignore  # noqa: F821
    ],
)
def test_what_cannot_be_read_is_told_with_its_line(function: Any, words: str) -> None:
    with pytest.raises(CannotLower, match=words) as caught:
        read(function)
    assert "test_scalar_functions.py:" in str(caught.value)
