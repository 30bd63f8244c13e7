"""A step that a kernel takes in several places is traced once, and its equations are put in each.

Ten hops of a ring run in a loop and the last one apart, with the same step: traced in the loop, it
takes JAX as long as the first time when it is traced again behind it. `once(step)` keeps the jaxpr
and binds its equations anew. That makes the same program as calling `step` itself does; what is
nested in those equations, such as the body of a loop, is one object in all places.
"""

from collections.abc import Callable, Hashable
from typing import Any, TypeVar

import jax
from jax.extend.core import ClosedJaxpr, jaxpr_as_fun

R = TypeVar("R")


def once(step: Callable[..., R]) -> Callable[..., R]:
    """The same function, traced at its first call with arguments of certain shapes only.

    Args:
      step: of pytrees of arrays to such a pytree. What it takes from outside of its arguments must
        be there in all places in which it is called: of a loop's body only its arguments are.
    """
    kept: dict[Hashable, tuple[ClosedJaxpr, Any]] = {}

    def bound(*args: Any) -> R:
        leaves, tree = jax.tree.flatten(args)
        key = tree, tuple(jax.typeof(leaf) for leaf in leaves)
        if key not in kept:
            jaxpr, shapes = jax.make_jaxpr(step, return_shape=True)(*args)
            kept[key] = jaxpr, jax.tree.structure(shapes)
        jaxpr, structure = kept[key]
        results = jaxpr_as_fun(jaxpr)(*leaves)
        return jax.tree.unflatten(structure, results)

    return bound


__all__ = ["once"]
