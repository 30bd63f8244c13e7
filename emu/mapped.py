"""An instruction on many cores is one equation, however many operations its meaning has.

`vmap` takes a kernel through a mesh axis by axis, and a loop's body several times where it finds at
the end only that what the loop carries differs from core to core. Of a meaning of ten operations
JAX would batch all ten each time. Here the axes are written down as they are met, and the meaning
is traced over all of them when the program is compiled, once for operands of the same form.

Example: a sum of two tiles on a mesh of 3 chips and, within each, 2 cores that share the second
tile. The axis of cores is met first: `maps` is `((2, (0, None)),)`, and behind that of chips
`((2, (0, None)), (3, (0, 0)))`. The operands are `[3, 2, *shape]` and `[3, *shape]`.
"""

from collections.abc import Sequence
from typing import Any, Protocol, TypeAlias

import jax
from jax.core import ShapedArray
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir

from emu.annotations import ShapeAndDtype
from emu.tracing import jaxpr as jx

Maps: TypeAlias = tuple[tuple[int, tuple[int | None, ...]], ...]
"""Of each axis, the innermost first: its size, and of each operand the dimension that it is."""


class Meaning(Protocol):
    """What one core computes; equal ones compute the same."""

    def __call__(self, *operands: jax.Array) -> list[jax.Array]: ...

    def __hash__(self) -> int: ...

    def results(self, operands: tuple[ShapeAndDtype, ...]) -> list[ShapeAndDtype]:
        """Shapes and dtypes of a core's results."""
        ...

    def uses(self, operands: tuple[ShapeAndDtype, ...]) -> tuple[bool, ...]:
        """Whether any result depends on each operand."""
        ...


def mapped(
    meaning: Meaning,
    size: int,
    dims: Sequence[int | None],
    operands: Sequence[jax.Array],
) -> list[jax.Array]:
    """The meaning on `size` cores.

    Args:
      meaning: of one core.
      size: how many.
      dims: of each operand the dimension that is the cores'; None: they share it.
      operands: of all cores.

    Returns:
      Results of all cores, `[size, *shape]` each.
    """
    return _mapped.bind(*operands, meaning=meaning, maps=((size, tuple(dims)),))


_mapped = Primitive("mapped")
_mapped.multiple_results = True


def _apply(*operands: jax.Array, meaning: Meaning, maps: Maps) -> list[jax.Array]:
    function: Any = meaning
    for size, dims in maps:
        function = jax.vmap(function, in_axes=dims, axis_size=size)
    return function(*operands)


def _of_one(avals: Sequence[Any], maps: Maps) -> tuple[ShapeAndDtype, ...]:
    """Shapes and dtypes of what one core has."""
    shapes = [list(aval.shape) for aval in avals]
    # The outermost dimension was put in last.
    for _, dims in reversed(maps):
        for shape, dim in zip(shapes, dims, strict=True):
            if dim is not None:
                del shape[dim]
    pairs = zip(shapes, avals, strict=True)
    return tuple((tuple(shape), aval.dtype) for shape, aval in pairs)


def _abstract_eval(
    *avals: ShapedArray, meaning: Meaning, maps: Maps
) -> list[ShapedArray]:
    sizes = tuple(size for size, _ in reversed(maps))
    results = meaning.results(_of_one(avals, maps))
    return [jx.result_aval((*sizes, *shape), dtype, avals) for shape, dtype in results]


def _batch(
    axis_data: Any,
    operands: Sequence[jax.Array],
    dims: Sequence[int | None],
    *,
    meaning: Meaning,
    maps: Maps,
) -> tuple[list[jax.Array], list[int | None]]:
    own = [
        jax.typeof(x) if dim is None else _without(x, dim)
        for x, dim in zip(operands, dims, strict=True)
    ]
    used = meaning.uses(_of_one(own, maps))
    taken: list[jax.Array] = []
    along: list[int | None] = []
    for x, dim, is_used in zip(operands, dims, used, strict=True):
        # A tile that is loaded anew differs no more than what is loaded: weights stay one for all.
        if dim is not None and not is_used:
            x, dim = jax.lax.index_in_dim(x, 0, dim, keepdims=False), None
        taken.append(x)
        along.append(dim)
    if all(dim is None for dim in along):
        results = _mapped.bind(*taken, meaning=meaning, maps=maps)
        return results, [None] * len(results)
    more = (*maps, (axis_data.size, tuple(along)))
    results = _mapped.bind(*taken, meaning=meaning, maps=more)
    return results, [0] * len(results)


def _without(x: jax.Array, dim: int) -> jax.ShapeDtypeStruct:
    aval = jax.typeof(x)
    shape = (*aval.shape[:dim], *aval.shape[dim + 1 :])
    return jax.ShapeDtypeStruct(shape, aval.dtype)


def _jvp(
    primals: Sequence[jax.Array],
    tangents: Sequence[Any],
    *,
    meaning: Meaning,
    maps: Maps,
) -> tuple[Any, Any]:
    # Only what is differentiated: of a tangent of zeros JAX would compute all products.
    places = [n for n, tangent in enumerate(tangents) if type(tangent) is not ad.Zero]

    def apply(*moving: jax.Array) -> list[jax.Array]:
        operands = list(primals)
        for place, x in zip(places, moving, strict=True):
            operands[place] = x
        return _apply(*operands, meaning=meaning, maps=maps)

    moving = tuple(primals[place] for place in places)
    return jax.jvp(apply, moving, tuple(tangents[place] for place in places))


_mapped.def_impl(_apply)
_mapped.def_abstract_eval(_abstract_eval)
mlir.register_lowering(
    _mapped, mlir.lower_fun(_apply, multiple_results=True), inline=False
)
batching.fancy_primitive_batchers[_mapped] = _batch
ad.primitive_jvps[_mapped] = _jvp

__all__ = ["Meaning", "mapped"]
