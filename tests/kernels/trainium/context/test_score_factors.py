"""Factors of scores that no pass over them is made for: values, what is taken, and their time."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from emu import Reading, lower
from emu.trainium import TRN3
from kernels import masks
from kernels.scores.form import SCORE_INPUTS
from kernels.trainium.context.attention import ContextAttention
from kernels.trainium.context.score_factors import ScoreFactors, split
from kernels.trainium.context.weighing import HeadGroups
from tests.kernels.trainium.context.oracle import FLOAT32, context, errors, qkv
from tests.kernels.trainium.context.test_context_scores import dense

Score = Callable[..., Any]

TOKENS, HEADS, GROUP = 61, 4, 2
RNG = np.random.default_rng(0)
# Of order 1, so that scores stay so: errors are bounded by what 2e-6 of them may be.
OF_KEYS = RNG.uniform(0.5, 1.5, (2, TOKENS)).astype(np.float32)
OF_HEADS = RNG.uniform(0.5, 1.5, HEADS).astype(np.float32)
REPEATED = np.repeat(OF_KEYS, GROUP, axis=0)
ALMOST = np.where(np.arange(TOKENS) == 7, 2, 1) * REPEATED
ALMOST[0, 7] = 0


def of_keys(s: Any, b: Any, h: Any, q: Any, k: Any) -> Any:
    return s * jnp.asarray(OF_KEYS)[h // GROUP, k]


def of_repeated_keys(s: Any, b: Any, h: Any, q: Any, k: Any) -> Any:
    return jnp.asarray(REPEATED)[h, k] * s


def of_keys_of_heads(s: Any, b: Any, h: Any, q: Any, k: Any) -> Any:
    return s * jnp.asarray(ALMOST)[h, k]


def of_heads(s: Any, b: Any, h: Any, q: Any, k: Any) -> Any:
    return s / jnp.asarray(OF_HEADS)[h]


def of_queries(s: Any, b: Any, h: Any, q: Any, k: Any) -> Any:
    return s * jnp.log(q + 2.0) * jnp.asarray(OF_HEADS)[h]


def of_a_number(s: Any, b: Any, h: Any, q: Any, k: Any) -> Any:
    return 3 * s / 2


def of_all(s: Any, b: Any, h: Any, q: Any, k: Any) -> Any:
    return 0.5 * of_heads(of_keys(s, b, h, q, k), b, h, q, k)


def of_capped_keys(s: Any, b: Any, h: Any, q: Any, k: Any) -> Any:
    return 2 * jnp.tanh(of_keys(s, b, h, q, k) / 2)


def negative(s: Any, b: Any, h: Any, q: Any, k: Any) -> Any:
    return s * (jnp.asarray(OF_HEADS)[h] - 1)


def of_pairs(s: Any, b: Any, h: Any, q: Any, k: Any) -> Any:
    return s * 0.9 ** (q - k).astype(jnp.float32)


def once_and_again(s: Any, b: Any, h: Any, q: Any, k: Any) -> Any:
    return s * jnp.asarray(OF_HEADS)[h] + s


def read(score: Score) -> lower.Elementwise:
    return lower.read(score, SCORE_INPUTS, score.__name__)


def taken(score: Score, *, scales_keys: bool = True) -> tuple[bool, bool, bool, float]:
    """Whether something is left, is of keys, is of rows; and the number."""
    groups = HeadGroups(1, HEADS, HEADS // GROUP, TOKENS)
    found = split(
        read(score), fold=None, groups=groups, scale=0.3, scales_keys=scales_keys
    )
    return told(found)


def told(found: ScoreFactors) -> tuple[bool, bool, bool, float]:
    are = (found.rest, found.keys, found.rows)
    rest, keys, rows = (x is not None for x in are)
    return rest, keys, rows, found.number


@pytest.mark.parametrize(
    ("score", "expected"),
    [
        (of_keys, (False, True, False, 1.0)),
        (of_repeated_keys, (False, True, False, 1.0)),
        (of_keys_of_heads, (True, False, False, 1.0)),
        (of_heads, (False, False, True, 1.0)),
        (of_queries, (False, False, True, 1.0)),
        (of_a_number, (False, False, False, 1.5)),
        (of_all, (False, True, True, 0.5)),
        (of_capped_keys, (True, True, False, 1.0)),
        (negative, (True, False, False, 1.0)),
        (of_pairs, (True, False, False, 1.0)),
        (once_and_again, (True, False, False, 1.0)),
    ],
    ids=lambda x: getattr(x, "__name__", ""),
)
def test_what_is_taken_of_a_score(score: Score, expected: tuple[Any, ...]) -> None:
    assert taken(score) == expected


def test_microscaled_keys_are_not_multiplied() -> None:
    assert taken(of_keys, scales_keys=False) == (True, False, False, 1.0)
    assert taken(of_heads, scales_keys=False) == (False, False, True, 1.0)


def test_of_numbers_that_jax_traces_only_keys_are_taken() -> None:
    """Nobody knows whether they are positive; which heads share them is known all the same."""

    def both(scales: jax.Array, temperatures: jax.Array) -> jax.Array:
        def keys(s: Any, b: Any, h: Any, q: Any, k: Any) -> Any:
            return s * scales[h // GROUP, k]

        def rows(s: Any, b: Any, h: Any, q: Any, k: Any) -> Any:
            return s / temperatures[h]

        assert taken(keys) == (False, True, False, 1.0)
        assert taken(rows) == (True, False, False, 1.0)
        return scales

    jax.eval_shape(both, OF_KEYS, OF_HEADS)


def scored(score: Score | None, **sizes: Any) -> ContextAttention:
    function = None if score is None else read(score)
    small: dict[str, Any] = dict(
        tokens=TOKENS, ranks=2, lanes=2, heads=HEADS, kv_heads=HEADS // GROUP
    )
    return context(score=function, **(small | sizes))


@pytest.mark.parametrize(
    ("score", "sizes"),
    [
        (of_all, {}),
        (of_capped_keys, {"cores": 2}),
        (of_queries, {"scheme": "pass-q", "placement": "zigzag"}),
        # The last tokens, and rows that attend to nothing.
        (of_queries, {"queries": 7}),
        (of_keys, {"scheme": "ulysses"}),
    ],
    ids=["all", "capped on cores", "queries travel", "few queries", "ulysses"],
)
def test_values_are_what_the_function_says(score: Score, sizes: dict[str, Any]) -> None:
    a = scored(score, mask=masks.causal, **sizes)
    q, k, v = qkv(a)
    found = errors(a.run(q, k, v), dense(a, score, q, k, v), v)
    assert max(found) <= FLOAT32, found


def test_rows_that_attend_to_nothing_are_zero() -> None:
    def late(b: Any, h: Any, q: Any, k: Any) -> Any:
        return (q >= k) & (q > 40)

    a = scored(of_heads, mask=late)
    out, sums = a.run(*qkv(a))
    assert sums is not None
    assert not np.asarray(out)[:41].any()
    assert np.isneginf(np.asarray(sums)[:41]).all()
    assert np.isfinite(np.asarray(sums)[41:]).all()


# --- time ---


def clock(score: Score | None, **sizes: Any) -> Reading:
    of_tiles: dict[str, Any] = dict(
        tokens=2048, heads=8, kv_heads=2, lanes=16, head_dim=64, columns=512
    )
    return scored(score, **(of_tiles | sizes)).read(TRN3.at())


def test_factors_take_no_pass_of_the_vector_engine() -> None:
    busy = "vector"
    plain, tokens = clock(None), 2048
    heads = clock(lambda s, b, h, q, k: s * jnp.asarray(OF_HEADS)[h // GROUP])
    number = clock(of_a_number)
    assert number.end_ticks == plain.end_ticks
    assert heads.most_busy_ticks[busy] == plain.most_busy_ticks[busy]
    scales = np.ones((2, tokens), np.float32)
    keys = clock(lambda s, b, h, q, k: s * jnp.asarray(scales)[h // 4, k])
    # A rank's own 1,024 keys of 2 heads are multiplied, once: a row of keys is a cycle an element
    # at most, and there is a quarter as much again for each of 4 instructions' begin.
    own = 1024 * 2
    cycle = TRN3.at().ticks_per_cycle["vector"]
    more = keys.most_busy_ticks[busy] - plain.most_busy_ticks[busy]
    assert 0 < more <= 1.25 * own * cycle, (more, own * cycle)
    passes = clock(lambda s, b, h, q, k: s * jnp.asarray(OF_HEADS)[h // GROUP] + 1.0)
    assert keys.end_ticks < passes.end_ticks
