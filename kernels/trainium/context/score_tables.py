"""Tables in HBM of what a score function takes from positions, heads and batch alone."""

import dataclasses
from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from emu.annotations import DType
from emu.lower import Elementwise, Slot
from emu.trainium.lower import held
from kernels.trainium.context.score_plan import BATCH, HEAD, KEY, QUERY, Leaf, ScorePlan


@dataclasses.dataclass(frozen=True, eq=False)
class Grid:
    """What the tables of a score function are made for.

    Attributes:
      batch: sequences.
      heads: query heads of each.
      q: positions of all query tiles, int32 `[tiles, rows]`.
      k: of all key tiles, int32 `[tiles, columns]`.
      pairs: pairs of tiles, `(query tile, key tile)`, of which `pair` tables hold one tile each.
    """

    batch: int
    heads: int
    q: np.ndarray
    k: np.ndarray
    pairs: np.ndarray


def table_shapes(plan: ScorePlan, grid: Grid) -> list[jax.ShapeDtypeStruct]:
    """Shapes of `tables`, without computing them."""
    shapes = []
    _, rows = grid.q.shape
    for leaf in plan.leaves:
        heads = grid.batch * grid.heads if leaf.by_head else 1
        within: dict[str, tuple[int, ...]] = {
            "head": (rows, 1),
            "query": (*grid.q.shape, 1),
            "key": grid.k.shape,
            "linear": (),
            "pair": (len(grid.pairs), rows, grid.k.shape[1]),
        }
        shape = (heads, *within[leaf.home]) if leaf.home != "linear" else (1,)
        shapes.append(jax.ShapeDtypeStruct(shape, _dtype(plan, leaf)))
    return shapes


def tables(plan: ScorePlan, grid: Grid) -> list[jax.Array]:
    """The values of leaves, float32, in HBM.

    Returns:
      For each leaf, `[heads, ...]` or `[1, ...]` where it does not depend on the head: of the home
      `head` `[rows, 1]`, `query` `[tiles, rows, 1]`, `key` `[tiles, columns]`, `pair`
      `[pairs, rows, columns]`, and `linear` nothing.
    """
    return [_table(plan, leaf, grid) for leaf in plan.leaves]


def _dtype(plan: ScorePlan, leaf: Leaf) -> DType:
    """Of a leaf's table."""
    return held(plan.function.dtype_of(leaf.slot))


def _table(plan: ScorePlan, leaf: Leaf, grid: Grid) -> jax.Array:
    if leaf.home == "linear":
        return jnp.zeros((1,), jnp.float32)
    function = plan.function
    dtype = _dtype(plan, leaf)
    batch = np.arange(grid.batch if leaf.by_head else 1)
    head = np.arange(grid.heads if leaf.by_head else 1)
    of_heads = {BATCH: batch, HEAD: head}
    count = len(batch) * len(head)
    _, rows = grid.q.shape
    if leaf.home == "head":
        numbers = _over(function, leaf.slot, of_heads).astype(dtype)
        numbers = numbers.reshape(count, 1, 1)
        return jnp.broadcast_to(numbers, (count, rows, 1))
    if leaf.home == "query":
        found = _over(function, leaf.slot, {**of_heads, QUERY: grid.q.reshape(-1)})
        return found.astype(dtype).reshape(count, *grid.q.shape, 1)
    if leaf.home == "key":
        found = _over(function, leaf.slot, {**of_heads, KEY: grid.k.reshape(-1)})
        return found.astype(dtype).reshape(count, *grid.k.shape)
    tiles = []
    for query_tile, key_tile in grid.pairs:
        positions = {QUERY: grid.q[query_tile], KEY: grid.k[key_tile]}
        found = _over(function, leaf.slot, {**of_heads, **positions})
        tiles.append(found.astype(dtype).reshape(count, rows, -1))
    return jnp.stack(tiles, axis=1)


def _over(
    function: Elementwise, slot: Slot, along: Mapping[str, np.ndarray]
) -> jax.Array:
    """Values at all positions, whose gradients do not become none where nobody attends.

    Of `rate * log(q - k)` the logarithm is no number above the diagonal. Nobody takes it there, so
    its part in the gradient of `rate` is 0 times that, which is no number either. The gradient is
    therefore that of numbers which are finite at every step.
    """
    values = function.over(slot, along)
    if not isinstance(values, Tracer) or not jnp.issubdtype(values.dtype, jnp.floating):
        return values
    finite = function.over(slot, along, finite=True)
    return jax.lax.stop_gradient(values) + (finite - jax.lax.stop_gradient(finite))


__all__ = ["Grid", "table_shapes", "tables"]
