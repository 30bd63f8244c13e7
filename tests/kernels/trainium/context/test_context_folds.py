"""Monoids on the mesh: weights, factors, further sums and last steps, and what they cost."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from emu.errors import EmulationError
from emu.lower import CannotLower
from emu.trainium import TRN3
from kernels import attention, masks
from kernels.attention import softmax
from kernels.attention.prefill import context_attention
from kernels.attention.softmax import State
from kernels.attention.variant import Variant

RNG = np.random.default_rng(0)
OF_KV_HEAD = RNG.uniform(0.5, 2, (2, 2, 24)).astype(np.float32)
OF_HEAD = RNG.uniform(0.5, 2, (2, 4, 24)).astype(np.float32)
BY_QUERY = RNG.standard_normal((2, 24)).astype(np.float32)
BY_FEATURE = RNG.standard_normal((4, 8)).astype(np.float32)
GATES = RNG.standard_normal((2, 4, 24, 8)).astype(np.float32)
Q, K, V = (
    RNG.standard_normal((2, heads, 24, 8)).astype(np.float32) for heads in (4, 2, 2)
)


def late(b: Any, h: Any, q: Any, k: Any) -> Any:
    """Causal, and the first queries attend to nothing."""
    return (k <= q) & (q > 3)


def add(one: Any, other: Any) -> Any:
    return jax.tree.map(lambda a, b: a + b, one, other)


def squares(s: Any, v: Any, b: Any, h: Any, q: Any, k: Any) -> Any:
    weight = jax.nn.relu(s) ** 2
    return weight, weight * v


def counted(s: Any, v: Any, b: Any, h: Any, q: Any, k: Any) -> Any:
    return jnp.ones_like(s), jnp.tanh(s) * v


def of_cache(s: Any, v: Any, b: Any, h: Any, q: Any, k: Any) -> Any:
    return State(s, jnp.ones_like(s), v * jnp.asarray(OF_KV_HEAD)[b, h // 2, k])


def weighted(s: Any, v: Any, b: Any, h: Any, q: Any, k: Any) -> Any:
    weight = jnp.asarray(OF_HEAD)[b, h, k]
    return State(s, weight, v * weight)


def three_sums(s: Any, v: Any, b: Any, h: Any, q: Any, k: Any) -> Any:
    return State(2 * s, (jnp.ones_like(s), s, jnp.tanh(s)), v * (1 + q - k))


def merge_three(one: Any, other: Any) -> Any:
    greatest = jnp.maximum(one.greatest, other.greatest)
    a, b = (jnp.exp(x.greatest - greatest) for x in (one, other))
    total = jax.tree.map(lambda x, y: x * a + y * b, one.total, other.total)
    return State(greatest, total, one.output * a + other.output * b)


def finish_three(state: Any, b: Any, h: Any, q: Any, d: Any) -> Any:
    plain, of_scores, of_tanh = state.total
    return (state.output + of_scores - of_tanh) / plain


def every_table(state: Any, b: Any, h: Any, q: Any, d: Any) -> Any:
    """Reads a table of every home, and is not 0 for values of 0."""
    mean = jnp.tanh(state.output / state.total) * jnp.asarray(BY_QUERY)[b, q]
    gate = jax.nn.sigmoid(jnp.asarray(GATES)[b, h, q, d])
    extra = jnp.asarray(BY_FEATURE)[h, d] * jnp.log(state.total) / (1 + h)
    return mean * gate + extra + 0.01 * state.greatest


def no_number_of_nothing(state: Any, b: Any, h: Any, q: Any, d: Any) -> Any:
    """A logarithm of 0, where numbers stand in for those of no key."""
    less = jnp.where(q > 3, 0.5, 1.0)
    return state.output / state.total + jnp.log(state.total - less)


def of_sums(partial: Any, finish: Any, **more: Any) -> Variant:
    return attention.monoid(
        partial=partial, merge=add, finish=finish, mask=late, name="mine", **more
    )


def nearer(s: Any, b: Any, h: Any, q: Any, k: Any) -> Any:
    return s - 0.1 * (q - k)


VARIANTS: dict[str, Variant] = {
    "sigmoid": of_sums(
        lambda s, v, b, h, q, k: (jax.nn.sigmoid(s - 3) * v,),
        lambda state, b, h, q, d: state[0],
    ),
    "squares over their sum": of_sums(
        squares, lambda state, b, h, q, d: state[1] / (state[0] + 1e-3)
    ),
    "another sum than of weights": of_sums(
        counted,
        lambda state, b, h, q, d: state[1] / jnp.sqrt(jnp.maximum(state[0], 1)),
        score=nearer,
    ),
    "factors of values": attention.monoid(partial=of_cache, mask=late),
    "factors of weights": attention.monoid(partial=weighted, mask=late),
    "exponent and three sums": attention.monoid(
        partial=three_sums,
        merge=merge_three,
        finish=finish_three,
        score=nearer,
        mask=late,
    ),
    "every table": attention.monoid(finish=every_table, mask=late),
    "no number of nothing": attention.monoid(finish=no_number_of_nothing, mask=late),
}
MESHES = [
    (2, "zigzag", "ring", 1),
    (2, "striped", "ulysses", 1),
    (2, "contiguous", "all-gather", 1),
    (2, "tile-cyclic", "pass-q", 1),
    (1, "contiguous", "ring", 1),
    (4, "striped", "ulysses-ring", 2),
    (4, "zigzag", "tiles", 2),
]
# These on one mesh each, and all on all where there is time.
AT = {
    "sigmoid": 0,
    "squares over their sum": 1,
    "factors of values": 3,
    "exponent and three sums": 2,
    "every table": 4,
    "no number of nothing": 4,
}
CASES = [
    pytest.param(name, *mesh, marks=() if AT.get(name) == at else pytest.mark.slow)
    for name in VARIANTS
    for at, mesh in enumerate(MESHES)
]


@pytest.mark.parametrize(("name", "chips", "placement", "scheme", "inner"), CASES)
def test_values_are_the_monoids(
    name: str, chips: int, placement: str, scheme: str, inner: int
) -> None:
    variant = VARIANTS[name]
    wanted, sums = (
        None if x is None else np.asarray(x) for x in variant.dense(Q, K, V)
    )
    assert wanted is not None and not wanted[:, :, :4].any()
    out, lse = variant.prefill(
        Q,
        K,
        V,
        chips=chips,
        placement=placement,
        scheme=scheme,
        inner=inner,
        columns=8,
        lanes=1,
    )
    allowed = 2e-6 * max(1, np.abs(V).max(), np.abs(wanted).max())
    np.testing.assert_allclose(out, wanted, rtol=0, atol=allowed)
    assert not np.asarray(out)[:, :, :4].any()
    assert (lse is None) == (sums is None)
    if sums is not None and lse is not None:
        np.testing.assert_array_equal(np.isneginf(lse), np.isneginf(sums))
        live = np.isfinite(sums)
        np.testing.assert_allclose(np.asarray(lse)[live], sums[live], rtol=0, atol=4e-6)


@pytest.mark.slow
@pytest.mark.parametrize("name", VARIANTS)
def test_cores_know_their_heads(name: str) -> None:
    """Two cores of each chip with half of the heads, in float32 and near it in bfloat16."""
    wanted, _ = VARIANTS[name].dense(Q, K, V)
    largest = max(1, np.abs(wanted).max())
    for dtype, near in ((jnp.float32, 2e-6 * np.abs(V).max()), (jnp.bfloat16, 0.02)):
        sizes: dict[str, Any] = dict(chips=2, cores=2, columns=8, lanes=2, dtype=dtype)
        out, _ = VARIANTS[name].prefill(Q, K, V, **sizes)
        apart = np.abs(np.asarray(out, np.float32) - np.asarray(wanted)).max()
        assert apart <= near * largest, (apart, dtype)


@pytest.mark.slow
@pytest.mark.parametrize("name", VARIANTS)
def test_values_carried_in_bfloat16_are_near(name: str) -> None:
    """Each source's part is merged, by adding where there is no greatest."""
    variant = VARIANTS[name]
    wanted, _ = variant.dense(Q, K, V)
    sizes: dict[str, Any] = dict(chips=4, columns=8, lanes=2, recipe="bf16-o")
    out, _ = variant.prefill(Q, K, V, **sizes)
    np.testing.assert_allclose(out, wanted, rtol=0, atol=0.04 * np.abs(wanted).max())


