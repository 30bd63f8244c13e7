"""When a scatter is done: the first PE sends the nearest one's block first.

Exact where nobody is late. Neglected: that a late receiver holds up blocks behind its own.

Arrays are `int64[groups, pes, lines]` ticks.
"""

import math

import numpy as np

from emu.datasheet import Device
from emu.instruction import Crossing, Operand
from emu.wse.timeline.blocks import own_block_cycles
from emu.wse.timeline.calls import Call, Ends, Mesh
from emu.wse.timeline.wires import Wires
from emu.wse.wavelets import words


def arrival(
    device: Device,
    mesh: Mesh,
    crossing: Crossing,
    *operands: Operand,
    axis: str,
    group: int,
    ndim: int,
) -> Ends:
    """The arrival rule of `wse.scatter`."""
    dst, x, index = operands
    here = Call.on(device, mesh, crossing, index, axis=axis, group=group)
    copy_cycles = math.ceil(own_block_cycles(device, dst))
    block_words = int(words(dst.size, x.dtype))
    return here.ends(scatter(here.armed, block_words, copy_cycles, here.wires))


def scatter(
    armed: np.ndarray,
    words: int,
    copy_cycles: int,
    wires: Wires,
    turned: bool = False,
) -> np.ndarray:
    """When each PE has its own block from PE 0, which sends the nearest one's first.

    Args:
      armed: when each PE could dispatch its first operation.
      words: wavelets of a block.
      copy_cycles: of the first PE's own block, before it sends the others'.
      wires: of the fabric.
      turned: a control wavelet, an operation of its own, follows each block but the last and turns
        its receiver's router to pass on the next one.
    """
    done = armed.copy()
    dispatch = armed[:, :1] + copy_cycles
    control_cycles = wires.setup_cycles + 1 + wires.drain_cycles if turned else 0
    pes = armed.shape[1]
    span = wires.span(words)
    for hops in range(1, pes):
        first = dispatch + wires.setup_cycles
        ready = armed[:, hops : hops + 1] + wires.setup_cycles
        taken = np.maximum(ready, first + wires.latency(hops))
        done[:, hops : hops + 1] = wires.dispatch_after(taken + span)
        sent = first + wires.sending(words)
        if words > wires.room(hops):
            # Its last word waits until the receiver has taken those that do not fit before.
            waits_until = taken + span - wires.room(hops) + wires.credit(hops)
            sent = np.maximum(sent, waits_until)
        dispatch = wires.dispatch_after(sent)
        if hops + 1 < pes:
            dispatch = dispatch + control_cycles
    done[:, :1] = dispatch
    return done


__all__ = ["arrival", "scatter"]
