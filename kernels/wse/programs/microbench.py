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

START = "start"
END = "end"
LINE_BYTES = 16  # to which a mat-vec's columns are padded


def vector_op(
    device: Device,
    op: str,
    dtype: str,
    elements: int,
    *,
    bank_conflict: bool = False,
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
    operation = _vector(program, op, dtype, elements, bank_conflict=False)
    program.task("main", [operation, operation], start=True)
    return program


def _vector(
    program: FabricProgram,
    op: str,
    dtype: str,
    elements: int,
    bank_conflict: bool,
) -> Vector:
    # Banks that are equal modulo 4 conflict (`encoding/timing.py`).
    x_bank = 0 if bank_conflict else 1
    y = program.buffer("y", elements, dtype, bank=0)
    x = program.buffer("x", elements, dtype, bank=x_bank)
    if op == "fmac":
        return Vector(op, y[:], x[:], 1.0)
    return Vector(op, y[:], y[:], x[:])


def matvec(
    device: Device,
    n: int,
    padded_rows: int,
    dtype: str = "float32",
    iters: int = 1,
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
    # 16 / 4 + 1 = 5, which is 1 modulo 4, where `y` is 0.
    matrix_bank = LINE_BYTES // BANK_BYTES + 1
    matrix = program.buffer("A", n * padded_rows, dtype, bank=matrix_bank)
    entry_cycles = int(device.scalar_cycles + device.branch_cycles)
    back_edge_cycles = int(device.branch_cycles)
    body: list[Op] = [
        Load(3),
        Map(y[:], matrix[:], x[:]),
        Code(back_edge_cycles, "loop back-edge"),
    ]
    code: list[Op] = [
        Stamp(START),
        Code(entry_cycles, "loop entry"),
        # A fabric program's task has no loops: the turns are written out, each with the branch
        # back.
        *body * iters,
        Stamp(END),
    ]
    program.task("main", code, start=True)
    return program


def padded(rows: int, dtype: str = "float32") -> int:
    """`rows` rounded up to 16 bytes."""
    element_bytes = 2 if dtype == "float16" else 4
    per_line = LINE_BYTES // element_bytes
    return math.ceil(rows / per_line) * per_line


def one_way(words: int, hops: int) -> FabricProgram:
    """An asynchronous send from the western-most PE, whose arrival starts a task `hops` away."""
    program = FabricProgram(hops + 1)
    first = (0, 0)
    between = (0, slice(1, hops))
    last = (0, hops)
    program.route("out", first, receive="ramp", send="east")
    if hops > 1:
        program.route("out", between, receive="west", send="east")
    program.route("out", last, receive="west", send="ramp")
    data: Memory = program.buffer("data", words)[:]
    speak = copy(send("out"), data, thread=1)
    listen = copy(data, receive("out"), thread=1, activate="arrived")
    program.task("send", [speak], first, start=True)
    program.task("receive", [listen], last, start=True)
    program.task("arrived", [Stamp(END)], last)
    return program


__all__ = ["END", "START", "matvec", "one_way", "padded", "vector_op", "vector_ops"]
