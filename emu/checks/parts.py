"""Operands, and parts of them: they stay within their buffer, and in its partitions."""

import dataclasses
from typing import Any

from emu.checks.held import Held
from emu.datasheet import Device
from emu.errors import LimitExceeded
from emu.instruction import Instruction
from emu.tracing import jaxpr as jx


@dataclasses.dataclass(frozen=True)
class Taken:
    """Partitions of a memory that an instruction takes: of an operand, or of part of one.

    Attributes:
      start: the first; None where that depends on a loop.
      count: how many.
      step: from one to the next.
    """

    start: int | None
    count: int
    step: int = 1


def within(inst: Instruction[..., Any], eqn: jx.Equation, operands: list[Held]) -> None:
    """Raises `LimitExceeded` where a part leaves its buffer, as far as its start is known."""
    for part in inst.parts:
        shape = eqn.invars[part.operand].aval.shape
        starts = [_known(operands[register]) for register in part.registers]
        fault = part.region.fault(shape, starts)
        if fault is not None:
            raise LimitExceeded(
                f"{inst.name}: operand {part.operand}{fault}", jx.location(eqn)
            )


def partitions(
    device: Device, inst: Instruction[..., Any], eqn: jx.Equation, operands: list[Held]
) -> dict[int, Taken]:
    """The partitions of each operand that does not begin in the first, or is taken in part.

    Whole tiles begin at 0, where there is room for all of them.

    Raises:
      LimitExceeded: a part would move data from one partition to another.
    """
    taken: dict[int, Taken] = {}
    for place, held in enumerate(operands):
        if held.start:
            shape = eqn.invars[place].aval.shape
            taken[place] = Taken(held.start, shape[0])
    for part in inst.parts:
        held = operands[part.operand]
        if held.space not in device.partitioned:
            continue
        shape = eqn.invars[part.operand].aval.shape
        rows = part.region.rows(shape)
        if rows is None:
            raise LimitExceeded(
                f"{inst.name}: operand {part.operand}, in {held.space}, keeps its partitions, "
                f"dimension 0, of which {part.region} of {list(shape)} does not",
                jx.location(eqn),
            )
        later: int | None = 0
        if rows.register is not None:
            later = _known(operands[part.registers[rows.register]])
        start = None
        if held.start is not None and later is not None:
            start = held.start + later
        taken[part.operand] = Taken(start, rows.count, rows.step)
    return taken


def _known(held: Held) -> int | None:
    return None if held.known is None else int(held.known.item())


__all__ = ["Taken", "partitions", "within"]
