"""When a multicast from the corner of a mesh has arrived, on every PE.

One stream: routers of row 0 forward it to the east, to the south and to their PE at once, so a PE
is as many hops away as its row and its column say together.

Three rows and four columns of a WSE-3 that start together, five words: the far corner is five hops
away, 1 + 2 ramps of 2 + 5 hops of 2 = 15 cycles. A set-up of 4 leads to the first push in cycle 4;
there the first word comes in cycle 19, the last in 23, and the next dispatch is a cycle and a drain
of 4 later, in 28.

Exact where nobody is late. Neglected: that a late receiver holds up others.
"""

import numpy as np

from emu.datasheet import Device
from emu.errors import LimitExceeded
from emu.instruction import Crossing, Operand
from emu.wse.timeline.calls import Ends, Mesh, begin
from emu.wse.timeline.wires import Wires, wires
from emu.wse.wavelets import words


def arrival(
    device: Device,
    mesh: Mesh,
    crossing: Crossing,
    *operands: Operand,
    axis: str,
    across: str,
) -> Ends:
    """The arrival rule of `wse.multicast_2d`."""
    _dst, x, _row, _column = operands
    if set(mesh) != {axis, across}:
        raise LimitExceeded(
            f"wse.multicast_2d: the mesh has axes {', '.join(mesh)}, must have {axis} and {across}"
        )
    armed = crossing.start_ticks + begin(device, True)
    # The formula takes `[axis, across]`.
    transposed = list(mesh) == [across, axis]
    armed = armed.T if transposed else armed
    tile_words = int(words(x.size, x.dtype))
    done = multicast_2d(armed, tile_words, wires(device))
    done = done.T if transposed else done
    return done, done


def multicast_2d(armed: np.ndarray, words: int, wires: Wires) -> np.ndarray:
    """When each PE can dispatch what follows.

    Args:
      armed: `int64[rows, cols]`, when each PE could dispatch its operation.
      words: wavelets sent.
      wires: of the fabric.
    """
    rows, cols = armed.shape
    # No route goes back, so a PE two rows and three columns away is 5 hops away by any of them.
    hops = np.arange(rows)[:, None] + np.arange(cols)
    first = armed[0, 0] + wires.setup_cycles
    ready = armed + wires.setup_cycles
    came = first + wires.latency(hops)
    last = np.maximum(ready, came) + wires.span(words)
    # The sender takes nothing: it is done with its last push.
    last[0, 0] = first + wires.sending(words)
    return wires.dispatch_after(last)


__all__ = ["arrival", "multicast_2d"]
