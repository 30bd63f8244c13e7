"""Whether a tree fits on the chip, by the same count as the lowering's (`nki.rings`).

Passes ask it of many depths of one tree's rings, so what is alive together is found once.
"""

import dataclasses
from collections.abc import Mapping, Sequence

from emu.datasheet import Device
from emu.trainium.nki.rings import Room, depth, room_of
from emu.trainium.nki.scopes import Buffer, Scopes, scopes
from emu.trainium.nki.tree import Loop, Node, Operation, Tensor

# Of each partition of SBUF, which the vendor's compiler keeps for itself: its kernels take 224 KiB
# less 16 KiB on Trainium2 (nki-library, core/mlp/mlp_cte/mlp_cte_constants.py).
RESERVED_BYTES = 16 * 1024


@dataclasses.dataclass(frozen=True)
class Memory:
    """What one partition of SBUF holds, and one of PSUM."""

    sbuf_bytes: int
    psum_bytes: int

    def excess(self, body: Sequence[Node], space: str = "sbuf") -> int:
        """Bytes of a partition that a body needs beyond what there is; may be negative.

        Every ring is counted with one buffer.
        """
        room = Alive(body).room()
        if space == "psum":
            return room.psum_bytes - self.psum_bytes
        return room.sbuf_bytes - self.sbuf_bytes

    def holds(self, taken: Room) -> bool:
        """Whether that much is there."""
        fits = taken.sbuf_bytes <= self.sbuf_bytes
        return fits and taken.psum_bytes <= self.psum_bytes


def memory(device: Device) -> Memory:
    """That of one core."""
    partitions = device.partitions
    return Memory(
        sbuf_bytes=device.sbuf_bytes // partitions - RESERVED_BYTES,
        psum_bytes=device.psum_bytes // partitions,
    )


class Alive:
    """The buffers of a body that are held at the same time.

    Attributes:
      scopes: the buffers.
      together: sets of them, one for each point of the program at which more are held than before.
      nodes: for each of these the place of the node of the kernel's own body that it is in.
    """

    def __init__(self, body: Sequence[Node]) -> None:
        self.scopes: Scopes = scopes(body)
        self.bytes = {each: each.partition_bytes for each in self.scopes}
        self.used: dict[Node, set[Buffer]] = {}
        self._use(body)
        self.together: list[tuple[Buffer, ...]] = []
        self.nodes: list[int] = []
        self._points(body, (), None)

    def _use(self, body: Sequence[Node]) -> set[Buffer]:
        total: set[Buffer] = set()
        for node in body:
            if isinstance(node, Loop):
                found = self._use(node.body)
            elif isinstance(node, Operation):
                found = {self.scopes.of(access) for access in node.accesses}
            else:
                found = set().union(*map(self._use, node.bodies))
            self.used[node] = found
            total |= found
        return total

    def _points(
        self, body: Sequence[Node], around: tuple[Buffer, ...], root: int | None
    ) -> None:
        ends: dict[Buffer, int] = {}
        for place, node in enumerate(body):
            ends.update(dict.fromkeys(self.used[node], place))
        live: dict[Buffer, None] = {}
        for place, node in enumerate(body):
            declared = [
                each
                for each in self.scopes.declared.get(node, ())
                if each.tensor.space != "hbm"
            ]
            live.update(dict.fromkeys(declared))
            now = (*around, *live)
            at = place if root is None else root
            # Of a loop too: those inside may declare nothing of their own.
            if declared or root is None:
                self.together.append(now)
                self.nodes.append(at)
            if isinstance(node, Loop):
                self._points(node.body, now, at)
            if root is None:
                for buffer in [each for each in live if ends[each] == place]:
                    del live[buffer]

    def room(
        self, depths: Mapping[Tensor, int] | None = None, default: int = 1
    ) -> Room:
        """The most that is taken at once, with so many buffers in some tensors' rings."""
        peak = Room()
        for buffers in self.together:
            peak = peak.most(self.taken(buffers, depths, default))
        return peak

    def taken(
        self,
        buffers: Sequence[Buffer],
        depths: Mapping[Tensor, int] | None = None,
        default: int = 1,
    ) -> Room:
        """What some buffers take together."""
        total = Room()
        for buffer in buffers:
            count = depth(buffer, depths, default)
            nbytes = self.bytes[buffer]
            space = buffer.tensor.space
            total = total.plus(room_of(space, nbytes, buffer.packing, count))
        return total


__all__ = ["Alive", "Memory", "memory"]
