"""What a monoid makes of scores besides a softmax: other weights, and factors of what is summed.

    monoid                        on the mesh
    weights relative to a         the softmax's step; a further factor multiplies the weights
    greatest                      before they meet the values, or the values once they are loaded,
                                  where it is of the key and its KV head alone (scales of a cache)
    no greatest (sigmoid, ReLU)   weights are what becomes of the score; a pair that is not attended
                                  weighs 0

A sum with the factor of the values is one over the same weights. Other factors are functions of
their own, each carried out on every tile of scores.
"""

import dataclasses
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from emu import lower
from emu.lower import CannotLower, Constant, Elementwise, Slot, composed
from emu.trainium.engines.memory import dma_load_tiles, sbuf
from emu.trainium.isa import (
    activation_reduce,
    memset,
    tensor_reduce,
    tensor_scalar,
    tensor_tensor,
)
from emu.trainium.spaces import Hbm, OnChip, Sbuf
from kernels.refusal import refuse
from kernels.scores.fold import Fold
from kernels.scores.form import SCORE_INPUTS
from kernels.trainium.context.operands import VALUES
from kernels.trainium.context.score_plan import (
    BATCH,
    HEAD,
    KEY,
    SCORE,
    ScorePlan,
)
from kernels.trainium.context.scoring import Scoring
from kernels.trainium.context.sizes import ContextTiling
from kernels.trainium.flash.fold_step import Summed, Weigh, Weighed
from kernels.trainium.flash.lanes import Lane
from kernels.trainium.flash.online_softmax import absorb
from kernels.trainium.flash.step import Masked
from kernels.trainium.tiles import index

WEIGHTS = -1
"""In place of a function's number: the weights themselves."""

# Keys at which a factor is looked at, to see whether a KV head's query heads share it.
_SAMPLE = 64


@dataclasses.dataclass(frozen=True, eq=False)
class WeighPlan:
    """What of a fold's weights is computed when.

    Attributes:
      fold: whose.
      score: what becomes of a score before it is weighed, and of a fold without a greatest the
        weight itself; None: nothing.
      scales: factor of the values, of `b`, `h` and `k`, the same for all query heads of a KV head;
        None: there is none, or it multiplies weights.
      functions: factors that are computed for every tile of scores.
      values: which of `functions` the values' weights are multiplied by, or `WEIGHTS`.
      sums: likewise for each of the sums that are not of plain weights.
    """

    fold: Fold
    score: Elementwise | None
    scales: Elementwise | None
    functions: tuple[ScorePlan, ...]
    values: int
    sums: tuple[int, ...]

    @classmethod
    def of(
        cls, fold: Fold, score: Elementwise | None, heads: "HeadGroups"
    ) -> "WeighPlan":
        """Plans a fold's weights.

        Args:
          fold: as read.
          score: the variant's score function; None: the score itself.
          heads: which query heads share a KV head.

        Raises:
          CannotLower: weights that fall otherwise than a softmax's, or arithmetic that no
            instruction computes.
        """
        if fold.greatest is None:
            return cls._of_sums(fold, score)
        if not fold.weighs_as_softmax:
            assert fold.weight is not None
            told = ", ".join(x.name for x in fold.weight.operations) or "nothing"
            line = fold.weight.operations[-1].line if fold.weight.operations else ""
            raise CannotLower(
                f"{fold.name}: weights fall by {told}; on Trainium they fall by "
                "exp(own - greatest), or are relative to no greatest",
                line,
            )
        functions = _Functions()
        scales = None
        values, factor = WEIGHTS, fold.values.coefficient
        if factor is not None and heads.share(factor):
            scales = factor
        elif factor is not None:
            values = functions.number(_of_score(factor, score))
        sums = tuple(
            functions.number(_of_score(x.coefficient, score))
            for x in fold.sums
            if x.coefficient is not None
        )
        before = score
        if fold.exponent is not None:
            before = _of_score(fold.exponent, score)
        return cls(fold, before, scales, functions.plans, values, sums)

    @classmethod
    def _of_sums(cls, fold: Fold, score: Elementwise | None) -> "WeighPlan":
        """Of a fold without a greatest, whose weights are the values' factors."""
        functions = _Functions()
        weight = _factor(fold.values.coefficient, score)
        sums = []
        for own in fold.sums:
            function = _factor(own.coefficient, score)
            is_weight = _same(function, weight)
            sums.append(WEIGHTS if is_weight else functions.number(function))
        return cls(fold, weight, None, functions.plans, WEIGHTS, tuple(sums))

    @property
    def is_softmax(self) -> bool:
        """Whether the softmax's own step makes the weights."""
        return self.fold.greatest is not None and not self.functions

    @property
    def sums_weights(self) -> bool:
        """Whether a sum is of the very weights of the values."""
        return self.values in self.sums

    @property
    def by_head(self) -> bool:
        """Whether it matters which head a score is of."""
        return self.scales is not None or any(x.by_head for x in self.functions)


