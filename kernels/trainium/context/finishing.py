"""What a user makes of a query's sums, at the end: arithmetic on the output of all its keys.

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
from collections.abc import Iterator, Sequence
from typing import Literal, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from emu.annotations import DType, KnownInt
from emu.lower import CannotLower, Constant, Operand, Operation, Slot
from emu.trainium.datasheets.sheet import LOAD_QUEUES
from emu.trainium.engines.memory import dma_load, dma_load_tiles, sbuf
from emu.trainium.isa import (
    memset,
    tensor_copy,
    tensor_copy_predicated_value,
    tensor_immediate,
    tensor_scalar,
)
from emu.trainium.lower import (
    TRUTH,
    Column,
    Lowering,
    Number,
    Value,
    Values,
    check_placeable,
    is_placeable,
)
from emu.trainium.spaces import Hbm, Sbuf
from kernels.scores.fold import Fold
from kernels.trainium.context.sizes import ContextTiling
from kernels.trainium.context.state import MAXIMUM, Unit, statistics_of
from kernels.trainium.flash.online_softmax import LOWEST
from kernels.trainium.tiles import divide, index, part

QUERY, FEATURE, BATCH, HEAD = "q", "d", "b", "h"
# Homes whose tables are the same on all ranks.
_SHARED = ("head", "feature")

Home: TypeAlias = Literal["head", "feature", "query", "gate"]
"""Where a value that does not depend on the sums comes from; a gate is one of query and feature."""

Own: TypeAlias = Sequence[Hbm]
"""A rank's tables of its own queries, `[tiles, heads, rows, features or 1]` each."""

Shared: TypeAlias = Sequence[Hbm]
"""Tables that are the same everywhere: `[all heads]`, or `[all heads or 1, features]`."""

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
        along[name] = np.full(1, _stand_in(fold, name))
    along.update({name: _FEW for name in (BATCH, HEAD, QUERY, FEATURE)})
    with jax.ensure_compile_time_eval():
        found = np.asarray(function.over(function.result, along))
    return not found.any()


def _stand_in(fold: Fold, name: str) -> float:
    """In place of a greatest or a sum of nothing: no quotient or logarithm of a softmax fails."""
    return 0.0 if name == fold.greatest else 1.0


# --- tables ---


@dataclasses.dataclass(frozen=True)
class Span:
    """What the tables of a last step are made for.

    Attributes:
      batch: sequences.
      heads: query heads of each.
      first: position of the first query.
      queries: how many there are.
      features: of a value.
    """

    batch: int
    heads: int
    first: int
    queries: int
    features: int


def shared_shapes(plan: FinishPlan, span: Span) -> list[jax.ShapeDtypeStruct]:
    """Shapes of `shared_tables`, without computing them."""
    heads = span.batch * span.heads
    found = []
    for leaf in plan.shared:
        shape = (heads,)
        if leaf.home == "feature":
            shape = (heads if leaf.by_head else 1, span.features)
        found.append(jax.ShapeDtypeStruct(shape, jnp.float32))
    return found


def shared_tables(plan: FinishPlan, span: Span) -> list[jax.Array]:
    """Tables that all ranks have; see `Shared`."""
    function = plan.fold.finish
    found = []
    for leaf in plan.shared:
        along = _heads(span, leaf.by_head)
        if leaf.home == "feature":
            along[FEATURE] = np.arange(span.features)
        values = function.over(leaf.slot, along).astype(jnp.float32)
        shape = (-1, span.features) if leaf.home == "feature" else (-1,)
        found.append(values.reshape(shape))
    return found


def own_tables(plan: FinishPlan, span: Span) -> list[jax.Array]:
    """Tables by query, `[queries, all heads, features or 1]`, in the order of the sequence."""
    function = plan.fold.finish
    positions = np.arange(span.first, span.first + span.queries)
    found = []
    for leaf in plan.own:
        along = {**_heads(span, True), QUERY: positions}
        along[FEATURE] = np.arange(span.features if leaf.home == "gate" else 1)
        values = function.over(leaf.slot, along).astype(jnp.float32)
        by_head = values.reshape(-1, span.queries, values.shape[-1])
        found.append(by_head.swapaxes(0, 1))
    return found


def own_widths(plan: FinishPlan, span: Span) -> list[int]:
    """Last dimensions of `own_tables`."""
    return [span.features if leaf.home == "gate" else 1 for leaf in plan.own]


