"""Collectives as fabric programs: each lays routes and gives what the PEs do, to be put together.

line = Line(program, "x")
code = everywhere(program, *setup) + reduce(line, x, tree, "sum") + broadcast(line, x, "out")
code.declare(program, "main", start=True)
"""

from emu.wse.collectives.gather.program import gather, scatter
from emu.wse.collectives.multicast.program import broadcast
from emu.wse.collectives.multicast_2d.program import (
    broadcast_2d,
    reduce_2d,
    reduce_snake,
)
from emu.wse.collectives.reduce.program import rearm, reduce
from emu.wse.fabric.layout.code import Code, code, everywhere
from emu.wse.fabric.layout.folded_ring import ring_all_reduce, shift
from emu.wse.fabric.layout.line import Line

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
