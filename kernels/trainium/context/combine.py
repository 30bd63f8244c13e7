"""Partial attention of one set of queries from several ranks, merged."""

from typing import Any

import jax.numpy as jnp
from jax import lax

from kernels.trainium.context.sizes import ContextTiling
from kernels.trainium.context.state import State, lane_tiles, load, merge, store


def combine(state: State, s: ContextTiling, parts: int) -> State:
    """Merges the parts of a state; the first takes the result.

    Args:
      state: from `empty_state(s, parts)`: every part of what all query tiles attended to.
      s: sizes.
      parts: how many.

    Pseudocode:
      for query tile: for part: load; merge
                      store
    """
    if parts == 1:
        return state

    def item(state: State, at: Any) -> tuple[State, None]:
        def add(own: Any, n: Any) -> tuple[Any, None]:
            other = load(lane_tiles(s, buffers=s.buffers), state, at + n * s.items)
            return merge(own, other, s), None

        own = load(lane_tiles(s, buffers=s.buffers), state, at)
        own, _ = lax.scan(add, own, jnp.arange(1, parts, dtype=jnp.int32))
        return store(state, own, at), None

    return lax.scan(item, state, jnp.arange(s.items, dtype=jnp.int32))[0]


__all__ = ["combine"]
