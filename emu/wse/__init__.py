"""The wafer: datasheets, what a PE can do, collectives, and programs for its fabric.

A kernel for the timeline is a function of one PE's tiles in SRAM, written in the instructions that
are listed here (`vector`, `fmac_map`, `reduce`, ...). A program for the fabric lays routes and says
what the PEs' tasks do, in `ops`; `programs` has collectives to put together, `trees` those along
which a reduce adds:

```python
import numpy as np
from emu.wse import WSE3, FabricProgram, ops, programs, stepper, trees

program = FabricProgram(width=8, height=1)
x = program.buffer("x", 40)                      # float32[40] in every PE's SRAM
row = programs.Line(program, "x")
double = programs.everywhere(program, ops.add(x[:], x[:], x[:]))
total = programs.reduce(row, x[:], trees.two_phase(8, 3), "sum")
(double + total).declare(program, "main", start=True)
run = stepper.run(program, WSE3.at(), {"x": np.ones((1, 8, 40), np.float32)})
print(run.values["x"][0, 0, :4], f"in {run.cycles} cycles")
```
"""

from emu.wse import trees
from emu.wse.collectives import programs
from emu.wse.collectives.chain_argmax.meaning import chain_argmax
from emu.wse.collectives.cross.meaning import cross
from emu.wse.collectives.gather.meaning import gather
from emu.wse.collectives.multicast.meaning import multicast
from emu.wse.collectives.multicast_2d.meaning import multicast_2d
from emu.wse.collectives.reduce.meaning import reduce
from emu.wse.collectives.ring_all_reduce.meaning import ring_all_reduce
from emu.wse.collectives.scatter.meaning import scatter
from emu.wse.collectives.shift.meaning import shift
from emu.wse.collectives.walk.meaning import walk
from emu.wse.datasheets.datasheet import (
    WSE2,
    WSE3,
    WSE3_SILICON,
    WaferSheet,
    at_clock,
    on_silicon,
)
from emu.wse.fabric import ops, stepper
from emu.wse.fabric.program import FabricProgram
from emu.wse.fabric.views.drawing import drawn
from emu.wse.pe.chosen_map import chosen_map, copy_chosen
from emu.wse.pe.elementwise import (
    lookup_live,
    row_live,
    scalar_of_one_live,
    scalar_of_two_live,
    scalar_select_live,
    select_live,
    vector_live,
    vector_of_one_live,
)
from emu.wse.pe.isa import copy, copy_into, fill, rope, sram_tile, vector, vector_scale
from emu.wse.pe.maps import fmac_map, score_map, value_map
from emu.wse.pe.narrow import narrow
from emu.wse.pe.nibbles import widen_nibbles
from emu.wse.pe.packed import widen_live
from emu.wse.pe.ranking import (
    best_sums,
    listed,
    of_best_blocks,
    outranked,
    renumbered,
)
from emu.wse.pe.scalar import (
    argmax,
    exp,
    fold,
    lookup,
    reciprocal,
    rsqrt_mean,
    silu,
    square_sum,
)

__all__ = [
    "FabricProgram",
    "WSE2",
    "WSE3",
    "WSE3_SILICON",
    "WaferSheet",
    "argmax",
    "at_clock",
    "best_sums",
    "chain_argmax",
    "chosen_map",
    "copy",
    "copy_chosen",
    "copy_into",
    "cross",
    "drawn",
    "exp",
    "fill",
    "fmac_map",
    "fold",
    "gather",
    "listed",
    "lookup",
    "lookup_live",
    "multicast",
    "narrow",
    "multicast_2d",
    "of_best_blocks",
    "on_silicon",
    "ops",
    "outranked",
    "programs",
    "reciprocal",
    "reduce",
    "renumbered",
    "ring_all_reduce",
    "rope",
    "row_live",
    "rsqrt_mean",
    "scalar_of_one_live",
    "scalar_of_two_live",
    "scalar_select_live",
    "scatter",
    "score_map",
    "select_live",
    "shift",
    "silu",
    "square_sum",
    "sram_tile",
    "stepper",
    "trees",
    "value_map",
    "vector",
    "vector_live",
    "vector_of_one_live",
    "vector_scale",
    "walk",
    "widen_live",
    "widen_nibbles",
]
