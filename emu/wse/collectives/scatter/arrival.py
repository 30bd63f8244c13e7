"""When a scatter is done: the first PE sends the nearest one's block first.

Three PEs of a WSE-3 that start together, blocks of five words. PE 0 takes 8 cycles to copy its own;
a set-up takes 4, so does a drain, a way over one hop 7 and over two 9:

    PE                     0               1               2
    block of PE 1
      first element        8 + 4 = 12      12 + 7 = 19
      last element         14              23
      next dispatch        14 + 5 = 19     23 + 5 = 28
    block of PE 2
      first element        19 + 4 = 23                     23 + 9 = 32
      last element         25                              36
      next dispatch        25 + 5 = 30                     36 + 5 = 41

Exact where nobody is late. Neglected: that a late receiver holds up blocks behind its own.
"""

import math

import numpy as np

from emu.datasheet import Device
from emu.instruction import Crossing, Operand
from emu.wse.timeline.blocks import own_block_cycles
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
    armed: Times,
    words: int,
    copy_cycles: int,
    wires: Wires,
    turned: bool = False,
) -> Times:
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
    dispatch = armed[:, 0] + copy_cycles
    control_cycles = wires.gap_cycles + 1  # of its one wavelet
    pes = armed.shape[1]
    span = wires.span(words)
    for pe in range(1, pes):
        hops = pe
        first = dispatch + wires.setup_cycles
        came = first + wires.latency(hops)
        ready = armed[:, pe] + wires.setup_cycles
        taken = np.maximum(ready, came)
        last_taken = taken + span
        done[:, pe] = wires.dispatch_after(last_taken)
        sent = first + wires.sending(words)
        room = wires.room(hops)
        if words > room:
            # Its last word waits until the receiver has taken those that do not fit before.
            # 40 words over 2 hops of a WSE-3, room for 27 and a credit of 5: word 40 is pushed 5
            # cycles after word 13 was taken, which is 27 cycles before word 40 is.
            waits_until = last_taken - room + wires.credit(hops)
            sent = np.maximum(sent, waits_until)
        dispatch = wires.dispatch_after(sent)
        is_last = pe + 1 == pes
        # After the last block there is no other for its receiver's router to pass on.
        if turned and not is_last:
            dispatch = dispatch + control_cycles
    done[:, 0] = dispatch
    return done


__all__ = ["arrival", "scatter"]
