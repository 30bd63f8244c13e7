"""When an activation that walks to the next region has come to each PE of its line.

One stream from the last PE: it crosses the gap, then passes the PEs of the next region from the
first on. On a WSE-3 with a gap of 10 hops, PE 2 is 2 + 10 + 1 hops away: its first word comes
1 + 2 ramps of 2 + 13 hops of 2 = 31 cycles after the first push.
"""

import numpy as np

from emu.datasheet import Device
from emu.instruction import Crossing, Operand
from emu.wse.pe.laws import known
from emu.wse.timeline.calls import Call, Ends, Mesh
from emu.wse.timeline.times import Times
from emu.wse.timeline.wires import Wires
from emu.wse.wavelets import words


def arrival(
    device: Device,
    mesh: Mesh,
    crossing: Crossing,
    *operands: Operand,
    axis: str,
) -> Ends:
    """The arrival rule of `wse.walk`."""
    _dst, x, index, gap = operands
    here = Call.on(device, mesh, crossing, gap, axis=axis, group=mesh[axis])
    # A gap does not count the hop across the boundary (`regions.gap_hops`): PE 2, behind a gap of
    # 10, is 2 + 10 + 1 hops away.
    hops_over_mesh = known(index) + known(gap) + 1
    hops = here.lines.take(hops_over_mesh)
    tile_words = int(words(x.size, x.dtype))
    last = walk(here.armed, tile_words, hops, here.wires)
    # What follows is a task of its own: a switch to it, where an operation in a sequence has a
    # drain.
    return here.ends(last + 1 + int(device.task_switch_cycles))


def walk(armed: Times, words: int, hops: np.ndarray, wires: Wires) -> Times:
    """When each PE has taken the last word, after which its task starts.

    Args:
      armed: when each PE could dispatch its operation; the last one sends.
      words: wavelets of the tile.
      hops: from the sender to each PE of the next region, like `armed`.
      wires: of the fabric.
    """
    ready = armed + wires.setup_cycles
    sent = ready[:, -1:]
    came = sent + wires.latency(hops)
    return np.maximum(ready, came) + wires.span(words)


__all__ = ["arrival", "walk"]
