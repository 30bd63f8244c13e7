"""Fabric programs around one operation: vector operations, a mat-vec on one PE, a send."""

import math

from emu.datasheet import Device
from emu.wse.fabric.ops import (
    Code,
    Load,
    Map,
    Memory,
    Op,
    Stamp,
    Vector,
    copy,
    receive,
    send,
)
from emu.wse.fabric.program import BANK_BYTES, FabricProgram

START, END = "start", "end"
LINE_BYTES = 16  # to which a mat-vec's columns are padded


def vector_op(
    device: Device, op: str, dtype: str, elements: int, *, bank_conflict: bool = False
) -> FabricProgram:
    """One synchronous `y = y op x` (`y += x * scalar` for `fmac`) on one PE, between two stamps.

    Args:
      device: gives the stall of the second stamp, which depends on the result.
      op: an arithmetic operation.
      dtype: of both vectors.
      elements: of each.
      bank_conflict: both sources start in the same bank; else one starts an element further on.
    """
    program = FabricProgram(1)
    operation = _vector(program, op, dtype, elements, bank_conflict)
    code: list[Op] = [Stamp(START), operation]
    if device.dependent_cycles:
        code.append(Code(int(device.dependent_cycles), "dependence"))
    program.task("main", [*code, Stamp(END)], start=True)
    return program


def vector_ops(op: str, dtype: str, elements: int) -> FabricProgram:
    """Two independent synchronous vector operations on one PE, one after the other."""
    program = FabricProgram(1)
    operation = _vector(program, op, dtype, elements, False)
    program.task("main", [operation, operation], start=True)
    return program


def _vector(
    program: FabricProgram, op: str, dtype: str, elements: int, bank_conflict: bool
) -> Vector:
    y = program.buffer("y", elements, dtype, bank=0)
    x = program.buffer("x", elements, dtype, bank=0 if bank_conflict else 1)
    if op == "fmac":
        return Vector(op, y[:], x[:], 1.0)
    return Vector(op, y[:], y[:], x[:])


def matvec(
    device: Device, n: int, padded_rows: int, dtype: str = "float32", iters: int = 1
) -> FabricProgram:
    """`y += A x` on one PE, `iters` times between two stamps, by a hardware loop over `x`.

    `A` (`[n, padded_rows]`, column by column) starts an element past 16 bytes, so that it and `y`
    lie in different banks.

    Args:
      device: gives the cycles of the software loop around the iterations.
      n: columns, elements of `x`.
      padded_rows: elements of `y` and of a column.
      dtype: of all three.
      iters: how often.
    """
    program = FabricProgram(1)
    y = program.buffer("y", padded_rows, dtype, bank=0)
    x = program.buffer("x", n, dtype, bank=0)
    a = program.buffer("A", n * padded_rows, dtype, bank=LINE_BYTES // BANK_BYTES + 1)
    back = Code(int(device.branch_cycles), "loop back-edge")
    entry = Code(int(device.scalar_cycles + device.branch_cycles), "loop entry")
    body: list[Op] = [Load(3), Map(y[:], a[:], x[:]), back]
    program.task("main", [Stamp(START), entry, *body * iters, Stamp(END)], start=True)
    return program


def padded(rows: int, dtype: str = "float32") -> int:
    """`rows` rounded up to 16 bytes."""
    per_line = LINE_BYTES // (2 if dtype == "float16" else 4)
    return math.ceil(rows / per_line) * per_line


def one_way(words: int, hops: int) -> FabricProgram:
    """An asynchronous send from the western-most PE, whose arrival starts a task `hops` away."""
    program = FabricProgram(hops + 1)
    program.route("out", (0, 0), receive="ramp", send="east")
    if hops > 1:
        program.route("out", (0, slice(1, hops)), receive="west", send="east")
    program.route("out", (0, hops), receive="west", send="ramp")
    data: Memory = program.buffer("data", words)[:]
    program.task("send", [copy(send("out"), data, thread=1)], (0, 0), start=True)
    listen = copy(data, receive("out"), thread=1, activate="arrived")
    program.task("receive", [listen], (0, hops), start=True)
    program.task("arrived", [Stamp(END)], (0, hops))
    return program


__all__ = ["END", "START", "matvec", "one_way", "padded", "vector_op", "vector_ops"]
