"""Factors of scores in the kernel: of a rank's keys, and of the rows of a query tile.

`score_factors` finds them. Keys are multiplied once, by the rank whose they are, before they set
out to others; rows by the Scalar Engine within the softmax's exponential.
"""

import dataclasses
from collections.abc import Sequence

import jax.numpy as jnp

from emu.annotations import KnownInt
from emu.tracing.loop import loop
from emu.trainium.datasheets.sheet import LOAD_QUEUES
from emu.trainium.engines.memory import dma_load_tiles, dma_store, hbm, sbuf
from emu.trainium.isa import tensor_tensor
from emu.trainium.spaces import Hbm, Sbuf
from kernels.trainium.context.score_plan import ScorePlan
from kernels.trainium.context.sizes import ContextTiling
from kernels.trainium.context.state import STORES
from kernels.trainium.context.work import Positions
from kernels.trainium.tiles import index, part


@dataclasses.dataclass(frozen=True)
class RowFactors:
    """Factors of rows, `ContextTiling.factor` among them.

    Attributes:
      plan: of the factor, with one leaf.
      table: its values, as `score_tables` has them: `[heads, rows, 1]` where they are of the head
        alone, else `[heads or 1, query tiles, rows, 1]`.
    """

    plan: ScorePlan
    table: Hbm

    def columns(
        self,
        positions: Positions,
        first_head: KnownInt,
        first_tile: KnownInt,
        tiling: ContextTiling,
    ) -> list[Sbuf]:
        """For each lane of a block its factors, SBUF `[rows, 1]`.

        Args:
          positions: of the source.
          first_head: the block's first, among all heads.
          first_tile: its first query tile.
          tiling: sizes.
        """
        (leaf,) = self.plan.leaves
        heads = self.table
        if leaf.by_head:
            heads = part(self.table, first_head, tiling.block_heads, 0)
        by_tile: list[Sbuf] = []
        for offset in range(tiling.block_tiles):
            if leaf.home == "head" and by_tile:
                by_tile.append(by_tile[0])
                continue
            own = heads
            if leaf.home == "query":
                own = index(heads, index(positions.q_tile, first_tile + offset), 1)
            # All heads of the block in one transfer: a queue starts one every 0.85 us at most.
            tile = sbuf(tiling.rows, own.shape[0], 1, buffers=tiling.buffers)
            by_tile.append(dma_load_tiles(tile, own, queue=LOAD_QUEUES[1]))
        lanes = []
        for head in range(tiling.block_heads):
            place = head if leaf.by_head else 0
            lanes += [tile[:, place] for tile in by_tile]
        return lanes


def scaled_keys(
    keys: Sequence[Hbm], factors: Hbm, tiling: ContextTiling
) -> tuple[Hbm, ...]:
    """A rank's keys times the factor of each key.

    Args:
      keys: HBM by part `[pieces, kv_heads, part, keys]`.
      factors: HBM float32 `[pieces, kv_heads, 1, keys]`.
      tiling: sizes.

    Returns:
      The same in buffers of their own, rounded to the keys' dtype.

    Pseudocode:
      for KV head, key tile, part: load keys; load factors to all partitions; multiply; store
    """
    return tuple(_scaled(x, factors, tiling) for x in keys)


def _scaled(keys: Hbm, factors: Hbm, tiling: ContextTiling) -> Hbm:
    pieces, heads, features, _ = keys.shape
    span = tiling.span
    wide = span, features, tiling.keys
    scaled = hbm(pieces * heads, features, tiling.keys, dtype=keys.dtype)

    def scale_head(scaled: Hbm, head: KnownInt) -> Hbm:
        def scale_tile(scaled: Hbm, tile: KnownInt) -> Hbm:
            first = tile * span
            own = index(part(keys, first, span, 0), head, 1)
            of_keys = index(part(factors, first, span, 0), head, 1)
            # Keys stand along the columns, so the same numbers are brought to every partition.
            spread = jnp.broadcast_to(of_keys, wide)
            loaded = dma_load_tiles(_tile(own, tiling), own, queue=LOAD_QUEUES[0])
            by = dma_load_tiles(_tile(spread, tiling), spread, queue=LOAD_QUEUES[1])
            product = tensor_tensor(_tile(own, tiling), loaded, by, op="multiply")
            for place in range(span):
                put = dma_store.at[(first + place) * heads + head]
                scaled = put(scaled, product[:, place], queue=STORES[place % 2])
            return scaled

        return loop(scale_tile, scaled, pieces // span)

    scaled = loop(scale_head, scaled, heads)
    return scaled.reshape(keys.shape)


def _tile(x: Hbm, tiling: ContextTiling) -> Sbuf:
    """SBUF `[features, span, keys]` for `[span, features, keys]`."""
    span, features, keys = x.shape
    return sbuf(features, span, keys, dtype=x.dtype, buffers=tiling.buffers)


__all__ = ["RowFactors", "scaled_keys"]
