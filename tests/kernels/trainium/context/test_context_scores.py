"""Score functions and masks by head, on every rank: values against float64, and their time."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from emu import Known, Reading, lower
from emu.errors import EmulationError
from emu.lower import CannotLower, Elementwise, Input
from emu.trainium import TRN3
from kernels import masks
from kernels.trainium.context.attention import ContextAttention
from tests.kernels.trainium.context.oracle import FLOAT32, FLOAT64, context, errors, qkv
from tests.kernels.trainium.reference import wide

TOKENS = 61
RNG = np.random.default_rng(0)
SLOPES = np.geomspace(0.5, 0.05, 8).astype(np.float32)
BY_POSITION = RNG.standard_normal(TOKENS).astype(np.float32)
BY_PAIR = RNG.standard_normal((8, TOKENS, TOKENS)).astype(np.float32)

Q, K, NONE = frozenset("q"), frozenset("k"), frozenset[str]()
INPUTS = [
    Input("s", Q | K, jnp.float32),
    Input("b", NONE, jnp.int32),
    Input("h", NONE, jnp.int32),
    Input("q", Q, jnp.int32),
    Input("k", K, jnp.int32),
]


def alibi(s: Any, b: Any, h: Any, q: Any, k: Any) -> Any:
    return s - jnp.asarray(SLOPES)[h] * (q - k)


def soft_cap(s: Any, b: Any, h: Any, q: Any, k: Any) -> Any:
    return 2 * jnp.tanh(s / 2)


def by_distance(s: Any, b: Any, h: Any, q: Any, k: Any) -> Any:
    far = jnp.asarray(BY_POSITION)[jnp.clip((q - k) // 4, 0, 9)]
    return s + far * jnp.asarray(SLOPES)[h]


def by_position(s: Any, b: Any, h: Any, q: Any, k: Any) -> Any:
    table = jnp.asarray(BY_POSITION)
    of_key = table[k] + table[q] * jnp.asarray(SLOPES)[h] + 0.01 * q - k * 0.02
    return jnp.where((q - k) % 2 == 0, s, 0.5 * s + 1) * (1 + b) + of_key


def of_two_uses(s: Any, b: Any, h: Any, q: Any, k: Any) -> Any:
    s = 2 * jnp.tanh(s / 2) + jnp.asarray(BY_PAIR)[h, q, k]
    near = jnp.minimum(s * s, 3.0) - jnp.abs(s)
    return jnp.where((q - k < 40) & (s > -1), near, 1 - jnp.exp(-s) / (1 + q))


# Between them they have every home of a value and every form of instruction.
SCORES: dict[str, Callable[..., Any]] = {
    "slopes": alibi,
    "by position": by_position,
    "of two uses": of_two_uses,
}


def shifted(s: Any, b: Any, h: Any, q: Any, k: Any) -> Any:
    """Every way in which a number is added on the way into a function."""
    added = jnp.tanh(s * 2 + 1) + jnp.exp(0.5 - s / 2)
    return added + jax.nn.sigmoid(s - 0.25) * jnp.tanh(s + 1) * (s + 1)


def window_by_head(b: Any, h: Any, q: Any, k: Any) -> Any:
    return (k <= q) & (q - k < 6 * (h + 1))


def window_by_sequence(b: Any, h: Any, q: Any, k: Any) -> Any:
    return (k <= q) & (q - k < 6 * (h + 2 * b + 1))


def read(function: Callable[..., Any]) -> Elementwise:
    return lower.read(function, INPUTS, f"score of {function.__name__}")


def scored(function: Callable[..., Any] | None, **sizes: Any) -> ContextAttention:
    score = None if function is None else read(function)
    # Two ranks have a hop as well, and one lane its loop: half the program to compile.
    small: dict[str, Any] = dict(ranks=2, lanes=1)
    return context(score=score, **(small | sizes))


def dense(
    a: ContextAttention, function: Callable[..., Any] | None, q: Any, k: Any, v: Any
) -> tuple[np.ndarray, np.ndarray]:
    """As the oracle's, with a score function and a mask of batch and head, head by head."""
    heads = a.heads // a.batch
    group = a.heads // a.kv_heads
    first = a.tokens - len(q)
    row, column = np.mgrid[first : a.tokens, : a.tokens]
    outputs, sums = [], []
    for head in range(a.heads):
        own = wide(q)[:, head] @ wide(k)[:, head // group].T / np.sqrt(a.head_dim)
        b, h = divmod(head, heads)
        with jax.enable_x64(True), jax.numpy_dtype_promotion("standard"):
            if function is not None:
                own = jax.vmap(
                    lambda s, i, j: function(s, b, h, i, j)  # noqa: B023
                )(own.ravel(), row.ravel(), column.ravel())
            allowed = np.asarray(a.mask(b, h, row, column))
        own = np.where(allowed, np.asarray(own).reshape(row.shape), -np.inf)
        highest = own.max(1, keepdims=True)
        p = np.exp(own - highest)
        total = p.sum(1, keepdims=True)
        outputs.append(p @ wide(v)[:, head // group] / total)
        sums.append((highest + np.log(total))[:, 0])
    return np.stack(outputs, 1), np.stack(sums, 1)


def assert_scores(
    a: ContextAttention,
    function: Callable[..., Any] | None,
    *,
    exact: bool = False,
) -> None:
    q, k, v = qkv(a)
    actual = (a.exact if exact else a.run)(q, k, v)
    found = errors(actual, dense(a, function, q, k, v), v)
    bound = FLOAT64 if exact else FLOAT32
    assert max(found) <= bound, found


@pytest.mark.parametrize("name", SCORES)
def test_scores_are_what_the_function_says(name: str) -> None:
    function = SCORES[name]
    a = scored(function, mask=masks.causal, heads=4, kv_heads=2, batch=2)
    assert_scores(a, function)


def test_numbers_are_added_on_the_way_into_functions() -> None:
    assert_scores(scored(shifted, ranks=1), shifted)


@pytest.mark.parametrize(
    "placement", ["zigzag", pytest.param("striped", marks=pytest.mark.slow)]
)
def test_positions_follow_the_placement(placement: str) -> None:
    a = scored(by_distance, placement=placement)
    assert_scores(a, by_distance)


@pytest.mark.parametrize(
    ("scheme", "inner"),
    [("ulysses-ring", 2), ("tiles", 2), ("pass-q", 1)],
)
def test_every_scheme_knows_positions_and_heads(scheme: str, inner: int) -> None:
    a = scored(by_distance, mask=window_by_head, ranks=4, scheme=scheme, inner=inner)
    assert_scores(a, by_distance)


def test_heads_of_cores_and_sequences_have_their_own_masks() -> None:
    a = scored(alibi, mask=window_by_sequence, heads=8, kv_heads=4, batch=2, cores=2)
    assert_scores(a, alibi)


def test_chips_of_a_rank_know_their_heads() -> None:
    a = scored(alibi, mask=window_by_head, heads=8, kv_heads=4, cores=2, tensor=2)
    assert_scores(a, alibi)


def test_few_queries_on_a_long_cache_stand_at_its_end() -> None:
    assert_scores(scored(by_distance, queries=7), by_distance)


def test_the_exact_reading_is_exact() -> None:
    def in_the_score_s_dtype(s: Any, b: Any, h: Any, q: Any, k: Any) -> Any:
        slopes = jnp.asarray(SLOPES).astype(s.dtype)
        return s - slopes[h] * (q - k).astype(s.dtype)

    a = scored(in_the_score_s_dtype, mask=window_by_head)
    assert_scores(a, in_the_score_s_dtype, exact=True)


ONE_CORE: dict[str, Any] = dict(tokens=8, ranks=1, heads=1, kv_heads=1, columns=8)


def test_a_gradient_reaches_captured_arrays() -> None:
    plain = context(**ONE_CORE)
    q, k, v = qkv(plain)
    weights = jnp.asarray(RNG.standard_normal((8, 1, 8)), jnp.float32)

    def loss(table: jax.Array) -> jax.Array:
        a = context(score=read(lambda s, b, h, q, k: s + table[k]), **ONE_CORE)
        # As a transformation of JAX's takes it, without compiler options of its own.
        out, _ = a.results(a.program.batched(*_unwrapped(a.arguments(q, k, v))))
        return jnp.sum(weights * out)

    def of_dense(table: jax.Array) -> jax.Array:
        scores = jnp.einsum("qhd,khd->qk", q, k) / np.sqrt(8).astype(np.float32)
        scores = jnp.where(np.tri(8, dtype=bool), scores + table[None], -jnp.inf)
        p = jax.nn.softmax(scores, axis=-1)
        return jnp.sum(weights * jnp.einsum("qk,khd->qhd", p, v))

    table = jnp.asarray(BY_POSITION[:8])
    given = jax.jit(jax.grad(loss))(table)
    np.testing.assert_allclose(given, jax.grad(of_dense)(table), atol=2e-6)


def _unwrapped(arguments: Any) -> Any:
    def is_known(x: Any) -> bool:
        return isinstance(x, Known)

    return jax.tree.map(
        lambda x: np.asarray(x.value) if is_known(x) else x,
        arguments,
        is_leaf=is_known,
    )


# --- time ---


def clock(function: Callable[..., Any] | None, **sizes: Any) -> Reading:
    wide_tiles: dict[str, Any] = dict(tokens=2048, ranks=2, head_dim=64, columns=512)
    return scored(function, **(wide_tiles | sizes)).read(TRN3.at())


def seconds(function: Callable[..., Any] | None, **sizes: Any) -> float:
    return clock(function, **sizes).seconds


def test_arithmetic_on_positions_is_not_the_vector_engine_s() -> None:
    of_table = clock(lambda s, b, h, q, k: s + 0.1 * k)
    of_positions = clock(alibi)
    busy = "vector"
    assert of_positions.most_busy_ticks[busy] == of_table.most_busy_ticks[busy]
    assert of_positions.most_busy_ticks["gpsimd"] > of_table.most_busy_ticks["gpsimd"]


def test_a_number_is_added_on_the_way_into_a_function() -> None:
    """By the Scalar Engine, wherever it stands; what another reads as well is added before."""
    busy = "vector"
    plain = clock(lambda s, b, h, q, k: jnp.tanh(s)).most_busy_ticks[busy]
    for function in (
        lambda s, b, h, q, k: jnp.tanh(s * 2 + 1),
        lambda s, b, h, q, k: jnp.tanh(3 - s / 2),
    ):
        assert clock(function).most_busy_ticks[busy] == plain
    twice = clock(lambda s, b, h, q, k: jnp.tanh(s + 1) * (s + 1))
    once = clock(lambda s, b, h, q, k: jnp.tanh(s + 1) * s)
    assert plain < once.most_busy_ticks[busy] < twice.most_busy_ticks[busy]


def test_more_arithmetic_is_never_faster() -> None:
    plain = seconds(None)
    assert plain < seconds(lambda s, b, h, q, k: s + 0.1 * k)
    capped = seconds(soft_cap)
    assert plain < capped < seconds(lambda s, b, h, q, k: soft_cap(s * s, b, h, q, k))


def test_narrower_heads_are_never_slower() -> None:
    assert seconds(None, mask=window_by_head) < seconds(None, mask=masks.causal)


@pytest.mark.parametrize(
    ("function", "words"),
    [
        (
            lambda s, b, h, q, k: jnp.floor(s),
            "no instruction of a NeuronCore computes floor",
        ),
        (lambda s, b, h, q, k: jnp.asarray([1.0, 2.0]) @ jnp.stack([s, s]), "computes"),
        (lambda s, b, h, q, k: s + s.astype(jnp.int32), "drops a fraction"),
    ],
)
def test_what_no_engine_computes_is_told_with_its_line(
    function: Callable[..., Any], words: str
) -> None:
    with pytest.raises(CannotLower, match=words) as caught:
        _ = scored(function).program
    assert isinstance(caught.value, EmulationError)
    assert "test_context_scores.py:" in str(caught.value)
