"""Factors of a score that no pass over scores is needed for.

A score function that begins with products may leave some of them to others:

    score                        where its factor goes
    s * k_scale[b, h // 4, k]    the keys, once for all queries, before they go to other ranks
    s / temperature[h]           the scale that the Scalar Engine multiplies by on the way into the
                                 exponential, a number for each row
    s * 0.5                      likewise, the same number for all

What is left is the score function of `score_plan`, often none. A factor that is of the query and
the key, as `s * decay ** (q - k)`, or of the key and the query head, stays there.

A key times its factor is rounded to the operands' dtype, as a key that was never quantised is. The
others multiply scores in float32. They do so within the exponential and its maxima, so only a
softmax leaves them to it, and only where they are positive: the greatest score times a factor is
the greatest product then.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from emu import lower
from emu.lower import Constant, Elementwise, Operand, Operation, Slot
from kernels.scores.fold import Fold
from kernels.scores.form import SCORE_INPUTS
from kernels.trainium.context.score_plan import (
    BATCH,
    HEAD,
    KEY,
    QUERY,
    SCORE,
    ScorePlan,
)
from kernels.trainium.context.weighing import HeadGroups, WeighPlan

# Keys or queries at which a factor is looked at together, so that little of it is in memory.
_AT_ONCE = 1 << 13


@dataclasses.dataclass(frozen=True, eq=False)
class ScoreFactors:
    """A score function in parts: `rest(s · keys) · rows · number`, of which `rest` is often `s`.

    Attributes:
      rest: what is done to scores before their softmax; None: nothing.
      keys: factor of `b`, `h` and `k`, the same for all query heads of a KV head; None: 1.
      rows: factor of `b`, `h` and `q`, positive, with `ContextTiling.factor` and `number`; None: it
        is the same for all.
      number: factor of all scores, positive.
    """

    rest: Elementwise | None
    keys: Elementwise | None
    rows: ScorePlan | None
    number: float

    @property
    def by_head(self) -> bool:
        """Whether it matters which head a score is of."""
        return self.keys is not None or (self.rows is not None and self.rows.by_head)


@dataclasses.dataclass(frozen=True)
class _Factor:
    """One product of a score.

    Attributes:
      operation: that multiplies.
      by: what it multiplies by.
      divides: whether it divides instead.
    """

    operation: Operation
    by: Operand
    divides: bool


def split(
    score: Elementwise | None,
    *,
    fold: Fold | None,
    groups: HeadGroups,
    scale: float,
    scales_keys: bool,
) -> ScoreFactors:
    """Takes a score function apart.

    Args:
      score: of the arguments `SCORE_INPUTS`; None: the score itself.
      fold: what is made of scores and values; None: their softmax.
      groups: which query heads share a KV head.
      scale: of the scores, before the function.
      scales_keys: whether keys can be multiplied; microscaled ones cannot.
    """
    if score is None:
        return ScoreFactors(None, None, None, 1.0)
    of_keys, of_rows, numbers = [], [], []
    for factor in _leading(score):
        if isinstance(factor.by, Constant) and factor.by.number is not None:
            numbers.append(factor)
        elif not score.depends_on(factor.by, KEY):
            of_rows.append(factor)
        elif not score.depends_on(factor.by, QUERY):
            of_keys.append(factor)
    keys = None
    if scales_keys and of_keys:
        of_keys = [x for x in of_keys if _is_shared(_product(score, [x]), groups)]
        keys = _product(score, of_keys) if of_keys else None
    taken = of_keys if keys is not None else []
    # What is left to the exponential stands behind all that is done to a score.
    deferred = [*taken, *of_rows, *numbers]
    is_product = _without(score, deferred).result == _SCORE
    if is_product and _leaves_to_softmax(fold, groups):
        number = _number(score, numbers)
        rows = _product(score, of_rows, number * scale) if of_rows else None
        whole = number if rows is None else 1.0
        if _is_positive(whole * scale) and (
            rows is None or _all_positive(rows, groups)
        ):
            plan = None if rows is None else ScorePlan.of(rows)
            return ScoreFactors(None, keys, plan, number)
    if keys is None:
        return ScoreFactors(score, None, None, 1.0)
    rest = _without(score, taken)
    return ScoreFactors(None if rest.result == _SCORE else rest, keys, None, 1.0)


_SCORE = Slot([x.name for x in SCORE_INPUTS].index(SCORE))


def _leading(score: Elementwise) -> list[_Factor]:
    """The products that a score function begins with, in order."""
    found = []
    at: Slot = _SCORE
    while score.uses(at) == 1 and score.result != at:
        (reader,) = [x for x in score.operations if at in x.operands]
        factor = _factor(score, reader, at)
        if factor is None:
            break
        found.append(factor)
        at = Slot(reader.result)
    return found


def _factor(score: Elementwise, reader: Operation, at: Slot) -> _Factor | None:
    """What an operation multiplies a value by; None where it does anything else."""
    if reader.name not in ("mul", "div") or reader.shape:
        return None
    if reader.dtype != score.dtype_of(at):
        return None
    first, second = reader.operands
    divides = reader.name == "div"
    if divides and first != at:
        return None
    by = second if first == at else first
    if score.depends_on(by, SCORE):
        return None
    return _Factor(reader, by, divides)


def _without(score: Elementwise, factors: list[_Factor]) -> Elementwise:
    """The function without some of its products."""
    # A product's result is then what was multiplied.
    instead: dict[Operand, Operand] = {}
    removed = {x.operation.result for x in factors}
    operations = []

    def read(operand: Operand) -> Operand:
        return instead.get(operand, operand) if isinstance(operand, Slot) else operand

    by_result = {x.operation.result: x for x in factors}
    for operation in score.operations:
        operands = tuple(map(read, operation.operands))
        if operation.result in removed:
            by = by_result[operation.result].by
            first, second = operation.operands
            other = second if by is first else first
            instead[Slot(operation.result)] = read(other)
            continue
        operations.append(dataclasses.replace(operation, operands=operands))
    whole = dataclasses.replace(
        score, operations=tuple(operations), result=read(score.result)
    )
    return lower.composed(whole, SCORE, _IDENTITY)


_IDENTITY = Elementwise("score", SCORE_INPUTS, (), _SCORE)


def _product(
    score: Elementwise, factors: list[_Factor], number: float = 1.0
) -> Elementwise:
    """A product of factors and a number, as a function of its own."""

    def factor(*arguments: Any) -> jax.Array:
        names = [x.name for x in score.inputs]
        known = dict(zip(names, arguments, strict=True))
        product = jnp.float32(number)
        for x in factors:
            value = score.evaluate(x.by, known).astype(jnp.float32)
            product = product / value if x.divides else product * value
        return product

    return lower.read(factor, SCORE_INPUTS, score.name)


def _number(score: Elementwise, factors: list[_Factor]) -> float:
    number = 1.0
    for x in factors:
        assert isinstance(x.by, Constant) and x.by.number is not None
        number = number / x.by.number if x.divides else number * x.by.number
    return number


# --- what a factor's values say ---


def _is_shared(factor: Elementwise, groups: HeadGroups) -> bool:
    """Whether the query heads of a KV head share a factor of keys."""
    heads = np.arange(groups.heads)
    group = groups.heads // groups.kv_heads
    if not factor.depends_on(factor.result, HEAD) or group == 1:
        return True
    if _enters_by_kv_head(factor, heads // group):
        return True
    if _is_traced(factor):
        return False

    def agree(found: np.ndarray) -> bool:
        of_groups = found.reshape(len(found), groups.kv_heads, group, -1)
        return bool((of_groups == of_groups[:, :, :1]).all())

    along = {BATCH: np.arange(groups.batch), HEAD: heads}
    return _for_all(factor, along, KEY, groups.keys, agree)


def _enters_by_kv_head(factor: Elementwise, kv_heads: np.ndarray) -> bool:
    """Whether heads matter to a factor by values alone that those of a KV head share.

    Of `k_scale[b, h // 4, k]` that value is `h // 4`; then it is so at all keys and whatever the
    scales are.
    """
    found: dict[Slot, bool] = {}

    def is_shared(slot: Slot) -> bool:
        """Whether a value of the head alone is the same for the heads of a KV head."""
        if slot not in found:
            with jax.ensure_compile_time_eval():
                values = np.asarray(factor.over(slot, {HEAD: np.arange(len(kv_heads))}))
            firsts = values[np.searchsorted(kv_heads, kv_heads)]
            found[slot] = bool((values == firsts).all())
        return found[slot]

    head = Slot([x.name for x in factor.inputs].index(HEAD))
    waiting: list[Operand] = [factor.result]
    while waiting:
        operand = waiting.pop()
        if not isinstance(operand, Slot) or not factor.depends_on(operand, HEAD):
            continue
        others = [x.name for x in factor.inputs if x.name != HEAD]
        is_of_head = not any(factor.depends_on(operand, name) for name in others)
        is_one = operand == head or not factor.by_slot[operand.index].shape
        if is_of_head and is_one and _is_concrete(factor, operand):
            if is_shared(operand):
                continue
        if operand == head:
            return False
        waiting += factor.by_slot[operand.index].operands
    return True


def _is_concrete(factor: Elementwise, operand: Operand) -> bool:
    """Whether nothing that JAX traces is in an operand."""
    if isinstance(operand, Constant):
        return not isinstance(operand.value, Tracer)
    if operand.index < len(factor.inputs):
        return True
    operation = factor.by_slot[operand.index]
    return all(_is_concrete(factor, x) for x in operation.operands)


def _is_traced(factor: Elementwise) -> bool:
    return not _is_concrete(factor, factor.result)


def _all_positive(factor: Elementwise, groups: HeadGroups) -> bool:
    """Whether a factor of rows is positive for all of them; of traced numbers nobody knows."""
    if _is_traced(factor):
        return False
    counts = {BATCH: groups.batch, HEAD: groups.heads}
    along = {
        name: np.arange(count)
        for name, count in counts.items()
        if factor.depends_on(factor.result, name)
    }
    count = groups.keys if factor.depends_on(factor.result, QUERY) else 1
    return _for_all(factor, along, QUERY, count, _is_positive)


def _is_positive(values: Any) -> bool:
    """Whether numbers are positive, finite and not so small that a machine takes them for 0."""
    least = float(np.finfo(np.float32).tiny)
    most = float(np.finfo(np.float32).max)
    return bool(((np.asarray(values) >= least) & (np.asarray(values) <= most)).all())


def _for_all(
    factor: Elementwise,
    along: Mapping[str, np.ndarray],
    position: str,
    count: int,
    holds: Any,
) -> bool:
    """Whether something holds of a factor's values at all positions."""
    with jax.ensure_compile_time_eval():
        for first in range(0, count, _AT_ONCE):
            positions = np.arange(first, min(count, first + _AT_ONCE))
            found = factor.over(factor.result, {**along, position: positions})
            if not holds(np.asarray(found)):
                return False
    return True


def _leaves_to_softmax(fold: Fold | None, groups: HeadGroups) -> bool:
    """Whether scores are only exponentiated, relative to their greatest, by the softmax's step."""
    if fold is None or fold.is_softmax:
        return True
    if fold.greatest is None or not fold.weighs_as_softmax:
        return False
    plan = WeighPlan.of(fold, None, groups)
    return plan.is_softmax and plan.score is None


__all__ = ["ScoreFactors", "split"]
