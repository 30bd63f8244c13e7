"""Recognises JAX's floor division and remainder, which arrive as calls.

JAX spells both out in half a dozen truncating primitives. Read one by one on sets, `q // 64` of
0..503 would begin at -1; read as a whole they are exact.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from emu.tracing import jaxpr as jaxprs

DIVISIONS: dict[str, Callable[..., jax.Array]] = {
    "floor_divide": jnp.floor_divide,
    "remainder": jnp.remainder,
}


def known_division(body: jaxprs.Body) -> str | None:
    """`floor_divide` or `remainder` if `body` is what JAX calls for it, else None."""
    return _outlines().get(_outline(body))


@functools.cache
def _outlines() -> dict[tuple, str]:
    """What this JAX writes for each division, by a literal and by an operand."""
    dividend = jax.ShapeDtypeStruct((), jnp.int32)
    # Asked of the JAX that is installed rather than written down: its spelling is no promise and
    # changes.
    found = {}
    for name, function in DIVISIONS.items():
        # `q // 2` hands over a weakly typed 2, which the body first converts; `q // jnp.int32(2)`
        # does not.
        for divisor in (2, jnp.int32(2)):
            by_divisor = functools.partial(_divided, function, divisor)
            spelled = jaxprs.body(jax.make_jaxpr(by_divisor)(dividend))
            (called,) = filter(None, map(jaxprs.call, spelled.eqns))
            found[_outline(called)] = name
    return found


def _divided(
    function: Callable[..., jax.Array],
    divisor: int | jax.Array,
    dividend: jax.Array,
) -> jax.Array:
    return function(dividend, divisor)


def _outline(body: jaxprs.Body) -> tuple[Any, ...]:
    """Primitives and data flow of a body, nested calls included.

    A variable counts by the order in which it is bound, a literal by its value.
    """
    numbers: dict[int, int] = {}

    def bind(variables: Sequence[Any]) -> None:
        for variable in variables:
            numbers[id(variable)] = len(numbers)

    def of(atom: Any) -> str | int:
        if jaxprs.is_literal(atom):
            return str(atom.val)
        return numbers.get(id(atom), -1)

    bind([*body.constvars, *body.invars])
    lines = []
    for eqn in body.eqns:
        # A select inside is a call of its own; without its outline any body would do in its place.
        called = jaxprs.call(eqn)
        operands = tuple(of(atom) for atom in eqn.invars)
        within = _outline(called) if called else None
        lines.append((eqn.primitive.name, operands, within))
        bind(eqn.outvars)
    results = tuple(of(atom) for atom in body.outvars)
    return (*lines, results)
