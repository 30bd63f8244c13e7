"""Unread instructions, found in our jaxpr before XLA removes anything.

An instruction is unread when its result reaches no output and no operand, other than as a mere
destination, of an instruction that is read. XLA would delete it while the clock bills it.
"""

import functools
from typing import Any

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
    read = {
        v
        for v, r in zip(body.outvars, outs_read, strict=True)
        if r and not jx.is_literal(v)
    }
    for eqn in reversed(body.eqns):
        wanted = [v in read for v in eqn.outvars]
        for atom, used in zip(eqn.invars, _reads(eqn, wanted, report), strict=True):
            if used and not jx.is_literal(atom):
                read.add(atom)
    return [v in read for v in body.invars]


def _reads(eqn: Any, wanted: list[bool], report: bool) -> list[bool]:
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
        n = inst.destinations
        return [inst.reads_destination] * n + [True] * (len(eqn.invars) - n)
    if name == "scan":
        return _scan(eqn, wanted, report)
    if name == "cond":
        return _cond(eqn, wanted, report)
    if (body := jx.call(eqn)) is not None:
        return _visit(body, tuple(wanted), report)
    return [any(wanted)] * len(eqn.invars)


def _scan(eqn: Any, wanted: list[bool], report: bool) -> list[bool]:
    """A carry slot is read if its final value is, or if the body reads it next iteration."""
    s = jx.scan(eqn)
    carry, ys = wanted[: s.carry], wanted[s.carry :]
    while True:
        ins = _visit(s.body, (*carry, *ys), report=False)
        grown = [
            a or b
            for a, b in zip(carry, ins[s.consts : s.consts + s.carry], strict=True)
        ]
        if grown == carry:
            break
        carry = grown
    return _visit(s.body, (*carry, *ys), report)


def _cond(eqn: Any, wanted: list[bool], report: bool) -> list[bool]:
    per_branch = [_visit(b, tuple(wanted), report) for b in jx.branches(eqn)]
    return [True, *(any(r) for r in zip(*per_branch, strict=True))]
