"""Functions that do the same to different arrays are, where only values count, one of stacked ones.

A kernel that has sixteen tiles in flight at once writes sixteen times the same instructions. The
clock wants each of them; a host that only wants the numbers compiles them once, with a dimension
more, and computes them in one operation:

    [lambda: rows[0] @ keys, lambda: rows[1] @ keys]     jnp.stack(rows) @ keys

Whether they do the same is read off what JAX traces: the same equations, on arrays of the same
shapes that were there before. An array that all of them take, such as `keys`, is not stacked.
"""

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
from jax.extend.core import ClosedJaxpr, jaxpr_as_fun

from emu.tracing import equal_bodies
from emu.tracing import jaxpr as jx
from emu.tracing.side_by_side import is_in_order

R = TypeVar("R")


def each(calls: Sequence[Callable[[], R]]) -> list[R]:
    """What each call gives, in order.

    Args:
      calls: functions of nothing, which give pytrees of arrays. None takes what another has made.

    Returns:
      The same in program order and side by side, to the rounding of a product of more rows.
    """
    if is_in_order() or len(calls) == 1:
        return [call() for call in calls]
    traced: list[ClosedJaxpr] = []
    structures = []
    for call in calls:
        jaxpr, shapes = jax.make_jaxpr(call, return_shape=True)()
        traced.append(jaxpr)
        structures.append(jax.tree.structure(shapes))
    first, *others = [jx.body(jaxpr) for jaxpr in traced]
    # The same leaves in other trees would be other results.
    same_trees = all(tree == structures[0] for tree in structures)
    if same_trees and equal_bodies.do_the_same(first, *others):
        results = _stacked(traced)
    else:
        results = [jaxpr_as_fun(jaxpr)() for jaxpr in traced]
    return [
        jax.tree.unflatten(tree, leaves)
        for tree, leaves in zip(structures, results, strict=True)
    ]


def _stacked(traced: Sequence[ClosedJaxpr]) -> list[list[Any]]:
    """The results of jaxprs that differ in their constants alone, which are arrays from outside."""
    axes: list[int | None] = []
    operands = []
    for own in zip(*[jaxpr.consts for jaxpr in traced], strict=True):
        shared = all(array is own[0] for array in own)
        axes.append(None if shared else 0)
        operands.append(own[0] if shared else jnp.stack(own))
    body = traced[0].jaxpr

    def one(*constants: Any) -> list[Any]:
        return jaxpr_as_fun(ClosedJaxpr(body, constants))()

    # Without any array from outside of their own they all give the very same.
    if not any(axis == 0 for axis in axes):
        return [one(*operands)] * len(traced)
    results = jax.vmap(one, in_axes=axes)(*operands)
    return [[array[place] for array in results] for place in range(len(traced))]


__all__ = ["each"]
