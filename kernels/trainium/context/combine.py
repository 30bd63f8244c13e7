"""Partial attention of one set of queries from several ranks, merged."""

import jax.numpy as jnp
from jax import lax

from emu.annotations import KnownInt
from kernels.trainium.context.sizes import ContextTiling
from kernels.trainium.context.state import (
    LaneState,
    State,
    closed,
    load,
    merge,
    opened,
    store,
    unit_tiles,
    views,
)


def combine(state: State, tiling: ContextTiling, parts: int) -> State:
    """Merges the parts of a state; the first takes the result.

    Args:
      state: from `empty_state(tiling, parts)`: every part of what all query tiles attended to.
      tiling: sizes.
      parts: how many.

    Pseudocode:
      for unit: for part: load; for lane: merge
                store
    """
    if parts == 1:
        return state
    buffers = tiling.buffers

    def combine_unit(state: State, unit: KnownInt) -> tuple[State, None]:
        def add(lanes: list[LaneState], part: KnownInt) -> tuple[list[LaneState], None]:
            tiles = unit_tiles(tiling, buffers=buffers)
            other = load(tiles, state, unit + part * tiling.units)
            merged = [
                merge(own, views(other, lane), tiling) for lane, own in enumerate(lanes)
            ]
            return merged, None

        own = load(unit_tiles(tiling, buffers=buffers), state, unit)
        lanes = [opened(own, lane, tiling) for lane in range(tiling.block_lanes)]
        lanes, _ = lax.scan(add, lanes, jnp.arange(1, parts, dtype=jnp.int32))
        return store(state, closed(own, lanes, last=False), unit), None

    units = jnp.arange(tiling.units, dtype=jnp.int32)
    return lax.scan(combine_unit, state, units)[0]


__all__ = ["combine"]
