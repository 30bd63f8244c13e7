"""Which operands a function's results depend on, read from its jaxpr.

`tensor_copy(dst, src)` writes all of `dst`, so its results depend on `src` alone.
"""

from emu.tracing import jaxpr as jx


def used(body: jx.Body) -> tuple[bool, ...]:
    """For each operand whether any result depends on it: on its elements, not on its shape."""
    needed = {id(result) for result in body.outvars}
    # Backwards, so that whoever takes a result has been met before who makes it.
    for eqn in reversed(body.eqns):
        if not any(id(result) in needed for result in eqn.outvars):
            continue
        called = jx.call(eqn)
        taken = used(called) if called is not None else (True,) * len(eqn.invars)
        for atom, is_taken in zip(eqn.invars, taken, strict=True):
            if is_taken:
                needed.add(id(atom))
    return tuple(id(operand) in needed for operand in body.invars)


__all__ = ["used"]