def _heads(span: Span, by_head: bool) -> dict[str, np.ndarray]:
    return {
        BATCH: np.arange(span.batch if by_head else 1),
        HEAD: np.arange(span.heads if by_head else 1),
    }


# --- in the kernel ---


@dataclasses.dataclass(frozen=True)
class Finishing:
    """A last step in the kernel of one core.

    Attributes:
      plan: what is computed when.
      shared: tables of its leaves that all ranks have.
      own: those of the rank's own queries.
      first_head: known integer, which of all heads is the core's first.
    """

    plan: FinishPlan
    shared: Shared
    own: Own
    first_head: KnownInt

    @property
    def tells_log_sum_exp(self) -> bool:
        """Whether there is one of the scores."""
        return self.plan.fold.tells_log_sum_exp

    def lanes(self, own: Unit, unit: KnownInt, tiling: ContextTiling) -> Iterator[Sbuf]:
        """The output of each lane of a unit, SBUF `[rows, value_dim]`, one after the other.

        Args:
          own: the unit's state.
          unit: which.
          tiling: sizes.
        """
        group, block = divide(unit, tiling.blocks)
        at = _Place(group, block)
        empty, of_rows = self._of_rows(own, at, tiling)
        gates = self._by_query("gate", at, tiling)
        for lane in range(tiling.block_lanes):
            head, tile = divmod(lane, tiling.block_tiles)
            values: Values = {0: own.output[:, lane]}
            for slot, found in of_rows.items():
                values[slot] = _of_lane(found, lane)
            for slot, of_heads in gates.items():
                values[slot] = of_heads[head][:, tile]
            values.update(self._by_feature(head, at, tiling))
            y = self._finished(values, tiling)
            if empty is not None and not self.plan.is_zero:
                nothing = _spread(empty[:, lane : lane + 1], tiling)
                y = tensor_copy_predicated_value(y, nothing, value=0.0)
            yield y

    def _of_rows(
        self, own: Unit, at: "_Place", tiling: ContextTiling
    ) -> tuple[Sbuf | None, dict[int, Value]]:
        """Whether a query attends to nothing, and all that is one number a query, `[rows, lanes]`;
        without a greatest that nobody knows, and sums of nothing are as good as others."""
        plan = self.plan
        fold = plan.fold
        lowering = self._lowering({}, tiling)
        values = lowering.values
        empty = None
        if fold.greatest is not None:
            maximum = own.statistic(MAXIMUM)
            empty = _columns(tiling, TRUTH)
            empty = tensor_immediate(empty, maximum, op="equal", value=LOWEST)
        places = statistics_of(fold)
        for place, name in enumerate(fold.components):
            if name not in places or not fold.finish.uses(Slot(place)):
                continue
            column = own.statistic(places[name])
            is_greatest = name == fold.greatest
            if empty is not None:
                number = _stand_in(fold, name)
                column = tensor_copy(_columns(tiling), column, engine="gpsimd")
                column = tensor_copy_predicated_value(column, empty, value=number)
            if is_greatest:
                # It is of scores before scaling, as the scale is applied in the exponent.
                lowering.scaled(Slot(place), column, tiling.step.scale)
            else:
                values[place] = column
        values.update(self._by_head(at, tiling))
        for slot, of_heads in self._by_query("query", at, tiling).items():
            values[slot] = _joined(of_heads, tiling)
        for operation in plan.of_rows:
            lowering.carry_out(operation)
        # Lanes read them one by one, so nothing of them waits.
        read = {x for operation in plan.of_lanes for x in operation.operands}
        read.add(fold.finish.result)
        found = {
            slot: lowering.value(Slot(slot)) for slot in values if Slot(slot) in read
        }
        return empty, found

    def _finished(self, values: Values, tiling: ContextTiling) -> Sbuf:
        lowering = self._lowering(values, tiling, tiling.output)
        for operation in self.plan.of_lanes:
            lowering.carry_out(operation)
        return lowering.result((tiling.rows, tiling.value_dim))

    def _lowering(
        self, values: Values, tiling: ContextTiling, output: DType = jnp.float32
    ) -> Lowering:
        def new(shape: tuple[int, ...], dtype: DType) -> Sbuf:
            return sbuf(*shape, dtype=dtype, buffers=tiling.buffers)

        return Lowering(self.plan.fold.finish, values, new, output=output)

    # --- leaves ---

    def _by_head(self, at: "_Place", tiling: ContextTiling) -> Values:
        """Numbers of heads, `[rows, lanes]`: lanes stand head by head."""
        values: Values = {}
        heads, tiles = tiling.block_heads, tiling.block_tiles
        for leaf, table in zip(self.plan.shared, self.shared, strict=True):
            if leaf.home != "head":
                continue
            own = part(table, self._head(at, tiling), heads, 0)
            # The same numbers of HBM to every partition, each as often as its head has tiles.
            spread = jnp.broadcast_to(
                own.reshape(1, heads, 1), (tiling.rows, heads, tiles)
            )
            tile = sbuf(*spread.shape, buffers=tiling.buffers)
            tile = dma_load(tile, spread, queue=LOAD_QUEUES[0])
            values[leaf.slot.index] = tile.reshape(tiling.rows, heads * tiles)
        return values

    def _by_feature(self, head: int, at: "_Place", tiling: ContextTiling) -> Values:
        """Numbers of features, `[rows, value_dim]`."""
        values: Values = {}
        for leaf, table in zip(self.plan.shared, self.shared, strict=True):
            if leaf.home != "feature":
                continue
            which = self._head(at, tiling) + head if leaf.by_head else 0
            own = index(table, which).reshape(1, -1)
            spread = jnp.broadcast_to(own, (tiling.rows, tiling.value_dim))
            tile = sbuf(*spread.shape, buffers=tiling.buffers)
            values[leaf.slot.index] = dma_load(tile, spread, queue=LOAD_QUEUES[0])
        return values

    def _by_query(
        self, home: Home, at: "_Place", tiling: ContextTiling
    ) -> dict[int, list[Sbuf]]:
        """Tables of queries, for each head of a block `[rows, tiles, features or 1]`."""
        values = {}
        first = at.block * tiling.block_tiles
        for leaf, table in zip(self.plan.own, self.own, strict=True):
            if leaf.home != home:
                continue
            of_heads = []
            for offset in range(tiling.block_heads):
                head = at.group * tiling.block_heads + offset
                of_block = part(table, first, tiling.block_tiles, 0)
                of_head = index(of_block, head, 1)
                _, rows, features = of_head.shape
                tile = sbuf(rows, tiling.block_tiles, features, buffers=tiling.buffers)
                queue = LOAD_QUEUES[offset % 2]
                of_heads.append(dma_load_tiles(tile, of_head, queue=queue))
            values[leaf.slot.index] = of_heads
        return values

    def _head(self, at: "_Place", tiling: ContextTiling) -> KnownInt:
        """The first head of a group, among all."""
        return self.first_head + at.group * tiling.block_heads