# --- what it costs, at 1,024 tokens on one chip ---


@functools.cache
def ticks(variant: Variant) -> int:
    """In tiles of 128 keys, so that there are several."""
    attend = context_attention(
        variant.reading,
        q=(1, 4, 1024, 64),
        k=(1, 1, 1024, 64),
        placement="contiguous",
        dtype=jnp.bfloat16,
        columns=128,
        lanes=4,
    )
    return attend.read(TRN3.at()).end_ticks


PLAIN = attention(masks.causal)


def test_softmax_written_out_costs_what_softmax_does() -> None:
    written = attention.monoid(merge=softmax.merge, mask=masks.causal)
    assert ticks(written) == ticks(PLAIN)


def test_what_is_done_at_the_end_costs_little() -> None:
    gates = np.ones((4, 64, 64), np.float32)

    def gated(state: Any, b: Any, h: Any, q: Any, d: Any) -> Any:
        gate = jax.nn.sigmoid(jnp.asarray(gates)[h, q % 64, d])
        return state.output / state.total * gate

    found = ticks(attention.monoid(finish=gated, mask=masks.causal))
    assert ticks(PLAIN) < found < 1.15 * ticks(PLAIN)


def test_a_factor_of_values_costs_less_than_one_of_weights() -> None:
    """By KV head it is that of a value tile, once for all the query heads that share it."""
    shared, own = np.ones((1, 1024), np.float32), np.ones((4, 1024), np.float32)
    own[0, 0] = 2

    def of(factors: np.ndarray) -> int:
        def partial(s: Any, v: Any, b: Any, h: Any, q: Any, k: Any) -> State:
            factor = jnp.asarray(factors)[h % len(factors), k]
            return State(s, jnp.ones_like(s), v * factor)

        return ticks(attention.monoid(partial=partial, mask=masks.causal))

    assert ticks(PLAIN) < of(shared) < of(own)


