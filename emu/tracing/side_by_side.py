"""Loops over independent tiles: the clock reads them in order, values are computed side by side.

A machine works on one tile after another because it has room for few; a host that only wants the
numbers computes many in one operation. `tiles` and, where a kernel groups work by hand,
`is_in_order` give one kernel both readings: `emu.tracing.jaxpr.trace`, which every clock and every
memory figure starts from, traces it in order.
"""

import math
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

# Part of JAX's trace cache keys: a jitted kernel is traced once for each reading.
# None side by side; in order the mesh's axes, or ANY where only values count.
ANY = "any"
_IN_ORDER = jax.make_user_context(None)


def in_order(axes: Iterable[str] | None = None) -> AbstractContextManager[None]:
    """Within this context kernels are traced in program order, as the clock reads them.

    Args:
      axes: of the mesh: nothing else may be mapped over, and nothing differentiated, as no machine
        has instructions for that. None where only values count.
    """
    # A tuple, as what is part of a cache key must have a hash.
    return _IN_ORDER(ANY if axes is None else tuple(axes))


def is_in_order() -> bool:
    """Whether the kernel is being traced in program order."""
    return _IN_ORDER.value is not None


def is_of_a_machine() -> bool:
    """Whether it is traced in program order, as instructions alone."""
    return _IN_ORDER.value not in (None, ANY)


def maps_cores(axis: object) -> bool:
    """Whether to map over an axis means more cores, or only values count."""
    return not is_of_a_machine() or axis in _IN_ORDER.value


def tiles(
    body: Callable[[Any], Any],
    xs: Any,
    *,
    into: Any = (),
    emit: Callable[[Any, Any, Any], Any] | None = None,
    axis: int | tuple[int, ...] = 0,
    at_once: int | None = None,
) -> Any:
    """Computes `body(x)` for every slice of `xs`, each independently of the others.

    In order this is one loop: `body`, then `emit`, slice after slice. Side by side both are mapped
    over the slices at once. So `body` makes every tile it writes, `buffers` of its declarations
    saying how many there are, and `emit` writes and reads its own part of `into` only.

    Args:
      body: `x -> y`, any pytrees.
      xs: pytree of arrays stacked along axis 0, such as an HBM buffer or loop indices.
      into: pytree of buffers that take the results, each of as many equal parts along `axis` as
        there are slices.
      emit: `(into, at, y) -> into`, writes part `at`; side by side it is given that part alone, and
        `at` is 0. None: the results are stacked along axis 0.
      axis: of `into`. Several, ascending: each element of all but the first, and of that one equal
        parts; the last comes fastest. Along (1, 3) part 5 of `[8, 2, 9, 4]` is `[:, 1:2, :, 1:2]`.
      at_once: slices computed at once, to bound memory; None computes all.

    Returns:
      The last `into`, or the stacked results.

    Raises:
      ValueError: `into` has no equal part for each slice.
    """
    count = len(jax.tree.leaves(xs)[0])
    axes = (axis,) if isinstance(axis, int) else axis
    for x in jax.tree.leaves(into):
        others = math.prod(x.shape[each] for each in axes[1:])
        if count % others or x.shape[axes[0]] % (count // others):
            raise ValueError(
                f"tiles: axis {axis} of a {x.dtype}{list(x.shape)} has no equal part for each of "
                f"{count} slices, must be a multiple of {count}"
            )

    def one(into: Any, at: Any, x: Any) -> tuple[Any, Any]:
        y = body(x)
        if emit is None:
            return into, y
        return emit(into, at, y), ()

    def step(into: Any, at_and_x: tuple[Any, Any]) -> tuple[Any, Any]:
        at, x = at_and_x
        return one(into, at, x)

    if is_in_order():
        # Known ahead to the clock, as every loop index: `emit` may branch on it and address by it.
        places = jnp.arange(count, dtype=jnp.int32)
        into, ys = lax.scan(step, into, (places, xs))
    else:
        into, ys = _side_by_side(one, into, xs, count, axes, at_once)
    return ys if emit is None else into


def _side_by_side(
    one: Callable[..., tuple[Any, Any]],
    into: Any,
    xs: Any,
    count: int,
    axes: tuple[int, ...],
    at_once: int | None,
) -> tuple[Any, Any]:
    """Maps `one` over the slices of `xs` and the parts of `into` along `axes`."""
    others = axes[1:]

    def counts(x: jax.Array) -> list[int]:
        """Of parts along each axis: 8 of `[8, 2, 5, 4]` along (1, 3) are 2 by 4."""
        each = [x.shape[axis] for axis in others]
        return [count // math.prod(each), *each]

    def parts(x: jax.Array) -> jax.Array:
        """4 parts of `[2, 12, 5]` along axis 1 are `[4, 2, 3, 5]`."""
        made = x
        # From the last axis on, so that those before keep their numbers.
        for axis, number in reversed(list(zip(axes, counts(x), strict=True))):
            size = made.shape[axis] // number
            shape = *made.shape[:axis], number, size, *made.shape[axis + 1 :]
            made = made.reshape(shape)
        places = [axis + place for place, axis in enumerate(axes)]
        made = jnp.moveaxis(made, places, range(len(axes)))
        return made.reshape(count, *made.shape[len(axes) :])

    def joined(x: jax.Array, old: jax.Array) -> jax.Array:
        """The inverse, of the shape that `old` has."""
        # `[4, 2, 3, 5]` is first `[2, 4, 3, 5]`, part beside part, and so `[2, 12, 5]`.
        apart = x.reshape(*counts(old), *x.shape[1:])
        places = [axis + place for place, axis in enumerate(axes)]
        return jnp.moveaxis(apart, range(len(axes)), places).reshape(old.shape)

    def each(args: Any) -> Any:
        part, x = args
        return one(part, jnp.int32(0), x)

    args = jax.tree.map(parts, into), xs
    if at_once is None:
        written, ys = jax.vmap(each)(args)
    else:
        # A batch after another: a host may not hold what 4,096 slices compute on the way.
        written, ys = lax.map(each, args, batch_size=at_once)
    return jax.tree.map(joined, written, into), ys


__all__ = ["in_order", "is_in_order", "tiles"]
