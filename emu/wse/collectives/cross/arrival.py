"""When an activation from another wafer has come to each PE of the next region.

Every row's stream runs out to the edge of its wafer. There all of them are one message of the
wafer's Ethernet, as only together they are the activation: it leaves when the last row's last word
has come, takes its bytes at the wafer's rate and the latency from edge to edge, and is counted in
as a whole. Then every row's stream runs in, and along the region's line as a walk does.

7,168 features in float32 on 1,024 rows of a WSE-3 are 7 words a row. Of PEs armed at once the last
word is sent 4 + 6 = 10 cycles later. 28,672 bytes at 150 GB/s are 211 cycles of 1.1 GHz, and a
latency of 2 us is 2,200: that makes 2,421. Behind 30 hops out and none in, a region's first PE has
one more; two wafers' ramps and queues of 5 cycles each and 31 hops of 2 are 72 cycles, and its last
word is there 6 later, at 2,499.
"""

import math

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
    """The arrival rule of `wse.cross`."""
    _dst, x, index, hops = operands
    # The message waits for the last row.
    here = Call.on(
        device,
        mesh,
        crossing,
        hops,
        axis=axis,
        group=mesh[axis],
        apart=False,
    )
    tile_words = int(words(x.size, x.dtype))
    lines = math.prod(mesh.values()) // mesh[axis]
    last = cross(
        here.armed,
        tile_words,
        here.lines.take(known(index) + known(hops) + 1),
        link_cycles(device, lines * x.nbytes),
        here.wires,
    )
    # As behind a walk: the words' completion starts a task.
    return here.ends(last + 1 + int(device.task_switch_cycles))


def link_cycles(device: Device, nbytes: int) -> int:
    """Cycles of a message between the edges of two wafers: its bytes, and the way's latency."""
    seconds = nbytes / device.io_bytes_per_s + device.edge_latency_s
    return device.ticks(seconds)


def cross(
    armed: Times,
    words: int,
    hops: np.ndarray,
    link_cycles: int,
    wires: Wires,
) -> Times:
    """When each PE has taken the last word, after which its task starts.

    Args:
      armed: when each PE could dispatch its operation; the last one of each line sends.
      words: wavelets of the tile.
      hops: of both wafers' fabrics, from the sender to each PE, like `armed`.
      link_cycles: of the whole message between the edges.
      wires: of both fabrics.
    """
    ready = armed + wires.setup_cycles
    # The message is complete when the last row's last word has come.
    sent = np.max(ready[:, -1:]) + wires.span(words) + link_cycles
    # On each wafer a stream passes an output queue, two ramps and an input queue. All rows have as
    # far to their edge, so it does not matter how the hops are dealt to the two wafers.
    came = sent + wires.latency(0) + wires.latency(hops)
    return np.maximum(ready, came) + wires.span(words)


__all__ = ["arrival", "cross", "link_cycles"]
