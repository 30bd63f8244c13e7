"""A user's arithmetic on scores, between the matmul that makes them and their softmax.

What it takes from positions is there before (`score_tables`) or counted out by GpSimd. What does
not depend on the head is made once for all heads of a block, and what does not depend on the key
before the loop over keys; `score_plan` says which is which.
"""

import dataclasses
from collections.abc import Sequence

import jax.numpy as jnp

from emu.annotations import DType, KnownInt
from emu.lower import Slot
from emu.trainium.datasheets.sheet import LOAD_QUEUES
from emu.trainium.engines.memory import dma_load, sbuf
from emu.trainium.isa import iota
from emu.trainium.lower import Column, Lowering, Value, Values
from emu.trainium.spaces import Hbm, Psum, Sbuf
from kernels.trainium.context.score_plan import SCORE, Linear, ScorePlan
from kernels.trainium.context.sizes import ContextTiling
from kernels.trainium.context.work import Positions
from kernels.trainium.flash.lanes import Lane
from kernels.trainium.tiles import index


@dataclasses.dataclass(frozen=True)
class Scoring:
    """A score function in the kernel of one core.

    Attributes:
      plan: what is computed when.
      tables: of its leaves, in HBM.
      steps: from one row's query to the next, and from one column's key to the next.
      factor: of the scores before the function.
      first_head: known integer, which of all heads is the core's first.
    """

    plan: ScorePlan
    tables: Sequence[Hbm]
    steps: tuple[int, int]
    factor: float
    first_head: KnownInt

    def of_query_tile(
        self, positions: Positions, tile: KnownInt, tiling: ContextTiling
    ) -> Values:
        """What all keys and heads share: of a query tile."""
        values: Values = {}
        for place, leaf in self.plan.of_home("query", by_head=False):
            values[leaf.slot.index] = self._column(place, 0, positions, tile, tiling)
        for _, leaf in self.plan.of_home("linear", by_head=False):
            linear = leaf.linear
            assert linear is not None
            if not linear.keys:
                values[leaf.slot.index] = self._counted(
                    linear, positions, tile, None, (tiling.rows, 1), tiling
                )
        return values

    def of_head(
        self,
        positions: Positions,
        head: KnownInt,
        tile: KnownInt,
        tiling: ContextTiling,
    ) -> Values:
        """What all keys share: of a head, and of its query tile."""
        values: Values = {}
        of_all = self.first_head + head
        for place, leaf in self.plan.of_home("head", by_head=True):
            own = index(self.tables[place], of_all)
            values[leaf.slot.index] = Column(self._loaded(own, tiling))
        for place, leaf in self.plan.of_home("query", by_head=True):
            values[leaf.slot.index] = self._column(
                place, of_all, positions, tile, tiling
            )
        return values

    def of_key_tile(
        self, positions: Positions, key_tile: KnownInt, tiling: ContextTiling
    ) -> Values:
        """What all queries and heads share: of a key tile."""
        values: Values = {}
        for place, leaf in self.plan.of_home("key", by_head=False):
            values[leaf.slot.index] = self._row(place, 0, positions, key_tile, tiling)
        for _, leaf in self.plan.of_home("linear", by_head=False):
            linear = leaf.linear
            assert linear is not None
            if linear.keys and not linear.queries:
                values[leaf.slot.index] = self._counted(
                    linear, positions, None, key_tile, _wide(tiling), tiling
                )
        return values

    def of_pair(
        self,
        known: Values,
        positions: Positions,
        tile: KnownInt,
        key_tile: KnownInt,
        tiling: ContextTiling,
    ) -> Values:
        """What all heads share: of a query tile and a key tile."""
        values = dict(known)
        for _, leaf in self.plan.of_home("linear", by_head=False):
            linear = leaf.linear
            assert linear is not None
            if linear.keys and linear.queries:
                values[leaf.slot.index] = self._counted(
                    linear, positions, tile, key_tile, _wide(tiling), tiling
                )
        for place, leaf in self.plan.of_home("pair", by_head=False):
            values[leaf.slot.index] = self._pair(
                place, 0, positions, tile, key_tile, tiling
            )
        lowering = self._lowering(values, tiling, _OF_POSITIONS)
        for operation in self.plan.shared:
            lowering.carry_out(operation)
        return values

    def scored(
        self,
        scores: Psum,
        known: Values,
        positions: Positions,
        head: KnownInt,
        tile: KnownInt,
        key_tile: KnownInt,
        tiling: ContextTiling,
        output: DType = jnp.float32,
    ) -> Lane[Sbuf]:
        """A lane that takes scores out of PSUM as the function makes them, in a dtype."""
        values = dict(known)
        of_all = self.first_head + head
        for place, leaf in self.plan.of_home("key", by_head=True):
            values[leaf.slot.index] = self._row(
                place, of_all, positions, key_tile, tiling
            )
        for place, leaf in self.plan.of_home("pair", by_head=True):
            values[leaf.slot.index] = self._pair(
                place, of_all, positions, tile, key_tile, tiling
            )
        of_positions = self._lowering(values, tiling, _OF_POSITIONS)
        for operation in self.plan.of_head:
            of_positions.carry_out(operation)
            yield
        lowering = self._lowering(values, tiling, "vector", output)
        place = [x.name for x in self.plan.function.inputs].index(SCORE)
        lowering.scaled(Slot(place), scores, self.factor)
        for operation in self.plan.of_score:
            lowering.carry_out(operation)
            yield
        return lowering.result(scores.shape)

    # --- leaves ---

    def _counted(
        self,
        linear: Linear,
        positions: Positions,
        tile: KnownInt | None,
        key_tile: KnownInt | None,
        shape: tuple[int, int],
        tiling: ContextTiling,
    ) -> Value:
        """A linear expression of positions, counted out by GpSimd."""
        q_step, k_step = self.steps
        offset = jnp.int32(linear.constant)
        if tile is not None:
            offset = offset + linear.queries * index(positions.q_first, tile)
        if key_tile is not None:
            offset = offset + linear.keys * index(positions.k_first, key_tile)
        counted = iota(
            self._new(tiling, shape),
            offset,
            steps=(linear.keys * k_step,),
            multiplier=linear.queries * q_step,
        )
        return Column(counted) if shape[1] == 1 else counted

    def _column(
        self,
        place: int,
        head: KnownInt,
        positions: Positions,
        tile: KnownInt,
        tiling: ContextTiling,
    ) -> Column:
        own = index(self.tables[place], head)
        own = index(own, index(positions.q_tile, tile))
        return Column(self._loaded(own, tiling))

    def _row(
        self,
        place: int,
        head: KnownInt,
        positions: Positions,
        key_tile: KnownInt,
        tiling: ContextTiling,
    ) -> Sbuf:
        own = index(self.tables[place], head)
        own = index(own, index(positions.k_tile, key_tile))
        # The same row of HBM to every partition.
        spread = jnp.broadcast_to(own.reshape(1, -1), _wide(tiling))
        return self._loaded(spread, tiling)

    def _pair(
        self,
        place: int,
        head: KnownInt,
        positions: Positions,
        tile: KnownInt,
        key_tile: KnownInt,
        tiling: ContextTiling,
    ) -> Sbuf:
        own = index(self.tables[place], head)
        which = index(index(positions.pair, tile), key_tile)
        own = index(own, which)
        return self._loaded(own, tiling)

    def _loaded(self, own: Hbm, tiling: ContextTiling) -> Sbuf:
        tile = self._new(tiling, own.shape, own.dtype)
        return dma_load(tile, own, queue=_QUEUE)

    def _lowering(
        self,
        values: Values,
        tiling: ContextTiling,
        engine: str,
        output: DType = jnp.float32,
    ) -> Lowering:
        def new(shape: tuple[int, ...], dtype: DType) -> Sbuf:
            return self._new(tiling, shape, dtype)

        return Lowering(self.plan.function, values, new, engine, output)

    def _new(
        self,
        tiling: ContextTiling,
        shape: tuple[int, ...],
        dtype: DType = jnp.float32,
    ) -> Sbuf:
        return sbuf(*shape, dtype=dtype, buffers=tiling.depth)


_QUEUE = LOAD_QUEUES[0]
# The Vector Engine is what attention waits for; what scores are not part of goes to GpSimd.
_OF_POSITIONS = "gpsimd"


def _wide(tiling: ContextTiling) -> tuple[int, int]:
    return tiling.rows, tiling.columns


__all__ = ["Scoring"]
