"""Partial attention of one set of queries from several ranks, merged."""

from emu.annotations import KnownInt
from emu.tracing.loop import loop
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

    def combine_unit(state: State, unit: KnownInt) -> State:
        def add(lanes: list[LaneState], part: KnownInt) -> list[LaneState]:
            tiles = unit_tiles(tiling, buffers=buffers)
            # Parts stand one after another, each of all units.
            place = unit + part * tiling.units
            other = load(tiles, state, place)
            merged = []
            for lane, own in enumerate(lanes):
                theirs = views(other, lane, tiling)
                merged.append(merge(own, theirs, tiling))
            return merged

        tiles = unit_tiles(tiling, buffers=buffers)
        own = load(tiles, state, unit)
        lanes = [opened(own, lane, tiling) for lane in range(tiling.block_lanes)]
        # The first part is loaded already, and its tiles take the sum.
        lanes = loop(add, lanes, parts, first=1)
        merged = closed(own, lanes, tiling, last=False)
        return store(state, merged, unit)

    return loop(combine_unit, state, tiling.units)


__all__ = ["combine"]
