"""Rings as deep as SBUF and PSUM allow: how far loads and products may run ahead of their readers.

All rings start with one buffer. The one with the fewest gets one more, those that a DMA fills
before others, as long as everything fits and none has more than `DEEPEST`.
"""

import dataclasses
from collections.abc import Sequence

from emu.trainium.nki.passes.effect import Effect
from emu.trainium.nki.passes.memory import Alive, Memory
from emu.trainium.nki.passes.uses import is_transfer, uses
from emu.trainium.nki.tree import Node, Recorded, Tensor

NAME = "depth"
# More hide no more of a load's 2 us beside the time of as many loads.
DEEPEST = 8


def apply(recorded: Recorded, memory: Memory) -> tuple[Recorded, Effect]:
    """Gives every tile that is declared in a loop as many buffers as there is room for."""
    depths = _depths(recorded.body, memory)
    result = dataclasses.replace(recorded, depths=depths)
    room = Alive(recorded.body).room(depths)
    deep = sorted(depths.values())
    buffers = f"{deep[0]} to {deep[-1]} buffers" if deep else "no rings"
    said = (
        f"{buffers}, SBUF {room.sbuf_bytes / 1024:,.0f} of "
        f"{memory.sbuf_bytes / 1024:,.0f} KiB a partition, PSUM "
        f"{room.psum_bytes / 1024:,.1f} of {memory.psum_bytes / 1024:,.0f} KiB"
    )
    return result, Effect(NAME, said)


def _depths(body: Sequence[Node], memory: Memory) -> dict[Tensor, int]:
    alive = Alive(body)
    rings = {
        each.tensor: 1
        for each in alive.scopes
        if any(loop.count > 1 for loop in each.loops) and each.tensor.space != "hbm"
    }
    by_dma = {
        tensor
        for tensor, writes in uses(body).writes.items()
        if all(is_transfer(use.operation) for use in writes)
    }
    full: set[Tensor] = set()
    while len(full) < len(rings):
        left = [tensor for tensor in rings if tensor not in full]
        tensor = min(left, key=lambda each: (rings[each], each not in by_dma))
        trial = {**rings, tensor: rings[tensor] + 1}
        fits = trial[tensor] <= DEEPEST and memory.holds(alive.room(trial))
        if fits:
            rings = trial
        else:
            full.add(tensor)
    return rings


__all__ = ["NAME", "apply"]
