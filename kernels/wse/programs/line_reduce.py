"""The reduce of a row of PEs as its published measurements timed it: start together, stamp, add."""

from emu.wse.collectives import programs
from emu.wse.fabric.ops import Load, Stamp
from emu.wse.fabric.program import FabricProgram
from emu.wse.trees import Tree

DESCRIPTORS = 2
START = "start"
END = "end"


def line_reduce(tree: Tree, words: int) -> FabricProgram:
    """A row of PEs; the root's buffer `x`, `float32[words]`, becomes the sum of all.

    Every PE's one task starts in cycle 0, reads the time, loads two descriptor registers, does its
    vector operations and reads the time again.
    """
    program = FabricProgram(tree.pes)
    x = program.buffer("x", words)[:]
    row = programs.Line(program, "x")
    before = programs.everywhere(program, Stamp(START), Load(DESCRIPTORS))
    adds = programs.reduce(row, x, tree, "sum")
    after = programs.everywhere(program, Stamp(END))
    code = before + adds + after
    code.declare(program, "main", start=True)
    return program


__all__ = ["END", "START", "line_reduce"]
