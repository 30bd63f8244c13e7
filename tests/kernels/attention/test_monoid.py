"""A block monoid read as a fold: forms that are recognised, and monoids that are none."""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from emu.lower import CannotLower
from kernels import attention, masks
from kernels.attention import softmax
from kernels.attention.monoid import Monoid
from kernels.attention.recognise import read_fold
from kernels.attention.softmax import State
from kernels.scores.fold import Fold


def line_of(function: Callable[..., Any], offset: int = 0) -> str:
    return f"test_monoid.py:{function.__code__.co_firstlineno + offset}"


def read(name: str = "mine", **functions: Any) -> Fold:
    return read_fold(name, Monoid(**functions))


def refused(**functions: Any) -> str:
    with pytest.raises(CannotLower) as found:
        read(**functions)
    return str(found.value)


# --- what is recognised ---


def with_where(one: State, other: State) -> State:
    """Softmax's merge, written otherwise."""
    greatest = jnp.where(one.greatest > other.greatest, one.greatest, other.greatest)
    of_one = 1 / jnp.exp(greatest - one.greatest)
    of_other = 2 ** ((other.greatest - greatest) * np.log2(np.e))
    return State(
        greatest,
        of_other * other.total + of_one * one.total,
        of_other * other.output + of_one * one.output,
    )


def with_greater_first(one: State, other: State) -> State:
    """Only the lesser of both is multiplied."""
    first = one.greatest >= other.greatest
    high, low = (
        [jnp.where(first, a, b) for a, b in zip(x, y, strict=True)]
        for x, y in ((one, other), (other, one))
    )
    factor = jnp.exp(low[0] - high[0])
    return State(high[0], high[1] + factor * low[1], high[2] + factor * low[2])


@pytest.mark.parametrize("merge", [softmax.merge, with_where, with_greater_first])
def test_softmax_is_recognised_however_it_is_written(merge: Any) -> None:
    fold = read(merge=merge)
    assert fold.components == ("output", "greatest", "total")
    assert fold.is_softmax and fold.divides_by_sum and fold.tells_log_sum_exp


def test_a_monoid_that_is_softmax_is_read_as_one() -> None:
    assert attention.monoid(merge=with_where, mask=masks.causal).reading.fold is None


def test_a_finish_of_its_own_leaves_the_rest_softmax() -> None:
    def finish(state: State, b: Any, h: Any, q: Any, d: Any) -> Any:
        return state.output / (state.total + jnp.exp(-state.greatest))

    fold = read(finish=finish)
    assert fold.is_softmax and not fold.divides_by_sum
    finished = fold.finish
    values = {"output": 3.0, "greatest": np.log(2), "total": 1.5}
    assert finished.evaluate(finished.result, values) == pytest.approx(3 / 2)


@jax.tree_util.register_dataclass
@dataclasses.dataclass
class Sums:
    weights: Any
    values: Any


class Named(NamedTuple):
    d: Any
    parts: tuple[Any, Any]


@pytest.mark.parametrize(
    ("make", "names"),
    [
        (lambda w, o: o, ("state",)),
        (lambda w, o: (w, o), ("1", "0")),
        (lambda w, o: {"o": o, "sum": w}, ("o", "sum")),
        (Sums, ("values", "weights")),
        (lambda w, o: Named(o, (w, 2 * w)), ("state.d", "parts.0", "parts.1")),
    ],
)
def test_sums_without_a_greatest_in_any_tree(make: Any, names: Any) -> None:
    def partial(s: Any, v: Any, b: Any, h: Any, q: Any, k: Any) -> Any:
        weight = jax.nn.relu(s) ** 2
        return make(weight, v * weight)

    def merge(one: Any, other: Any) -> Any:
        return jax.tree.map(lambda a, b: b + a, one, other)

    def finish(state: Any, b: Any, h: Any, q: Any, d: Any) -> Any:
        return sum(jax.tree.leaves(state))

    fold = read(partial=partial, merge=merge, finish=finish)
    assert fold.components == names
    assert fold.greatest is fold.exponent is fold.weight is None
    assert not fold.tells_log_sum_exp
    weight = fold.values.coefficient
    assert weight is not None
    assert weight.evaluate(weight.result, {"s": -1.0}) == 0
    assert weight.evaluate(weight.result, {"s": 3.0}) == 9


def test_coefficients_exponent_and_a_weight_of_another_base() -> None:
    scales = np.array([1, 0.5, 2], np.float32)

    def partial(s: Any, v: Any, b: Any, h: Any, q: Any, k: Any) -> State:
        return State(2 * s, jnp.ones_like(s), v * jnp.asarray(scales)[k])

    def merge(one: State, other: State) -> State:
        greatest = jnp.maximum(one.greatest, other.greatest)
        a, b = (3.0 ** (x.greatest - greatest) for x in (one, other))
        return State(
            greatest,
            one.total * a + other.total * b,
            one.output * a + other.output * b,
        )

    fold = read(partial=partial, merge=merge)
    assert not fold.weighs_as_softmax and not fold.tells_log_sum_exp
    (total,) = fold.sums
    assert total.coefficient is None
    of = {"own": 1.0, "greatest": 3.0}
    for function, given, wanted in (
        (fold.exponent, {"s": 1.5}, 3),
        (fold.weight, of, 3.0**-2),
        (fold.values.coefficient, {"k": 2}, 2),
    ):
        assert function is not None
        assert function.evaluate(function.result, given) == pytest.approx(wanted)
    names = [x.name for x in fold.values.coefficient.operations]  # type: ignore
    assert "mul" not in names and "exp" not in names


