"""When a gather is done: a star that does not add, whose root copies its own block first.

The first PE takes the others' streams one after the other, the nearest first, as the root of a star
adds them; so the formula is the reduce's along `trees.star`.
"""

import math

import numpy as np

from emu.datasheet import Device
from emu.instruction import Crossing, Operand
from emu.wse import trees
from emu.wse.collectives.reduce.arrival import reduce
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
    """The arrival rule of `wse.gather`."""
    _dst, x, index = operands
    here = Call.on(device, mesh, crossing, index, axis=axis, group=group)
    copy_cycles = math.ceil(own_block_cycles(device, x))
    block_words = int(words(x.size, x.dtype))
    return here.ends(gather(here.armed, block_words, copy_cycles, here.wires))


def gather(
    armed: Times,
    words: int,
    copy_cycles: int,
    wires: Wires,
    turned: bool = False,
) -> Times:
    """When each PE can dispatch what follows.

    Args:
      armed: when each PE could dispatch its first operation.
      words: wavelets of a block.
      copy_cycles: of the first PE's own block, before it takes the others'.
      wires: of the fabric.
      turned: as `reduce` takes it.
    """
    ready = armed.copy()
    # For the others this is a root that comes late: their words wait in queues, and `reduce` tells
    # who is held up by it.
    ready[:, 0] += copy_cycles
    star = trees.star(armed.shape[1])
    # As if it added: an operation that takes a stream into memory costs the same either way.
    return reduce(ready, np.array(words).reshape(1, 1, 1), star, wires, turned)


__all__ = ["arrival", "gather"]