class _Place(NamedTuple):
    """A block of a group of heads."""

    group: KnownInt
    block: KnownInt


def _columns(tiling: ContextTiling, dtype: DType = jnp.float32) -> Sbuf:
    return sbuf(tiling.rows, tiling.block_lanes, dtype=dtype, buffers=tiling.buffers)


def _spread(column: Sbuf, tiling: ContextTiling) -> Sbuf:
    """Truth that is the same along columns, for every place of an output."""
    shape = tiling.rows, tiling.value_dim
    zeros = sbuf(*shape, dtype=TRUTH, buffers=tiling.buffers)
    zeros = memset(zeros, value=0.0)
    spread = sbuf(*shape, dtype=TRUTH, buffers=tiling.buffers)
    return tensor_scalar(spread, zeros, column, op="add")


def _joined(of_heads: Sequence[Sbuf], tiling: ContextTiling) -> Sbuf:
    """`[rows, tiles, 1]` of each head as `[rows, lanes]`."""
    joined = _columns(tiling)
    for head, tile in enumerate(of_heads):
        first = head * tiling.block_tiles
        places = slice(first, first + tiling.block_tiles)
        flat = tile.reshape(tiling.rows, tiling.block_tiles)
        joined = tensor_copy.at[:, places](joined, flat, engine="gpsimd")
    return joined


def _of_lane(found: Value, lane: int) -> Value:
    """A lane's column of `[rows, lanes]`."""
    if isinstance(found, (Number, Column)):
        return found
    return Column(found[:, lane : lane + 1])


__all__ = [
    "FinishPlan",
    "Finishing",
    "Leaf",
    "Span",
    "own_tables",
    "own_widths",
    "shared_shapes",
    "shared_tables",
]
