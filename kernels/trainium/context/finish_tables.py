"""Tables in HBM of what a last step takes from heads, queries and features alone."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from kernels.trainium.context.finish_plan import BATCH, FEATURE, HEAD, QUERY, FinishPlan


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


__all__ = ["Span", "own_tables", "own_widths", "shared_shapes", "shared_tables"]