# --- what is refused ---


def base_two(one: State, other: State) -> State:
    greatest = jnp.maximum(one.greatest, other.greatest)
    a, b = (2.0 ** (x.greatest - greatest) for x in (one, other))
    return State(
        greatest, one.total * a + other.total * b, one.output * a + other.output * b
    )


def test_weights_that_fall_otherwise_are_refused_by_name() -> None:
    variant = attention.monoid(merge=base_two, mask=late)
    with pytest.raises(
        CannotLower, match="weights fall by .*exp2|weights fall by .*pow"
    ):
        variant.prefill(Q, K, V)


def test_other_weights_of_microscaled_operands_are_refused() -> None:
    reading = VARIANTS["sigmoid"].reading
    with pytest.raises(
        EmulationError, match="mine: weights and sums are not a softmax"
    ):
        context_attention(reading, q=(1, 2, 64, 32), k=(1, 2, 64, 32), dtype="mxfp8")


def test_a_last_step_that_reads_no_values_is_refused() -> None:
    variant = attention.monoid(
        finish=lambda state, b, h, q, d: state.total, mask=late, name="total"
    )
    with pytest.raises(CannotLower, match="finish of total: is the same for every"):
        variant.prefill(Q, K, V)


def test_a_last_step_without_an_instruction_is_refused_with_its_line() -> None:
    def finish(state: State, b: Any, h: Any, q: Any, d: Any) -> Any:
        return jnp.floor(state.output / state.total)

    variant = attention.monoid(finish=finish, mask=late)
    line = finish.__code__.co_firstlineno + 1
    with pytest.raises(CannotLower, match=f"floor.*test_context_folds.py:{line}"):
        variant.prefill(Q, K, V)
