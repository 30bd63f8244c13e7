"""How many bytes of SRAM a program's code takes on each PE, counted by what the program has.

What the host's copies and the runtime take is the same in every program. Beyond that a PE holds the
operations of its tasks. Operations of a task that differ only in the elements they work on are the
turns of a loop, which holds them once: 100 columns of a matrix multiplied one after the other are
one operation and a pointer that moves on.
"""

from collections.abc import Hashable

import numpy as np

from emu.datasheet import Device
from emu.wse.fabric import ops
from emu.wse.fabric.program import FabricProgram


def code_bytes(program: FabricProgram, device: Device) -> np.ndarray:
    """`int64[height, width]`: of the runtime and of each PE's tasks, or what the program says."""
    if program.code_bytes is not None:
        return np.full(program.shape, program.code_bytes, np.int64)
    taken = np.full(program.shape, int(device.runtime_bytes), np.int64)
    each = int(device.operation_bytes)
    for declared in program.tasks.values():
        for task in declared:
            # A set, so each is counted once however many turns its loop has.
            different = {_in_code(op) for op in task.code}
            taken[task.place] += len(different) * each
    return taken


def _in_code(op: ops.Op) -> Hashable:
    """What an operation is in a program's code: itself without the elements it works on."""
    match op:
        case ops.Vector():
            operands = (op.dst, *op.sources)
            named = tuple(map(_operand, operands))
            return op.op, named, op.thread, op.activate, op.unblock
        case ops.Map():
            return "map", op.dst.buffer, op.weights.buffer, op.x.buffer
        case ops.Code():
            return "code", op.what, op.cycles
    return op


def _operand(operand: ops.Operand) -> Hashable:
    if isinstance(operand, ops.Memory):
        # A pointer that moves on changes where an operand begins, not how far apart its elements
        # are.
        return operand.buffer, operand.step
    if isinstance(operand, ops.Fabric):
        return operand.color, operand.outward, operand.wide
    return "number"  # taken from a register


__all__ = ["code_bytes"]
