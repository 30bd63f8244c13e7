"""A score's -inf becomes a mask, what is left agrees with it; what cannot be read is refused."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from emu.lower import CannotLower, Elementwise
from kernels import masks
from kernels.attention.reading import read
from kernels.masks.strided import Strided
from kernels.masks.traced_mask import TracedMask

INF = jnp.inf
HOLES = np.array([0.0, -np.inf, 1.0, 0.5], np.float32)
SLOPES = np.array([0.5, 0.25], np.float32)
ALLOWED = np.where(np.tri(4) > 0, 0, -np.inf).astype(np.float32)


def causal(s: Any, q: Any, k: Any) -> Any:
    return jnp.where(k <= q, s, -INF)


# Each with the operations that are left of it, where they are worth saying.
SCORES: dict[str, tuple[Any, list[str] | None]] = {
    "chosen": (lambda s, b, h, q, k: causal(s, q, k), None),
    "zero or -inf added": (
        lambda s, b, h, q, k: s + jnp.where(k <= q, 0, -INF),
        None,
    ),
    "zero or inf subtracted": (
        lambda s, b, h, q, k: s - jnp.where(k <= q, 0, INF),
        None,
    ),
    "a table that masks": (lambda s, b, h, q, k: s + jnp.asarray(ALLOWED)[q, k], None),
    "the logarithm of a mask": (
        lambda s, b, h, q, k: s + jnp.log((q // 2 == k // 2).astype(jnp.float32)),
        None,
    ),
    "the logarithm of a count": (
        lambda s, b, h, q, k: s + jnp.log((k + b).astype(jnp.float32)),
        ["add", "convert_element_type", "log", "add"],
    ),
    "one in the other": (
        lambda s, b, h, q, k: jnp.where(q - k < 2, causal(s, q, k), -INF),
        None,
    ),
    "both cases in part": (
        lambda s, b, h, q, k: jnp.where(k == 0, 2 * s, causal(s, q, k)),
        ["mul", "eq", "select_n"],
    ),
    "by batch and head": (
        lambda s, b, h, q, k: jnp.where((k <= q) & (k >= b) & (q - k < 2 + h), s, -INF),
        None,
    ),
    "then scaled": (lambda s, b, h, q, k: 3 * causal(s, q, k) / -2 * -1, None),
    "then scaled by a table": (
        lambda s, b, h, q, k: causal(s, q, k) * jnp.asarray(SLOPES)[h],
        None,
    ),
    "turned twice": (lambda s, b, h, q, k: -jnp.where(k <= q, -s, INF), None),
    "entries of a table": (lambda s, b, h, q, k: s + jnp.asarray(HOLES)[k], None),
    "entries taken": (lambda s, b, h, q, k: s + jnp.take(jnp.asarray(HOLES), k), None),
    "the greater": (
        lambda s, b, h, q, k: jnp.maximum(causal(s, q, k), -1.0),
        None,
    ),
    "the greater of two": (
        lambda s, b, h, q, k: jnp.maximum(
            causal(s, q, k), jnp.where(k == 2, s / 2, -INF)
        ),
        None,
    ),
    "the lesser": (lambda s, b, h, q, k: jnp.minimum(causal(s, q, k), 1.0), ["min"]),
    "clipped above": (
        lambda s, b, h, q, k: jnp.clip(causal(s, q, k), None, 1.0),
        ["min"],
    ),
    "made finite again": (
        lambda s, b, h, q, k: 20 * jnp.tanh(causal(s, q, k) / 20),
        ["le", "select_n", "div", "tanh", "mul"],
    ),
    "leaky": (lambda s, b, h, q, k: jax.nn.leaky_relu(causal(s, q, k)), None),
    "ALiBi": (
        lambda s, b, h, q, k: causal(s - jnp.asarray(SLOPES)[h] * (q - k), q, k),
        None,
    ),
    "nothing": (lambda s, b, h, q, k: -INF, []),
    "zero": (lambda s, b, h, q, k: 0, []),
    "itself": (lambda s, b, h, q, k: s, None),
}


@pytest.mark.parametrize("name", SCORES)
def test_mask_and_rest_are_the_score(name: str) -> None:
    score, _ = SCORES[name]
    reading = read(name, score)
    b, h, q, k, s = np.meshgrid(
        [0, 1], [0, 1], np.arange(4), np.arange(4), [-1.5, 2.0], indexing="ij"
    )
    arguments = [jnp.asarray(x.ravel(), jnp.int32) for x in (b, h, q, k)]
    scores = jnp.asarray(s.ravel(), jnp.float32)
    with jax.numpy_dtype_promotion("standard"):
        wanted = np.asarray(
            jax.vmap(lambda *x: jnp.asarray(score(*x), jnp.float32))(scores, *arguments)
        )
    attended = np.ones(wanted.shape, bool)
    if reading.mask is not None:
        attended = np.asarray(reading.mask(*arguments))
    np.testing.assert_array_equal(attended, wanted != -np.inf)
    given = scores
    if reading.score is not None:
        given = jax.vmap(lambda *x: of_numbers(reading.score, x))(scores, *arguments)
    np.testing.assert_allclose(given[attended], wanted[attended], rtol=1e-6)


def of_numbers(function: Elementwise | None, numbers: Any) -> jax.Array:
    assert function is not None
    return function.evaluate(function.result, dict(zip("sbhqk", numbers, strict=True)))


@pytest.mark.parametrize(
    ("name", "operations"),
    [(name, left) for name, (_, left) in SCORES.items() if left is not None],
)
def test_no_more_is_left_than_needs_be(name: str, operations: list[str]) -> None:
    left = read(name, SCORES[name][0]).score
    assert left is not None and [x.name for x in left.operations] == operations


@pytest.mark.parametrize(
    "name",
    ["chosen", "zero or -inf added", "a table that masks", "the logarithm of a mask"],
)
def test_a_score_that_only_masks_is_the_score_itself(name: str) -> None:
    assert read(name, SCORES[name][0]).score is None


def test_the_mask_is_as_good_as_one_of_the_users_own() -> None:
    """A floor division stays one, so whole tiles are decided; both masks hold at once."""
    reading = read(
        "chunks",
        lambda s, b, h, q, k: jnp.where(q // 64 == k // 64, s, -INF),
        mask=masks.causal,
    )
    assert reading.mask is not None
    mine = TracedMask(masks.chunked(64))
    found = TracedMask(reading.mask)
    tiles = np.arange(0, 512, 64)
    q, k = (
        Strided(x.ravel(), x.ravel() + 63, np.ones((), np.int64))
        for x in np.meshgrid(tiles, tiles)
    )
    for one, other in zip(mine.boxes(q, k), found.boxes(q, k), strict=True):
        np.testing.assert_array_equal(one, other)


def test_captured_arrays_may_be_traced() -> None:
    def loss(table: jax.Array) -> jax.Array:
        reading = read("mine", lambda s, b, h, q, k: causal(s + table[h], q, k))
        assert reading.score is not None
        arguments = dict(s=1.0, b=0, h=1, q=2, k=1)
        return reading.score.evaluate(reading.score.result, arguments)

    np.testing.assert_array_equal(jax.grad(loss)(jnp.zeros(2)), [0, 1])


REFUSED = [
    (
        lambda s, b, h, q, k: jnp.where((k <= q) & (s > 7.3), s, -INF),
        "for b=0, h=0, q=0, k=0 a score of 10 is attended and one of 0.5 is not",
    ),
    (
        lambda s, b, h, q, k: s + jnp.log((s > 0).astype(jnp.float32)),
        "a score of 0.5 is attended and one of -0.5 is not",
    ),
    (lambda s, b, h, q, k: jnp.where(k <= q, s, INF), r"gives \+inf"),
    (lambda s, b, h, q, k: (h - 1) * causal(s, q, k), "not known to be positive"),
    (lambda s, b, h, q, k: jnp.sinh(causal(s, q, k)), "sinh of what is infinite"),
    (
        lambda s, b, h, q, k: jnp.where(0.5 * (q - k) < 3.0, s, -INF),
        "lt of float32; decide it by whole numbers",
    ),
    (lambda s, b, h, q, k: k <= q, "gives True or False, must give a number"),
    (lambda s, q, k: s, r"called with 5 values, \(s, b, h, q, k\)"),
    (lambda s, b, h, q, k: np.exp(s), "hands a value to NumPy"),
    (lambda s, b, h, q, k: s if k <= q else -INF, "asks whether a value is true"),
    (
        lambda s, b, h, q, k: causal(s, q, k) - causal(s, k, q),
        r"adds -inf to \+inf",
    ),
]


@pytest.mark.parametrize(("score", "words"), REFUSED)
def test_refusals_say_why_and_where(score: Any, words: str) -> None:
    with pytest.raises(CannotLower, match=words) as caught:
        read("mine", score)
    assert str(caught.value).startswith("score of mine: ")
    assert "(test_reading.py:" in str(caught.value)


def test_a_mask_of_other_arguments_is_refused() -> None:
    with pytest.raises(CannotLower, match=r"mask of mine: .* \(b, h, q, k\)"):
        read("mine", mask=lambda q, k: k <= q)  # type: ignore
