"""Operations of a fabric program in words, and the tasks that they belong to, for reports."""

import numpy as np

from emu.wse.fabric import ops
from emu.wse.fabric.encoding.encode import Encoded
from emu.wse.fabric.encoding.instructions import NONE


def in_words(op: ops.Op) -> str:
    """Such as `add receive 'east', x -> send 'sum'`."""
    match op:
        case ops.Vector():
            sources = ", ".join(map(_operand, op.sources))
            return f"{op.op} {sources} -> {_operand(op.dst)}"
        case ops.Map():
            return f"map {op.weights.buffer} * {op.x.buffer} -> {op.dst.buffer}"
        case ops.Code():
            return op.what
        case ops.Load():
            return f"load {op.descriptors} descriptor{'s' * (op.descriptors != 1)}"
        case ops.Stamp():
            return f"stamp '{op.name}'"
        case ops.Activate() | ops.Block() | ops.Unblock():
            return f"{type(op).__name__.lower()} '{op.task}'"
        case ops.Control():
            return f"control -> send '{op.color}'"
        case ops.Switch():
            return f"switch '{op.color}' to position {op.position}"
    return type(op).__name__.lower()


def _operand(operand: ops.Operand) -> str:
    if isinstance(operand, ops.Memory):
        return operand.buffer
    if isinstance(operand, ops.Fabric):
        return f"{'send' if operand.outward else 'receive'} '{operand.color}'"
    return f"{operand:g}"


def tasks_of(encoded: Encoded) -> list[str]:
    """The name of the task that each instruction belongs to."""
    starts: dict[int, str] = {}
    for name, entry in zip(encoded.program.tasks, encoded.entry, strict=False):
        for first in np.unique(entry[entry != NONE]).tolist():
            starts[first] = name
    names: list[str] = []
    task = ""
    for number in range(len(encoded.instructions)):
        task = starts.get(number, task)
        names.append(task)
    return names


__all__ = ["in_words", "tasks_of"]