def test_arrays_that_jax_traces_may_be_held() -> None:
    def of(scales: jax.Array) -> jax.Array:
        def partial(s: Any, v: Any, b: Any, h: Any, q: Any, k: Any) -> State:
            return State(s, jnp.ones_like(s), v * scales[k])

        coefficient = read(partial=partial).values.coefficient
        assert coefficient is not None
        return coefficient.evaluate(coefficient.result, {"k": 1})

    assert jax.jit(of)(jnp.array([2.0, 3.0])) == 3
    np.testing.assert_array_equal(jax.grad(of)(jnp.array([2.0, 3.0])), [0, 1])


# --- what is refused ---


def mean(one: State, other: State) -> State:
    greatest, total, output = softmax.merge(one, other)
    return State(greatest, total / 2, output)


def newest(one: State, other: State) -> State:
    return softmax.merge(one, other)._replace(total=one.total)


def test_a_merge_that_is_not_associative_is_refused_with_an_example() -> None:
    told = refused(merge=mean)
    assert "merge of mine: is not associative: of a = (greatest=" in told
    assert "merge(merge(a, b), c) = (" in told and "merge(a, merge(b, c)) = (" in told
    assert told.endswith(f"({line_of(mean)})")


def test_the_example_is_one() -> None:
    """The three states that are told, merged by hand."""
    told = refused(merge=mean)

    def states(text: str) -> State:
        inside = told.split(f"{text} = (")[1].split(")")[0]
        return State(*(float(x.split("=")[1]) for x in inside.split(", ")))

    a, b, c = (states(x) for x in ("a", "b", "c"))
    left, right = mean(mean(a, b), c), mean(a, mean(b, c))
    np.testing.assert_allclose(left, states("merge(merge(a, b), c)"), rtol=1e-5)
    np.testing.assert_allclose(right, states("merge(a, merge(b, c))"), rtol=1e-5)
    assert abs(left.total - right.total) > 1e-3


def test_a_merge_of_which_the_order_matters_is_refused() -> None:
    assert "is not commutative: of a = (" in refused(merge=newest)


def test_a_merge_that_overflows_is_refused() -> None:
    def merge(one: State, other: State) -> State:
        total = one.total * jnp.exp(one.greatest) + other.total * jnp.exp(
            other.greatest
        )
        return softmax.merge(one, other)._replace(total=jnp.log(jnp.exp(total)))

    assert "gives no finite number" in refused(merge=merge)


@pytest.mark.parametrize(
    ("partial", "words"),
    [
        (lambda s, v, b, h, q, k: State(s, v, v), "depend on v are total, output"),
        (lambda s, v, b, h, q, k: State(s, s, s), "depend on v are none"),
        (lambda s, v, b, h, q, k: State(s, 1.0, v * v), "output is not linear in v"),
        (lambda s, v, b, h, q, k: State(s, 1.0, v + 1), "output is not linear in v"),
        (
            lambda s, v, b, h, q, k: State(s, 1.0, v * jnp.exp(s)),
            "keep the greatest score in the state",
        ),
        (lambda s, v, b, h, q, k: State(s, 1.0, v * jnp.ones(2)), "must give scalars"),
        (lambda s, v, q, k: State(s, 1.0, v), "is called with 6 values"),
        (lambda s, v, b, h, q, k: State(s, 1.0, v if s > 0 else 0), "jnp.where"),
    ],
)
def test_a_partial_that_is_none_is_refused(partial: Any, words: str) -> None:
    told = refused(partial=partial)
    assert words in told and line_of(partial) in told


def smooth(one: State, other: State) -> State:
    """A logarithm of a sum in place of a greatest."""
    both = jnp.logaddexp(one.greatest, other.greatest)
    a, b = (jnp.exp(x.greatest - both) for x in (one, other))
    return State(both, one.total + other.total, one.output * a + other.output * b)


def two_weights(one: State, other: State) -> State:
    greatest = jnp.maximum(one.greatest, other.greatest)
    a, b = (jnp.exp(x.greatest - greatest) for x in (one, other))
    return State(
        greatest,
        one.total * a**2 + other.total * b**2,
        one.output * a + other.output * b,
    )


def two_greatest(one: State, other: State) -> State:
    return softmax.merge(one, other)._replace(total=jnp.maximum(one.total, other.total))


def plain_beside(one: State, other: State) -> State:
    return softmax.merge(one, other)._replace(total=one.total + other.total)


@pytest.mark.parametrize(
    ("merge", "words"),
    [
        (smooth, "greatest and output are no sums, and no component is the greater"),
        (two_weights, "total and output fall by different weights"),
        (two_greatest, "greatest and total are both the greater of two"),
        (plain_beside, "total are summed as they are and output are not"),
        (lambda one, other: (one.total, other.total), "must give one as partial does"),
        (lambda one: one, "is called with 2 values"),
    ],
)
def test_a_merge_of_another_kind_is_refused(merge: Any, words: str) -> None:
    assert words in refused(merge=merge)


def test_a_finish_of_other_arguments_is_refused() -> None:
    assert "finish of mine: is called with 5 values" in refused(finish=lambda s: s)
