"""Collectives as fabric programs: each lays routes and gives what the PEs do, to be put together.

line = Line(program, "x")
code = everywhere(program, *setup) + reduce(line, x, tree, "sum") + broadcast(line, x, "out")
code.declare(program, "main", start=True)
"""

from emu.wse.collectives.broadcast import broadcast
from emu.wse.collectives.code import Code, code, everywhere
from emu.wse.collectives.edge import gather, scatter
from emu.wse.collectives.line import Line
from emu.wse.collectives.plane import broadcast_2d, reduce_2d, reduce_snake
from emu.wse.collectives.reduce import rearm, reduce
from emu.wse.collectives.ring import ring_all_reduce, shift

__all__ = [
    "Code",
    "Line",
    "broadcast",
    "broadcast_2d",
    "code",
    "everywhere",
    "gather",
    "rearm",
    "reduce",
    "reduce_2d",
    "reduce_snake",
    "ring_all_reduce",
    "scatter",
    "shift",
]
