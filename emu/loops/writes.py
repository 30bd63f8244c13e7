"""Which of a body's inputs are written in place: only the others can be set aside as read only."""

import dataclasses
import functools
from collections.abc import Iterable, Sequence
from typing import TypeAlias

from emu.clock.resources import Buffer
from emu.clock.tiles import Value
from emu.instruction import lookup
from emu.tracing import jaxpr as jx

Roots: TypeAlias = frozenset[int]
"""Indices of a body's inputs: those whose buffers a variable may be in."""

NONE: Roots = frozenset()


@dataclasses.dataclass(frozen=True)
class Flow:
    """What a body or an equation does with the buffers of a body's inputs.

    Attributes:
      written: the inputs whose buffers it may write.
      results: for each of its results the inputs whose buffer that may be in.
    """

    written: Roots
    results: Sequence[Roots]


def written(body: jx.Body) -> Roots:
    """Indices of the inputs whose buffers an instruction in this body may write."""
    return _flow(body).written


@functools.lru_cache(maxsize=4096)
def _flow(body: jx.Body) -> Flow:
    input_ids, output_ids = body.ids
    roots: dict[int, Roots] = {}
    for number, atom in enumerate(input_ids):
        roots[atom] = frozenset([number])
    hit = NONE
    for eqn, operand_ids, result_ids in body.steps:
        operands = [roots.get(atom, NONE) for atom in operand_ids]
        through = _through(eqn, operands)
        hit |= through.written
        roots.update(zip(result_ids, through.results, strict=True))
    outputs = [roots.get(atom, NONE) for atom in output_ids]
    return Flow(hit, outputs)


def _through(eqn: jx.Equation, operands: list[Roots]) -> Flow:
    """One equation, by the inputs that its operands may be."""
    results = len(eqn.outvars)
    if inst := lookup(eqn.primitive):
        destinations = operands[: inst.destinations]
        # Too many is safe: a buffer that stays among the loop's clocks may cost a jump, never a
        # tick. Too few would set aside one that an instruction waits for.
        hit = NONE.union(*destinations)
        return Flow(hit, destinations or [NONE] * results)
    if eqn.primitive.name == "scan":
        return _loop(jx.scan(eqn), operands)
    if eqn.primitive.name == "cond":
        _, *values = operands
        cases = [_inside(body, values) for body in jx.branches(eqn)]
        return _any_of(cases)
    if (body := jx.call(eqn)) is not None:
        return _inside(body, operands)
    # A view, or no buffer at all.
    viewed = NONE.union(*operands)
    return Flow(NONE, [viewed] * results)


def _inside(body: jx.Body, operands: list[Roots]) -> Flow:
    """A body inside, whose inputs are these operands."""
    flow = _flow(body)

    def outside(roots: Roots) -> Roots:
        return NONE.union(*[operands[number] for number in roots])

    results = [outside(output) for output in flow.results]
    return Flow(outside(flow.written), results)


def _any_of(cases: list[Flow]) -> Flow:
    """Whichever of some branches is taken."""
    hit = NONE.union(*[case.written for case in cases])
    by_result = zip(*[case.results for case in cases], strict=True)
    return Flow(hit, [NONE.union(*each) for each in by_result])


def _loop(loop: jx.Scan, operands: list[Roots]) -> Flow:
    """A carry may be, in any iteration, what any earlier iteration made of it.

    A loop that swaps tiles `a` and `b` and writes the first writes both: after one iteration each
    carry may be either, `[{a, b}, {a, b}]`, and after two nothing more is found.
    """
    consts, carry, stacked = loop.parts(operands)
    # Sets of inputs only grow and there are finitely many inputs, so this comes to an end.
    while True:
        flow = _inside(loop.body, [*consts, *carry, *stacked])
        grown = [old | new for old, new in zip(carry, flow.results)]
        if grown == carry:
            break
        carry = grown
    # Slices are copied into a stack, which is a buffer of its own.
    stacks = [NONE] * (len(flow.results) - loop.carry)
    return Flow(flow.written, [*grown, *stacks])


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
    changed = [inputs[number].buffer for number in written(loop.body)]
    changed += [value.buffer for value in carry]
    # A declaration inside writes its ring's buffers, none of which need be an input. Where an
    # operand is still in one of them, it would else pass for read only.
    changed += turned
    excluded = {id(buffer) for buffer in changed}
    fixed: list[Buffer] = []
    for value in (*consts, *stacked):
        buffer = value.buffer
        if buffer is None or id(buffer) in excluded:
            continue
        # Two operands may be views of one buffer, which is set aside, and put back, once.
        excluded.add(id(buffer))
        fixed.append(buffer)
    return fixed


__all__ = ["read_only", "written"]
