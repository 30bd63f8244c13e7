"""Which of a body's inputs are written in place: only the others can be set aside as read only."""

import functools
from collections.abc import Iterable
from typing import TypeAlias

from emu.clock.resources import Buffer
from emu.clock.tiles import Value
from emu.instruction import lookup
from emu.tracing import jaxpr as jx

Roots: TypeAlias = frozenset[int]
"""Indices of a body's inputs: those whose buffers a variable may be in."""

NONE: Roots = frozenset()


def written(body: jx.Body) -> Roots:
    """Indices of the inputs whose buffers an instruction in this body may write."""
    return _flow(body)[0]


@functools.lru_cache(maxsize=4096)
def _flow(body: jx.Body) -> tuple[Roots, tuple[Roots, ...]]:
    """The inputs that may be written, and for each output the inputs whose buffer it may be."""
    input_ids, output_ids = body.ids
    roots: dict[int, Roots] = {
        atom: frozenset([number]) for number, atom in enumerate(input_ids)
    }
    writes = NONE
    for eqn, operand_ids, result_ids in body.steps:
        operands = [roots.get(atom, NONE) for atom in operand_ids]
        hit, results = _through(eqn, operands)
        writes |= hit
        roots.update(zip(result_ids, results, strict=True))
    return writes, tuple(roots.get(atom, NONE) for atom in output_ids)


def _through(eqn: jx.Equation, operands: list[Roots]) -> tuple[Roots, list[Roots]]:
    """What one equation may write, and what its results may be."""
    if inst := lookup(eqn.primitive):
        destinations = operands[: inst.destinations]
        results = destinations or [NONE] * len(eqn.outvars)
        return NONE.union(*destinations), results
    if eqn.primitive.name == "scan":
        return _loop(jx.scan(eqn), operands)
    if eqn.primitive.name == "cond":
        cases = [_inside(body, operands[1:]) for body in jx.branches(eqn)]
        writes = NONE.union(*(hit for hit, _ in cases))
        by_output = zip(*(results for _, results in cases), strict=True)
        return writes, [NONE.union(*each) for each in by_output]
    if (body := jx.call(eqn)) is not None:
        return _inside(body, operands)
    # A view, or no buffer at all.
    return NONE, [NONE.union(*operands)] * len(eqn.outvars)


def _inside(body: jx.Body, operands: list[Roots]) -> tuple[Roots, list[Roots]]:
    writes, outputs = _flow(body)

    def outside(roots: Roots) -> Roots:
        return NONE.union(*(operands[number] for number in roots))

    return outside(writes), [outside(output) for output in outputs]


def _loop(loop: jx.Scan, operands: list[Roots]) -> tuple[Roots, list[Roots]]:
    """A carry may be, in any iteration, what any earlier iteration made of it."""
    consts, carry, stacked = loop.parts(operands)
    while True:
        writes, outputs = _inside(loop.body, [*consts, *carry, *stacked])
        grown = [old | new for old, new in zip(carry, outputs)]
        if grown == carry:
            break
        carry = grown
    stacks = [NONE] * (len(outputs) - loop.carry)
    return writes, [*grown, *stacks]


def read_only(
    loop: jx.Scan,
    consts: list[Value],
    carry: list[Value],
    stacked: list[Value],
    turned: Iterable[Buffer],
) -> list[Buffer]:
    """Buffers that a loop reads and never writes: nothing inside waits until they are idle.

    A reader outside that is done later would hide that the schedule repeats. `turned` are the
    buffers of rings declared inside.
    """
    inputs = [*consts, *carry, *stacked]
    own = {id(inputs[number].buffer) for number in written(loop.body)}
    own |= {id(value.buffer) for value in carry}
    own |= {id(buffer) for buffer in turned}
    fixed = {id(value.buffer): value.buffer for value in (*consts, *stacked)}
    return [
        buffer
        for number, buffer in fixed.items()
        if buffer is not None and number not in own
    ]


__all__ = ["read_only", "written"]
