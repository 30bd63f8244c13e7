"""Every variant of the catalogue: prefill on any placement and scheme, and decode, as dense."""

import functools
import itertools
from typing import Any

import numpy as np
import pytest

from kernels import PLACEMENTS, Variant, attention
from kernels.attention.check import ROUNDING
from kernels.variants import Sizes
from tests.kernels.attention.shared_programs import (
    PLAIN,
    SMALL,
    operands,
    plain,
    prefill,
)

CHIPS = (1, 2, 4, 8)
OTHERS = ("all-gather", "ulysses-ring")
LATE = "rows_without_a_key"
"""Beside the catalogue: a variant whose first rows attend to nothing."""
NAMES = (*PLAIN, LATE)
TURNS = list(itertools.product(PLACEMENTS, ("ring", *OTHERS)))


def late(b: Any, h: Any, q: Any, k: Any) -> Any:
    return (k <= q) & (q >= 5 * (h + 1))


@functools.cache
def made(name: str) -> tuple[Variant, Sizes]:
    return (attention(late), SMALL) if name == LATE else plain(name, SMALL)


@functools.cache
def wanted(name: str) -> tuple[np.ndarray, np.ndarray | None]:
    variant, sizes = made(name)
    return arrays(variant.dense(*operands(sizes)))


def arrays(results: tuple[Any, Any]) -> tuple[np.ndarray, np.ndarray | None]:
    """A monoid may have no log-sum-exp."""
    out, sums = results
    return np.asarray(out), None if sums is None else np.asarray(sums)


def assert_close(
    given: tuple[Any, Any],
    wanted: tuple[np.ndarray, np.ndarray | None],
    v: np.ndarray,
) -> float:
    """Also that rows which attend to nothing are zeros, and their sums -inf.

    Returns:
      The greatest difference over what is allowed.
    """
    (out, sums), (of_dense, dense_sums) = given, wanted
    allowed = ROUNDING * max(1.0, float(np.abs(v).max()))
    apart = float(np.abs(np.asarray(out, np.float64) - of_dense).max() / allowed)
    if dense_sums is None:
        assert sums is None and apart <= 1, apart
        return apart
    nothing = np.isneginf(dense_sums)
    np.testing.assert_array_equal(np.isneginf(sums), nothing)
    assert not np.asarray(out)[nothing].any()
    # A log-sum-exp errs by as much as the scores, which are as large as it is.
    finite = np.where(nothing, 0, dense_sums)
    of_sums = ROUNDING * max(1.0, float(np.abs(finite).max()))
    also = np.abs(np.where(nothing, 0, sums) - finite).max() / of_sums
    assert max(apart, also) <= 1, (apart, also)
    return float(max(apart, also))


def assert_prefills(name: str, chips: int, placement: str, scheme: str) -> float:
    variant, sizes = made(name)
    _, _, v = operands(sizes)
    given = prefill(variant, sizes, chips, placement, scheme)
    return assert_close(given, wanted(name), v)


def compiles(name: str) -> bool:
    """Whether a variant has arithmetic of its own, and so a program."""
    variant, _ = made(name)
    return variant.score is not None or variant.monoid is not None


COMPILED = ("alibi", "learned_sink")
"""Of those that have a program of their own; the others' are slow tests."""


@pytest.mark.parametrize(
    ("turn", "name"),
    [
        pytest.param(
            *case,
            marks=pytest.mark.slow
            if compiles(case[1]) and case[1] not in COMPILED
            else (),
        )
        for case in enumerate(NAMES)
    ],
)
def test_every_variant_prefills_at_some_placement(turn: int, name: str) -> None:
    """Each at the next; of those without arithmetic all but a few share one program."""
    assert_prefills(name, 2, PLACEMENTS[turn % len(PLACEMENTS)], "ring")


def test_rows_that_attend_to_nothing_are_there() -> None:
    _, sums = wanted(LATE)
    assert sums is not None
    assert np.isneginf(sums).any() and np.isfinite(sums).any()


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("chips", CHIPS)
def test_everything_prefills(chips: int, name: str) -> None:
    """On every placement, by the ring and by two other schemes."""
    schemes = ("ring", *OTHERS) if chips > 1 else ("ring",)
    found = {
        (scheme, placement): assert_prefills(name, chips, placement, scheme)
        for scheme in schemes
        for placement in (PLACEMENTS if chips > 1 else PLACEMENTS[:1])
    }
    worst = max(found, key=lambda case: found[case])
    print(f"{name} on {chips}: {found[worst]:.2f} of what is allowed, {worst}")


@pytest.mark.slow
@pytest.mark.parametrize("turn", range(len(NAMES)))
def test_prefill_itself_skips_hops(turn: int) -> None:
    """By the program of its own, without the hops that nobody needs, each at the next turn."""
    name = NAMES[turn]
    variant, sizes = made(name)
    placement, scheme = TURNS[turn % len(TURNS)]
    chips = CHIPS[1 + turn % 3]
    q, k, v = operands(sizes)
    inner = 2 if scheme == "ulysses-ring" else 1
    where: dict[str, Any] = dict(
        chips=chips, placement=placement, scheme=scheme, inner=inner
    )
    given = variant.prefill(q, k, v, columns=4, lanes=1, **where)
    assert_close(given, wanted(name), v)


DECODED = ("causal", "alibi", "cross")


@pytest.mark.parametrize(
    "name",
    [
        name if name in DECODED else pytest.param(name, marks=pytest.mark.slow)
        for name in NAMES
    ],
)
def test_the_last_token_decodes(name: str) -> None:
    variant, sizes = made(name)
    q, k, v = operands(sizes)
    newest = q[:, :, -1:]
    given = variant.decode(newest, (k, v), rows=4, parts=1)
    row = variant.dense(newest, k, v, q_offset=k.shape[2] - 1)
    assert_close(given, arrays(row), v)
