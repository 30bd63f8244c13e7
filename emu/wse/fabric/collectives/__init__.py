"""Collectives as fabric programs: each lays routes and gives what the PEs do, to be put together.

line = Line(program, "x")
code = everywhere(program, *setup) + reduce(line, x, tree, "sum") + broadcast(line, x, "out")
code.declare(program, "main", start=True)
"""

from emu.wse.fabric.collectives.broadcast import broadcast
from emu.wse.fabric.collectives.code import Code, code, everywhere
from emu.wse.fabric.collectives.gather import gather, scatter
from emu.wse.fabric.collectives.line import Line
from emu.wse.fabric.collectives.plane import broadcast_2d, reduce_2d, reduce_snake
from emu.wse.fabric.collectives.reduce import rearm, reduce
from emu.wse.fabric.collectives.ring import ring_all_reduce, shift

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
