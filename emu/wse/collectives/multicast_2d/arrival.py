"""When a multicast from the corner of a mesh has arrived, on every PE.

One stream: routers of row 0 forward it to the east, to the south and to their PE at once, so a PE
is as many hops away as its row and its column say together.

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
    done = multicast_2d(armed, int(words(x.size, x.dtype)), wires(device))
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
    hops = np.arange(rows)[:, None] + np.arange(cols)
    first = armed[0, 0] + wires.setup_cycles
    ready = armed + wires.setup_cycles
    last = np.maximum(ready, first + wires.latency(hops)) + wires.span(words)
    last[0, 0] = first + wires.sending(words)
    return wires.dispatch_after(last)


__all__ = ["arrival", "multicast_2d"]
