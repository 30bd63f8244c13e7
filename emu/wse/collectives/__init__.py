"""Collectives as fabric programs: each lays routes and gives what the PEs do, to be put together.

line = Line(program, "x")
code = everywhere(program, *setup) + reduce(line, x, tree, "sum") + broadcast(line, x, "out")
code.declare(program, "main", start=True)
"""

from emu.wse.collectives.broadcast import broadcast
from emu.wse.collectives.code import Code, code, everywhere
from emu.wse.collectives.line import Line
from emu.wse.collectives.reduce import rearm, reduce

__all__ = ["Code", "Line", "broadcast", "code", "everywhere", "rearm", "reduce"]
