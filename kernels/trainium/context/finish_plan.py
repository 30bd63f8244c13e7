"""What of a user's last step of attention is computed when, and what is read from a table.

Its values differ in what they depend on, and so in where they come from and how often:

    depends on                   example             comes from
    sums and greatest            total + sink[h]     instructions, for all lanes of a unit at once
    the weighted values          output / total      instructions, for every lane
    query and feature            sigmoid(gate)       instructions on what a table of gates holds
    head or batch alone          exp(sink[h])        a table, one number a lane
    query                        temperature[q]      a table, a column a lane
    feature                      bias[d]             a table, a row spread over all queries

Tables of queries are laid out as queries are: every rank has those of its own.
"""

import dataclasses
from typing import Literal, TypeAlias

import jax
import numpy as np
from jax.core import Tracer

from emu.lower import CannotLower, Constant, Operand, Operation, Slot
from emu.trainium.lower import check_placeable, is_placeable
from kernels.scores.fold import Fold

QUERY, FEATURE, BATCH, HEAD = "q", "d", "b", "h"
# Homes whose tables are the same on all ranks.
_SHARED = ("head", "feature")

Home: TypeAlias = Literal["head", "feature", "query", "gate"]
"""Where a value that does not depend on the sums comes from; a gate is one of query and feature."""

_FEW = np.arange(4)


@dataclasses.dataclass(frozen=True, eq=False)
class Leaf:
    """A value that does not depend on the sums and that instructions read.

    Attributes:
      slot: of the function.
      home: where it comes from.
      by_head: whether it depends on head or batch.
    """

    slot: Slot
    home: Home
    by_head: bool


@dataclasses.dataclass(frozen=True, eq=False)
class FinishPlan:
    """What of a last step is computed when.

    Attributes:
      fold: whose last step.
      leaves: what is not computed by instructions.
      of_rows: operations on sums and the greatest, one number a query.
      of_lanes: operations on values and on what differs by feature.
      is_zero: whether it gives 0 for values of 0.
    """

    fold: Fold
    leaves: tuple[Leaf, ...]
    of_rows: tuple[Operation, ...]
    of_lanes: tuple[Operation, ...]
    is_zero: bool

    @classmethod
    def of(cls, fold: Fold) -> "FinishPlan":
        """Plans the last step of a fold.

        Raises:
          CannotLower: no instruction computes something of the sums, or it gives no feature.
        """
        function = fold.finish
        if FEATURE not in function.axes_of(function.result):
            raise CannotLower(
                f"{function.name}: is the same for every feature, must depend on the values, "
                f"{fold.values.name}"
            )
        planner = _Planner(fold)
        of_sums = [x for x in function.operations if planner.is_of_sums(Slot(x.result))]
        for operation in of_sums:
            check_placeable(function, operation)
            for operand in operation.operands:
                planner.want(operand)
        planner.want(function.result)
        rows, lanes = [], []
        for operation in function.operations:
            if operation in of_sums and FEATURE not in operation.axes:
                rows.append(operation)
            elif operation in of_sums or operation.result in planner.computed:
                lanes.append(operation)
        return cls(
            fold=fold,
            leaves=tuple(planner.leaves.values()),
            of_rows=tuple(rows),
            of_lanes=tuple(lanes),
            is_zero=_is_zero(fold),
        )

    @property
    def operations(self) -> tuple[Operation, ...]:
        """All operations: on sums, then on values."""
        return (*self.of_rows, *self.of_lanes)

    @property
    def by_head(self) -> bool:
        """Whether it matters which head an output is of."""
        return any(leaf.by_head and leaf.home in _SHARED for leaf in self.leaves)

    @property
    def own(self) -> list[Leaf]:
        """Leaves with a table of a rank's own queries."""
        return [leaf for leaf in self.leaves if leaf.home not in _SHARED]

    @property
    def shared(self) -> list[Leaf]:
        """Leaves with a table that is the same everywhere."""
        return [leaf for leaf in self.leaves if leaf.home in _SHARED]


class _Planner:
    """Finds leaves, and what of queries and features is computed by instructions."""

    def __init__(self, fold: Fold):
        self._function = fold.finish
        self._components = fold.components
        self.leaves: dict[int, Leaf] = {}
        self.computed: set[int] = set()

    def is_of_sums(self, operand: Operand) -> bool:
        """Whether an operand depends on what was summed."""
        depends_on = self._function.depends_on
        return any(depends_on(operand, name) for name in self._components)

    def want(self, operand: Operand) -> None:
        """Something that instructions read."""
        function = self._function
        if isinstance(operand, Constant) or self.is_of_sums(operand):
            return
        if operand.index in self.leaves or operand.index in self.computed:
            return
        axes = function.axes_of(operand)
        operation = function.by_slot.get(operand.index)
        is_gate = axes == {QUERY, FEATURE}
        if is_gate and operation is not None and is_placeable(function, operation):
            self.computed.add(operand.index)
            for read in operation.operands:
                self.want(read)
            return
        homes: dict[frozenset[str], Home] = {
            frozenset({QUERY, FEATURE}): "gate",
            frozenset({QUERY}): "query",
            frozenset({FEATURE}): "feature",
            frozenset(): "head",
        }
        by_head = any(function.depends_on(operand, x) for x in (BATCH, HEAD))
        self.leaves[operand.index] = Leaf(operand, homes[axes], by_head)


def _is_zero(fold: Fold) -> bool:
    """Whether it gives 0 for values of 0 and the numbers that stand in for what is not there.

    Asked of a few queries and features. Of arrays that JAX traces nothing is known.
    """
    function = fold.finish
    held = [x for operation in function.operations for x in operation.operands]
    if any(isinstance(x, Constant) and isinstance(x.value, Tracer) for x in held):
        return False
    values, *others = fold.components
    along: dict[str, np.ndarray] = {values: np.zeros(1)}
    for name in others:
        along[name] = np.full(1, stand_in(fold, name))
    along.update({name: _FEW for name in (BATCH, HEAD, QUERY, FEATURE)})
    with jax.ensure_compile_time_eval():
        found = np.asarray(function.over(function.result, along))
    return not found.any()


def stand_in(fold: Fold, name: str) -> float:
    """In place of a greatest or a sum of nothing: no quotient or logarithm of a softmax fails."""
    return 0.0 if name == fold.greatest else 1.0


__all__ = [
    "BATCH",
    "FEATURE",
    "FinishPlan",
    "HEAD",
    "Home",
    "Leaf",
    "QUERY",
    "stand_in",
]