class _Functions:
    """Functions by number, the same one once."""

    def __init__(self) -> None:
        self._found: list[Elementwise] = []

    def number(self, function: Elementwise) -> int:
        for place, other in enumerate(self._found):
            if _same(function, other):
                return place
        self._found.append(function)
        return len(self._found) - 1

    @property
    def plans(self) -> tuple[ScorePlan, ...]:
        return tuple(map(ScorePlan.of, self._found))


def _of_score(function: Elementwise, score: Elementwise | None) -> Elementwise:
    """A function of what the variant's score function gives."""
    return function if score is None else composed(function, SCORE, score)


def _factor(function: Elementwise | None, score: Elementwise | None) -> Elementwise:
    """The same, or 1."""
    if function is not None:
        return _of_score(function, score)
    return lower.read(lambda *_: jnp.float32(1), SCORE_INPUTS, "number of keys")


def _same(one: Elementwise, other: Elementwise) -> bool:
    """Whether two functions are the same operations on the same numbers and arrays."""

    def told(function: Elementwise) -> tuple[object, ...]:
        numbers = {Slot(n): n for n in range(len(function.inputs))}

        def operand(x: object) -> object:
            if isinstance(x, Slot):
                return numbers[x]
            assert isinstance(x, Constant)
            return id(x.value) if x.number is None else ("number", x.number)

        found: list[object] = []
        for operation in function.operations:
            numbers[Slot(operation.result)] = len(numbers)
            parameters = sorted(
                (key, repr(value)) for key, value in operation.equation.params.items()
            )
            operands = tuple(map(operand, operation.operands))
            found.append((operation.name, operands, tuple(parameters)))
        return (*found, operand(function.result))

    return told(one) == told(other)


# --- which heads share a KV head ---


@dataclasses.dataclass(frozen=True)
class HeadGroups:
    """Query heads and their KV heads.

    Attributes:
      batch: sequences.
      heads, kv_heads: of each.
      keys: how many there are.
    """

    batch: int
    heads: int
    kv_heads: int
    keys: int

    def share(self, factor: Elementwise) -> bool:
        """Whether a factor is one of the key and its KV head, as far as a sample of keys tells."""
        names = [x.name for x in factor.inputs]
        others = [name for name in names if name not in (BATCH, HEAD, KEY)]
        if any(factor.depends_on(factor.result, name) for name in others):
            return False
        held = [x.operands for x in factor.operations]
        constants = [
            x for operands in held for x in operands if isinstance(x, Constant)
        ]
        if any(isinstance(x.value, Tracer) for x in constants):
            return False
        with jax.ensure_compile_time_eval():
            sample = np.linspace(0, self.keys - 1, min(self.keys, _SAMPLE))
            return self._agree(self._values(factor, sample.astype(np.int32)))

    def scales(self, factor: Elementwise, k: np.ndarray) -> jax.Array:
        """The factor of each KV head and key, float32 `[batch · kv_heads, n]`, at keys `[n]`."""
        found = self._values(factor, k)
        # At keys behind the last one it means nothing.
        if not self._agree(found[..., k < self.keys]):
            refuse(
                f"{factor.name}: query heads of a KV head share their factor of values at some "
                "keys and not at others"
            )
        of_first = found[:, :, 0]
        return of_first.reshape(self.batch * self.kv_heads, -1).astype(jnp.float32)

    def _values(self, factor: Elementwise, k: np.ndarray) -> jax.Array:
        """`[batch, kv_heads, query heads of each, n]`."""
        along = {BATCH: np.arange(self.batch), HEAD: np.arange(self.heads), KEY: k}
        found = factor.over(factor.result, along)
        return found.reshape(self.batch, self.kv_heads, -1, len(k))

    def _agree(self, found: jax.Array) -> bool:
        if isinstance(found, Tracer):
            return True  # seen on a sample before it was traced
        of_groups = np.asarray(found)
        return bool(np.all(of_groups == of_groups[:, :, :1]))


# --- in the kernel ---


@dataclasses.dataclass(frozen=True)
class Weighing:
    """A fold's weights in the kernel of one core.

    Attributes:
      plan: what is computed when.
      functions: its factors.
      scales: factors of values, `[all KV heads, key tiles, span, keys]`; None: there are none.
    """

    plan: WeighPlan
    functions: tuple[Scoring, ...]
    scales: Hbm | None


