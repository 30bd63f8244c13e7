"""Unread instructions, found in our jaxpr before XLA removes anything.

An instruction is unread when its result reaches no output and no operand, other than as a mere
destination, of an instruction that is read. XLA would delete it while the clock bills it.
"""

import functools
from collections.abc import Sequence
from typing import Any

from emu.errors import UnreadInstruction
from emu.instruction import Instruction, lookup
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
    read = _those(output_ids, outs_read)
    # Backwards: whether a result is read is known once all that come after it are visited.
    for eqn, operand_ids, result_ids in reversed(body.steps):
        wanted = [atom in read for atom in result_ids]
        reads = _reads(eqn, wanted, report)
        read |= _those(operand_ids, reads)
    return [atom in read for atom in input_ids]


def _those(ids: Sequence[int], flags: Sequence[bool]) -> set[int]:
    return {atom for atom, flag in zip(ids, flags, strict=True) if flag}


def _reads(eqn: jx.Equation, wanted: list[bool], report: bool) -> list[bool]:
    """Which operands of an equation are read, given which of its results are."""
    name = eqn.primitive.name
    if inst := lookup(eqn.primitive):
        return _instruction(inst, eqn, any(wanted), report)
    if name == "scan":
        return _scan(eqn, wanted, report)
    if name == "cond":
        return _cond(eqn, wanted, report)
    if (body := jx.call(eqn)) is not None:
        return _visit(body, tuple(wanted), report)
    return [any(wanted)] * len(eqn.invars)


def _instruction(
    inst: Instruction[..., Any], eqn: jx.Equation, wanted: bool, report: bool
) -> list[bool]:
    """All sources, and destinations whose old content matters, of an instruction that is read."""
    if wanted or inst.effect:
        # What is merely overwritten is not read: whatever was written there before is lost.
        destinations = [inst.reads_destination] * inst.destinations
        sources = [True] * (len(eqn.invars) - inst.destinations)
        return destinations + sources
    is_allocation = not eqn.invars
    if report and not is_allocation:
        raise UnreadInstruction(
            f"{inst.name}: nothing reads its result, so XLA would delete it; use the "
            "result, or remove the instruction",
            jx.location(eqn),
        )
    return [False] * len(eqn.invars)


def _scan(eqn: jx.Equation, wanted: list[bool], report: bool) -> list[bool]:
    """A carry slot is read if its final value is, or if the body reads it next iteration.

    Example: in a loop `a, b = 2 * a, a + b` of which only the last `b` is read, the first visit
    finds that `b` needs the `a` of the iteration before, the second finds no more.
    """
    loop = jx.scan(eqn)
    carry, stacks = wanted[: loop.carry], wanted[loop.carry :]
    while True:
        # Silent until the carry has settled: before that an instruction may look unread which only
        # the next iteration reads. Flags only turn true, so it does settle.
        inputs = _visit(loop.body, (*carry, *stacks), report=False)
        _, read_next, _ = loop.parts(inputs)
        both = zip(carry, read_next, strict=True)
        grown = [is_read or is_read_next for is_read, is_read_next in both]
        if grown == carry:
            break
        carry = grown
    return _visit(loop.body, (*carry, *stacks), report)


def _cond(eqn: jx.Equation, wanted: list[bool], report: bool) -> list[bool]:
    outs_read = tuple(wanted)
    per_branch = [_visit(body, outs_read, report) for body in jx.branches(eqn)]
    # Cores may take different branches: what one of them reads is read.
    operands = [any(reads) for reads in zip(*per_branch, strict=True)]
    index_is_read = True
    return [index_is_read, *operands]
