"""What a user makes of a query's sums, at the end, on the engines of one core.

Sums of all lanes of a unit stand side by side, so what is one number a query is computed for all of
them at once; what differs by feature, lane by lane. `finish_plan` says which is which.
"""

import dataclasses
from collections.abc import Iterator, Sequence
from typing import NamedTuple, TypeAlias

import jax.numpy as jnp

from emu.annotations import DType, KnownInt
from emu.lower import Slot
from emu.trainium.datasheets.sheet import LOAD_QUEUES
from emu.trainium.engines.memory import dma_load, dma_load_tiles, sbuf
from emu.trainium.isa import (
    memset,
    tensor_copy,
    tensor_copy_predicated_value,
    tensor_immediate,
    tensor_scalar,
)
from emu.trainium.lower import TRUTH, Column, Lowering, Number, Value, Values
from emu.trainium.spaces import Hbm, Sbuf
from kernels.trainium.context.finish_plan import FinishPlan, Home, stand_in
from kernels.trainium.context.sizes import ContextTiling
from kernels.trainium.context.state import MAXIMUM, Unit, statistics_of
from kernels.trainium.flash.online_softmax import LOWEST
from kernels.trainium.tiles import divide, index, part

Own: TypeAlias = Sequence[Hbm]
"""A rank's tables of its own queries, `[tiles, heads, rows, features or 1]` each."""

Shared: TypeAlias = Sequence[Hbm]
"""Tables that are the same everywhere: `[all heads]`, or `[all heads or 1, features]`."""


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
                number = stand_in(fold, name)
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


__all__ = ["Finishing", "Own", "Shared"]
