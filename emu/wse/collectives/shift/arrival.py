"""When a cyclic shift is done: one step of a ring whose places are the PEs' numbers.

A step with numbers is in `emu.wse.timeline.folded_ring`. Backwards the ring is followed the other
way, from place 0 on, which is even either way.
"""

import numpy as np

from emu.datasheet import Device
from emu.instruction import Crossing, Operand
from emu.wse.timeline.calls import Call, Ends, Mesh
from emu.wse.timeline.folded_ring import Ring, ring_hops
from emu.wse.timeline.times import Times
from emu.wse.timeline.wires import Wires
from emu.wse.wavelets import words


def arrival(
    device: Device,
    mesh: Mesh,
    crossing: Crossing,
    *operands: Operand,
    axis: str,
    by: int,
    size: int,
) -> Ends:
    """The arrival rule of `wse.shift`."""
    _dst, x, index = operands
    here = Call.on(device, mesh, crossing, index, axis=axis, group=size)
    tile_words = int(words(x.size, x.dtype))
    return here.ends(shift(here.armed, tile_words, by, here.wires))


def shift(armed: Times, words: int, by: int, wires: Wires) -> Times:
    """When each place can dispatch what follows.

    Args:
      armed: `int64[groups, places, lines]`, when each place of the ring could start.
      words: wavelets of a tile.
      by: 1 to the next place, -1 to the one before.
      wires: of the fabric.
    """
    pes = armed.shape[1]
    if pes == 1:
        return armed
    # Place 0 is even either way.
    # Four places are followed as 0 1 2 3, and backwards as 0 3 2 1.
    way = np.arange(pes) if by == 1 else -np.arange(pes) % pes
    ring = Ring(armed[:, way], hops_of_sends(pes, by)[way], words, wires)
    ring.step()
    done = np.empty_like(armed)
    done[:, way] = ring.dispatch
    return done


def hops_of_sends(pes: int, by: int) -> np.ndarray:
    """Hops that each place's tile goes, to the next place or to the one before."""
    # Backwards, place i sends over the way that place i - 1 has forwards.
    return np.roll(ring_hops(pes), 0 if by == 1 else 1)


__all__ = ["arrival", "hops_of_sends", "shift"]
