"""Recognises JAX's floor division and remainder, which arrive as calls.

JAX spells both out in half a dozen truncating primitives. Read one by one on sets, `q // 64` of
0..503 would begin at -1; read as a whole they are exact.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from emu.tracing import jaxpr as jaxprs


def known_division(body: jaxprs.Body) -> str | None:
    """`floor_divide` or `remainder` if `body` is what JAX calls for it, else None."""
    return _divisions().get(_outline(body))


@functools.cache
def _divisions() -> dict[tuple, str]:
    scalar = jax.ShapeDtypeStruct((), jnp.int32)
    found = {}
    for name, by in (
        (n, b) for n in ("floor_divide", "remainder") for b in (2, jnp.int32(2))
    ):
        spelled = jax.make_jaxpr(functools.partial(_swapped, getattr(jnp, name), by))(
            scalar
        )
        (eqn,) = (e for e in jaxprs.body(spelled).eqns if jaxprs.call(e))
        found[_outline(jaxprs.call(eqn))] = name
    return found


def _swapped(f: Callable, by: Any, x: Any) -> Any:
    return f(x, by)


def _outline(body: Any) -> tuple:
    """Primitives and data flow of a body, nested calls included."""
    names = {id(v): i for i, v in enumerate([*body.constvars, *body.invars])}
    lines = []
    for eqn in body.eqns:
        inner = jaxprs.call(eqn)
        atoms = tuple(
            str(v.val) if jaxprs.is_literal(v) else names.get(id(v), -1)
            for v in eqn.invars
        )
        lines.append((eqn.primitive.name, atoms, _outline(inner) if inner else None))
        names |= {id(v): len(names) + i for i, v in enumerate(eqn.outvars)}
    return (*lines, tuple(names.get(id(v), -1) for v in body.outvars))
