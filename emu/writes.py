"""Which of a body's inputs are written in place: only the others can be set aside as read only."""

import functools
from typing import Any

from emu import jaxpr as jx
from emu.instruction import lookup

Roots = frozenset[int]


@functools.lru_cache(maxsize=4096)
def written(body: jx.Body) -> Roots:
    """Indices of the inputs whose buffers an instruction in this body may write.

    A result stands for every input it may share a buffer with, so the answer may name an input too
    many, never one too few.
    """
    roots: dict[int, Roots] = {id(v): frozenset([i]) for i, v in enumerate(body.invars)}
    found: Roots = frozenset()
    for eqn, operands, results in body.steps:
        xs = [roots.get(v, frozenset()) for v in operands]
        found |= _written_by(eqn, xs)
        inst = lookup(eqn.primitive)
        fresh = inst is not None and not inst.in_place
        shared = frozenset() if fresh else frozenset().union(*xs)
        roots |= dict.fromkeys(results, shared)
    return found


def _written_by(eqn: Any, xs: list[Roots]) -> Roots:
    if inst := lookup(eqn.primitive):
        return frozenset().union(*xs[: inst.destinations])
    if eqn.primitive.name == "scan":
        bodies, shift = [jx.scan(eqn).body], 0
    elif eqn.primitive.name == "cond":
        bodies, shift = jx.branches(eqn), 1
    elif (body := jx.call(eqn)) is not None:
        bodies, shift = [body], 0
    else:
        return frozenset()
    return frozenset().union(*(xs[i + shift] for b in bodies for i in written(b)))
