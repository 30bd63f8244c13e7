"""Unread instructions, found in our jaxpr before XLA removes anything.

An instruction is unread when its result reaches no output and no operand, other than as a mere
destination, of an instruction that is read. XLA would delete it while the clock bills it.
"""

import functools

from emu.errors import UnreadInstruction
from emu.instruction import lookup
from emu.tracing import jaxpr as jx


@functools.lru_cache(maxsize=256)
def check_all_read(body: jx.Body) -> None:
    """Raises `UnreadInstruction` for the first instruction of a kernel that nothing reads.

    Exempt: allocations, and instructions declared `effect=True`.
    """
    _visit(body, (True,) * len(body.outvars), report=True)


# A loop's body is asked until its carry settles, and so are those inside it for each time.
@functools.lru_cache(maxsize=4096)
def _visit(body: jx.Body, outs_read: tuple[bool, ...], report: bool) -> list[bool]:
    """Which inputs of a body are read, given which outputs are; raises if `report`."""
    input_ids, output_ids = body.ids
    outputs = zip(output_ids, outs_read, strict=True)
    read = {atom for atom, is_read in outputs if is_read}
    for eqn, operand_ids, result_ids in reversed(body.steps):
        wanted = [atom in read for atom in result_ids]
        reads = _reads(eqn, wanted, report)
        for atom, is_read in zip(operand_ids, reads, strict=True):
            if is_read:
                read.add(atom)
    return [atom in read for atom in input_ids]


def _reads(eqn: jx.Equation, wanted: list[bool], report: bool) -> list[bool]:
    """Which operands of an equation are read, given which of its results are."""
    name = eqn.primitive.name
    if inst := lookup(eqn.primitive):
        allocation = not eqn.invars
        if not any(wanted) and not inst.effect:
            if report and not allocation:
                raise UnreadInstruction(
                    f"{inst.name}: nothing reads its result, so XLA would delete it; use the "
                    "result, or remove the instruction",
                    jx.location(eqn),
                )
            return [False] * len(eqn.invars)
        destinations = [inst.reads_destination] * inst.destinations
        sources = [True] * (len(eqn.invars) - inst.destinations)
        return destinations + sources
    if name == "scan":
        return _scan(eqn, wanted, report)
    if name == "cond":
        return _cond(eqn, wanted, report)
    if (body := jx.call(eqn)) is not None:
        return _visit(body, tuple(wanted), report)
    return [any(wanted)] * len(eqn.invars)


def _scan(eqn: jx.Equation, wanted: list[bool], report: bool) -> list[bool]:
    """A carry slot is read if its final value is, or if the body reads it next iteration."""
    loop = jx.scan(eqn)
    carry, stacks = wanted[: loop.carry], wanted[loop.carry :]
    while True:
        inputs = _visit(loop.body, (*carry, *stacks), report=False)
        _, read_next, _ = loop.parts(inputs)
        grown = [old or new for old, new in zip(carry, read_next, strict=True)]
        if grown == carry:
            break
        carry = grown
    return _visit(loop.body, (*carry, *stacks), report)


def _cond(eqn: jx.Equation, wanted: list[bool], report: bool) -> list[bool]:
    per_branch = [_visit(body, tuple(wanted), report) for body in jx.branches(eqn)]
    operands = [any(reads) for reads in zip(*per_branch, strict=True)]
    return [True, *operands]
