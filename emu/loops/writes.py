"""Which of a body's inputs are written in place: only the others can be set aside as read only."""

import functools
from collections.abc import Iterable
from typing import Any

from emu.clock.resources import Buffer
from emu.clock.tiles import Value
from emu.instruction import lookup
from emu.tracing import jaxpr as jx

Roots = frozenset[int]
NONE: Roots = frozenset()


def written(body: jx.Body) -> Roots:
    """Indices of the inputs whose buffers an instruction in this body may write."""
    return _flow(body)[0]


@functools.lru_cache(maxsize=4096)
def _flow(body: jx.Body) -> tuple[Roots, tuple[Roots, ...]]:
    """The inputs that may be written, and for each output the inputs whose buffer it may be."""
    roots: dict[int, Roots] = {id(v): frozenset([i]) for i, v in enumerate(body.invars)}
    found = NONE
    for eqn, operands, results in body.steps:
        xs = [roots.get(v, NONE) for v in operands]
        hit, outs = _through(eqn, xs)
        found |= hit
        roots.update(zip(results, outs, strict=True))
    return found, tuple(roots.get(v, NONE) for v in body.ids[1])


def _through(eqn: Any, xs: list[Roots]) -> tuple[Roots, list[Roots]]:
    """What one equation may write, and what its results may be."""
    if inst := lookup(eqn.primitive):
        dsts = xs[: inst.destinations]
        return NONE.union(*dsts), dsts or [NONE] * len(eqn.outvars)
    if eqn.primitive.name == "scan":
        return _loop(jx.scan(eqn), xs)
    if eqn.primitive.name == "cond":
        each = [_inside(b, xs[1:]) for b in jx.branches(eqn)]
        outs = [NONE.union(*cases) for cases in zip(*(o for _, o in each), strict=True)]
        return NONE.union(*(hit for hit, _ in each)), outs
    if (body := jx.call(eqn)) is not None:
        return _inside(body, xs)
    return NONE, [NONE.union(*xs)] * len(eqn.outvars)  # a view, or no buffer at all


def _inside(body: jx.Body, xs: list[Roots]) -> tuple[Roots, list[Roots]]:
    hit, outs = _flow(body)
    return NONE.union(*(xs[i] for i in hit)), [
        NONE.union(*(xs[i] for i in o)) for o in outs
    ]


def _loop(s: jx.Scan, xs: list[Roots]) -> tuple[Roots, list[Roots]]:
    """A carry may be, in any iteration, what any earlier iteration made of it."""
    state = list(xs)
    first, end = s.consts, s.consts + s.carry
    while True:
        hit, outs = _inside(s.body, state)
        grown = [a | b for a, b in zip(state[first:end], outs[: s.carry], strict=True)]
        if grown == state[first:end]:
            break
        state[first:end] = grown
    stacks = [NONE] * (len(outs) - s.carry)
    return hit, [*grown, *stacks]


def read_only(
    s: jx.Scan,
    consts: list[Value],
    carry: list[Value],
    stacked: list[Value],
    turned: Iterable[Buffer],
) -> list[Buffer]:
    """Buffers that a loop reads and never writes: nothing inside waits until they are idle.

    A reader outside that is done later would hide that the schedule repeats. `turned` are the
    buffers of rings declared inside.
    """
    ins = [*consts, *carry, *stacked]
    own = {id(ins[i].buffer) for i in written(s.body)} | {id(v.buffer) for v in carry}
    own |= {id(b) for b in turned}
    fixed = {id(v.buffer): v.buffer for v in (*consts, *stacked)}
    return [b for i, b in fixed.items() if b is not None and i not in own]
