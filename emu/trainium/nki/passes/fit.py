"""The literal reading's rings where two buffers of each are more than the chip holds.

NKI does not say how many buffers a tile of a loop has. Two are assumed (`nki.rings`); where that
does not fit, the largest rings of the memory that is too small have one, one ring after another.
"""

import dataclasses

from emu.trainium.nki.passes.memory import Alive, Memory
from emu.trainium.nki.rings import DEPTH, Room
from emu.trainium.nki.scopes import Buffer
from emu.trainium.nki.tree import Recorded, Tensor


def fitted(recorded: Recorded, memory: Memory) -> Recorded:
    """The kernel with `depths` of 1 for as few rings as it takes, or for all of them."""
    alive = Alive(recorded.body)
    depths: dict[Tensor, int] = {}
    rings = [buffer for buffer in alive.scopes if _is_ring(buffer)]
    for ring in sorted(rings, key=lambda each: -each.partition_bytes):
        taken = alive.room(depths, DEPTH)
        if memory.holds(taken):
            break
        if _is_short(ring.tensor.space, taken, memory):
            depths[ring.tensor] = 1
    return dataclasses.replace(recorded, depths=depths)


def _is_ring(buffer: Buffer) -> bool:
    on_chip = buffer.tensor.space != "hbm"
    return on_chip and any(loop.count > 1 for loop in buffer.loops)


def _is_short(space: str, taken: Room, memory: Memory) -> bool:
    if space == "psum":
        return taken.psum_bytes > memory.psum_bytes
    return taken.sbuf_bytes > memory.sbuf_bytes


__all__ = ["fitted"]
