"""Partial attention of one set of queries from several ranks, merged."""

from typing import Any

import jax.numpy as jnp
from jax import lax

from kernels.trainium.context.sizes import ContextTiling
from kernels.trainium.context.state import (
    State,
    closed,
    load,
    merge,
    opened,
    packed_tiles,
    store,
    views,
)


def combine(state: State, s: ContextTiling, parts: int) -> State:
    """Merges the parts of a state; the first takes the result.

    Args:
      state: from `empty_state(s, parts)`: every part of what all query tiles attended to.
      s: sizes.
      parts: how many.

    Pseudocode:
      for unit: for part: load; for lane: merge
                store
    """
    if parts == 1:
        return state

    def some(state: State, unit: Any) -> tuple[State, None]:
        def add(lanes: Any, n: Any) -> tuple[Any, None]:
            other = load(packed_tiles(s, buffers=s.buffers), state, unit + n * s.units)
            return [merge(x, views(other, i), s) for i, x in enumerate(lanes)], None

        own = load(packed_tiles(s, buffers=s.buffers), state, unit)
        lanes = [opened(own, n, s) for n in range(s.block_lanes)]
        lanes, _ = lax.scan(add, lanes, jnp.arange(1, parts, dtype=jnp.int32))
        return store(state, closed(own, lanes, last=False), unit), None

    return lax.scan(some, state, jnp.arange(s.units, dtype=jnp.int32))[0]


__all__ = ["combine"]
