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
S = TypeVar("S")


def each(calls: Sequence[Callable[[], R]]) -> list[R]:
    """What each call gives, in order.

    Args:
      calls: functions of nothing, which give pytrees of arrays. None takes what another has made.

    Returns:
      The same in program order and side by side, to the rounding of a product of more rows.
    """
    if is_in_order() or len(calls) == 1:
        return [call() for call in calls]
    work = _Work([jax.make_jaxpr(call, return_shape=True)() for call in calls])
    if work.is_alike:
        return apart(work.stacked(()), len(calls))
    return work.one_by_one([()] * len(calls))


def along(calls: Sequence[Callable[[S], S]], states: S) -> S:
    """What each call makes of its own state, where only values count.

    Args:
      calls: functions of a pytree of arrays to such a pytree of the same form.
      states: of all calls, stacked along axis 0 of each array.

    Returns:
      Their new states, stacked likewise: a loop carries a few large arrays, and not many small.
    """
    of_each = apart(states, len(calls))
    first = of_each[0]
    work = _Work([jax.make_jaxpr(call, return_shape=True)(first) for call in calls])
    if work.is_alike:
        return work.stacked(jax.tree.leaves(states))
    leaves = [jax.tree.leaves(state) for state in of_each]
    return together(work.one_by_one(leaves))


def together(states: Sequence[S]) -> S:
    """Pytrees of the same form as one, stacked along axis 0 of each array."""
    return jax.tree.map(lambda *arrays: jnp.stack(arrays), *states)


def apart(states: S, count: int) -> list[S]:
    """The inverse of `together`."""
    return [jax.tree.map(lambda x: x[place], states) for place in range(count)]


class _Work:
    """Calls as JAX traced them.

    Attributes:
      jaxprs: of each call; its constants are arrays from outside.
      structures: of their results.
    """

    def __init__(self, traced: Sequence[tuple[ClosedJaxpr, Any]]) -> None:
        self.jaxprs = [jaxpr for jaxpr, _ in traced]
        self.structures = [jax.tree.structure(shapes) for _, shapes in traced]

    @property
    def is_alike(self) -> bool:
        """Whether they differ in their constants alone."""
        first, *others = self.structures
        # The same leaves in other trees would be other results.
        if any(structure != first for structure in others):
            return False
        body, *bodies = [jx.body(jaxpr) for jaxpr in self.jaxprs]
        return equal_bodies.do_the_same(body, *bodies)

    def stacked(self, arguments: Sequence[jax.Array]) -> Any:
        """The results of all, stacked, of stacked arguments."""
        body = self.jaxprs[0].jaxpr
        axes: list[int | None] = []
        constants = []
        for own in zip(*[jaxpr.consts for jaxpr in self.jaxprs], strict=True):
            shared = all(array is own[0] for array in own)
            axes.append(None if shared else 0)
            constants.append(own[0] if shared else jnp.stack(own))

        def one(constants: Sequence[Any], arguments: Sequence[Any]) -> Any:
            results = jaxpr_as_fun(ClosedJaxpr(body, constants))(*arguments)
            return jax.tree.unflatten(self.structures[0], results)

        # Without any array of their own they all give the very same, as often as there are calls.
        mapped = jax.vmap(one, in_axes=(axes, 0), axis_size=len(self.jaxprs))
        return mapped(constants, list(arguments))

    def one_by_one(self, arguments: Sequence[Sequence[jax.Array]]) -> list[Any]:
        """The result of each, of its own arguments."""
        made = []
        for jaxpr, structure, own in zip(
            self.jaxprs, self.structures, arguments, strict=True
        ):
            made.append(jax.tree.unflatten(structure, jaxpr_as_fun(jaxpr)(*own)))
        return made


__all__ = ["along", "apart", "each", "together"]