def scaled_values(values: Sbuf, scales: Hbm, tiling: ContextTiling) -> Sbuf:
    """A value tile times a factor of each key.

    Args:
      values: SBUF `[keys, span, value_dim]`.
      scales: HBM `[span, keys]`.
      tiling: sizes.
    """
    # As values, keys stand on partitions.
    columns = sbuf(tiling.keys, tiling.span, 1, buffers=tiling.buffers)
    pieces = scales.reshape(tiling.span, tiling.keys, 1)
    columns = dma_load_tiles(columns, pieces, queue=VALUES)
    scaled = sbuf(*values.shape, dtype=values.dtype, buffers=tiling.buffers)
    for place in range(tiling.span):
        piece, factor = index(values, place, 1), columns[:, place]
        # GpSimd has time; the Vector Engine is what attention waits for.
        put = tensor_scalar.at[:, place]
        scaled = put(scaled, piece, factor, op="multiply", engine="gpsimd")
    return scaled


def weigh_sums(
    plan: WeighPlan,
    weight: Masked,
    functions: Sequence[Masked],
    tiling: ContextTiling,
) -> Weigh:
    """Weights of a fold without a greatest.

    Args:
      plan: of the fold.
      weight: takes scores out of PSUM as weights, 0 where a pair is not attended.
      functions: likewise as the factors of other sums.
      tiling: sizes.
    """

    def weigh(scores: OnChip, done: Summed) -> Lane[Weighed]:
        weights = yield from weight(scores)
        yield
        if plan.sums_weights:
            # The sum is of unrounded weights, as a softmax's is.
            weights, of_weights = _rounded_and_summed(weights, tiling)
        else:
            of_weights = None
        sums = []
        for number in plan.sums:
            if number == WEIGHTS:
                assert of_weights is not None
                sums.append(of_weights)
                continue
            tile = yield from functions[number](scores)
            yield
            sums.append(tensor_reduce(_column(tiling), tile, op="add"))
        return Weighed(weights, tuple(sums), None)

    return weigh


def weigh_relative(
    plan: WeighPlan,
    masked: Masked | None,
    functions: Sequence[Masked],
    tiling: ContextTiling,
) -> Weigh:
    """Weights of a softmax, times factors.

    Args:
      plan: of the fold.
      masked: as for `flash.step.attend`.
      functions: take scores out of PSUM as the factors, 0 where a pair is not attended.
      tiling: sizes.
    """

    def weigh(scores: OnChip, done: Summed) -> Lane[Weighed]:
        assert done.softmax is not None
        taken = scores
        if masked is None:
            yield
        else:
            taken = yield from masked(scores)
        # Products with factors are rounded, and not what is multiplied; but weights that values
        # meet as they are.
        is_plain = plan.values == WEIGHTS
        dtype = tiling.step.dtype if is_plain else jnp.float32
        weights = sbuf(*taken.shape, dtype=dtype, buffers=tiling.depth)
        weights, added, decay, softmax = yield from absorb(
            weights,
            taken,
            done.softmax,
            scale=tiling.step.scale,
            buffers=tiling.depth,
        )
        products = []
        for number, function in enumerate(functions):
            yield
            factor = yield from function(scores)
            yield
            is_last = number == plan.values and number not in plan.sums
            dtype = tiling.step.dtype if is_last else jnp.float32
            product = sbuf(*taken.shape, dtype=dtype, buffers=tiling.depth)
            products.append(tensor_tensor(product, weights, factor, op="multiply"))
        of_values = weights if is_plain else products[plan.values]
        sums = []
        for number in plan.sums:
            yield
            if number == plan.values:
                of_values, total = _rounded_and_summed(of_values, tiling)
            else:
                total = tensor_reduce(_column(tiling), products[number], op="add")
            sums.append(total)
        return Weighed(of_values, tuple(sums), (softmax, added, decay))

    return weigh


def _rounded_and_summed(weights: OnChip, tiling: ContextTiling) -> tuple[Sbuf, Sbuf]:
    """Weights in the operands' dtype, and the sum of each row of the unrounded ones."""
    rounded = sbuf(*weights.shape, dtype=tiling.step.dtype, buffers=tiling.depth)
    nothing = memset(_column(tiling), value=0.0, engine="gpsimd")
    # In one pass of the Scalar Engine, on its way to a sum anyway.
    return activation_reduce(rounded, _column(tiling), weights, nothing, op="copy")


def _column(tiling: ContextTiling) -> Sbuf:
    return sbuf(tiling.rows, 1, buffers=tiling.depth)


__all__ = [
    "HeadGroups",
    "WeighPlan",
    "Weighing",
    "scaled_values",
    "weigh_relative",
    "weigh_sums",
]
