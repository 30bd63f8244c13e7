"""What the machine's rules refuse, said in the kernel's own terms.

The rules know our instructions and the places of their operands (`emu.checks.rules`), a kernel's
author knows NKI's functions and the tensors that they are called with.
"""

import contextlib
import re
from collections.abc import Iterator
from typing import Any

from emu.checks import rules
from emu.datasheet import Device
from emu.errors import EmulationError
from emu.program import Program
from emu.trainium.nki.tree import Access, Affine, Operation, Place, Recorded, walk

TOLD = re.compile(
    r"(?P<name>\w+\.\w+): (?P<what>.*) \((?P<file>[^()]*):(?P<line>\d+)\)"
)
OPERAND = re.compile(r"operand (\d+)")


def check(recorded: Recorded, program: Program, device: Device, *args: Any) -> None:
    """Refuses a kernel that the machine cannot run, whatever the data.

    Args:
      recorded: the kernel.
      program: made of it.
      device: the machine.
      *args: of the program, or their shapes.

    Raises:
      EmulationError: naming NKI's function, the tensor and the kernel's line.
    """
    with in_terms(recorded):
        body, _ = program.trace(args)
        rules.check_machine(body, device)
        rules.check(body, device)


@contextlib.contextmanager
def in_terms(recorded: Recorded) -> Iterator[None]:
    """Inside, errors about our instructions name the call of the kernel that they are of."""
    try:
        yield
    except EmulationError as error:
        found = TOLD.fullmatch(str(error))
        operation = None if found is None else _operation(recorded, found)
        if found is None or operation is None:
            raise
        what = OPERAND.sub(lambda each: _named(operation, each), found["what"])
        told = f"{operation.name}: {what}"
        raise type(error)(told, f"{found['file']}:{found['line']}") from None


def _operation(recorded: Recorded, found: "re.Match[str]") -> Operation | None:
    """The call at that line that became the instruction of that name."""
    for operation, _ in walk(recorded.body):
        if (
            operation.choice.instruction.name == found["name"]
            and _short(operation.place) == f"{_base(found['file'])}:{found['line']}"
        ):
            return operation
    return None


def _short(place: Place) -> str:
    return f"{_base(place.file)}:{place.line}"


def _base(file: str) -> str:
    return file.rpartition("/")[2]


def _named(operation: Operation, operand: "re.Match[str]") -> str:
    """`operand 1` as the tensor that is there, by its name or by the line that declares it."""
    place = int(operand[1])
    choice = operation.choice
    reads = operation.reads
    if choice.operands is not None:
        reads = tuple(reads[each] for each in choice.operands)
    operands = (*(operation.writes if choice.instruction.in_place else ()), *reads)
    # What a sum replaces in place may be no operand of its own (`emu.boxes.Old`): of two tensors
    # that the number could mean none is named.
    kept = tuple(each for each in reads if not _is_replaced(each, operation.writes))
    fewer = (*operands[: len(operands) - len(reads)], *kept)
    access = operands[place] if place < len(operands) else None
    is_certain = place >= len(fewer) or fewer[place] is access
    if not isinstance(access, Access) or not is_certain:
        return operand[0]
    tensor = access.tensor
    if tensor.name:
        return f"operand {place} `{tensor.name}`"
    if tensor.place is None or _short(tensor.place) == _short(operation.place):
        return operand[0]
    return f"operand {place} of {_short(tensor.place)}"


def _is_replaced(read: Access | Affine, writes: tuple[Access, ...]) -> bool:
    return any(
        isinstance(read, Access)
        and read.tensor is write.tensor
        and read.member == write.member
        and (read.partition, read.partitions) == (write.partition, write.partitions)
        and (read.offset, read.axes) == (write.offset, write.axes)
        for write in writes
    )


__all__ = ["check", "in_terms"]
