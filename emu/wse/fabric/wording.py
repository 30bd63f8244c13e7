"""Operations of a fabric program in words, and the tasks that they belong to, for reports."""

import numpy as np

from emu.wse.fabric import ops
from emu.wse.fabric.encoding.encode import Encoded
from emu.wse.fabric.encoding.instructions import NONE


def in_words(op: ops.Op) -> str:
    """Such as `add receive 'east', x -> send 'sum'`."""
    match op:
        case ops.Vector():
            return (
                f"{op.op} {', '.join(map(_operand, op.sources))} -> {_operand(op.dst)}"
            )
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


def _operand(x: ops.Operand) -> str:
    if isinstance(x, ops.Memory):
        return x.buffer
    if isinstance(x, ops.Fabric):
        return f"{'send' if x.outward else 'receive'} '{x.color}'"
    return f"{x:g}"


def tasks_of(encoded: Encoded) -> list[str]:
    """The name of the task that each instruction belongs to."""
    starts: dict[int, str] = {}
    for name, entry in zip(encoded.program.tasks, encoded.entry, strict=False):
        starts |= {int(at): name for at in np.unique(entry) if at != NONE}
    out, task = [], ""
    for at in range(len(encoded.instructions)):
        task = starts.get(at, task)
        out.append(task)
    return out


__all__ = ["in_words", "tasks_of"]
