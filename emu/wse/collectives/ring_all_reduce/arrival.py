"""When a ring all-reduce is done: reduce-scatter, then all-gather, on a ring folded onto the line.

It is `2 (P - 1)` steps of the ring, in each of which a PE sends one chunk and receives one; see
`emu.wse.timeline.folded_ring` for one step with numbers.

Exact for any skew, as long as nothing else uses the links.
"""

import numpy as np

from emu.datasheet import Device
from emu.instruction import Crossing, Operand
from emu.wse.timeline.calls import Call, Ends, Mesh
from emu.wse.timeline.folded_ring import Ring, places, ring_hops
from emu.wse.timeline.times import Times
from emu.wse.timeline.wires import Wires
from emu.wse.wavelets import words


def arrival(
    device: Device,
    mesh: Mesh,
    crossing: Crossing,
    *operands: Operand,
    axis: str,
    op: str,
    group: int,
) -> Ends:
    """The arrival rule of `wse.ring_all_reduce`."""
    _dst, x, index = operands
    here = Call.on(device, mesh, crossing, index, axis=axis, group=group)
    chunk_words = int(words(x.size // group, x.dtype))
    return here.ends(ring_all_reduce(here.armed, chunk_words, here.wires))


def ring_all_reduce(armed: Times, words: int, wires: Wires) -> Times:
    """When each PE can dispatch what follows.

    Args:
      armed: when each PE could dispatch its first operation.
      words: wavelets of a chunk, a P-th of the vector.
      wires: of the fabric.
    """
    pes = armed.shape[1]
    if pes == 1:
        return armed
    line = places(pes)
    # The ring knows places, the line PEs: into that order here, and back below.
    ring = Ring(armed[:, line], ring_hops(pes), words, wires)
    # A step that adds and one that only copies take as long: the datapath takes a word an issue for
    # both.
    for _ in range(2 * (pes - 1)):
        ring.step()
    done = np.empty_like(armed)
    done[:, line] = ring.dispatch
    return done


__all__ = ["arrival", "ring_all_reduce"]
