"""Collectives as fabric programs: each lays routes and gives what the PEs do, to be put together.

```python
line = Line(program, "x")
total = everywhere(program, *setup) + reduce(line, x, tree, "sum") + multicast(line, x, "out")
total.declare(program, "main", start=True)
```
"""

from emu.wse.collectives.gather.program import gather
from emu.wse.collectives.multicast.program import multicast
from emu.wse.collectives.multicast_2d.program import multicast_2d
from emu.wse.collectives.reduce.over_rectangle import reduce_2d, reduce_snake
from emu.wse.collectives.reduce.program import rearm, reduce
from emu.wse.collectives.ring_all_reduce.program import ring_all_reduce
from emu.wse.collectives.scatter.program import scatter
from emu.wse.collectives.shift.program import shift
from emu.wse.fabric.layout.code import Code, code, everywhere, on_line
from emu.wse.fabric.layout.folded_ring import ring_places, ring_streams
from emu.wse.fabric.layout.line import Line

__all__ = [
    "Code",
    "Line",
    "code",
    "everywhere",
    "gather",
    "multicast",
    "multicast_2d",
    "on_line",
    "rearm",
    "reduce",
    "reduce_2d",
    "reduce_snake",
    "ring_all_reduce",
    "ring_places",
    "ring_streams",
    "scatter",
    "shift",
]
