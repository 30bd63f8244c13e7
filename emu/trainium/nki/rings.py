"""How many buffers each declaration of a kernel has, and what they take of SBUF and PSUM.

A tile that is declared inside a loop is a ring: its next turn uses the next buffer. How deep it is,
NKI does not say of most kernels. In the literal reading a kernel that rotates tiles itself, or
declares one outside of the loops, has what it wrote: one buffer each; a tile that each turn of a
loop has anew is a ring of two, or of one where that many do not fit (`passes.fit`).
"""

import dataclasses
import itertools
from collections.abc import Mapping, Sequence

from emu.datasheet import Packing, packed_bytes
from emu.trainium.nki.scopes import BANK_BYTES, Buffer, Scopes, bodies
from emu.trainium.nki.tree import Loop, Node, Operation, Tensor

DEPTH = 2
"""Buffers of a tile that is declared in a loop, unless somebody says otherwise."""


@dataclasses.dataclass(frozen=True)
class Room:
    """The most that is taken at once.

    Attributes:
      sbuf_bytes: of each partition.
      psum_bytes: of each partition, as tiles take them that have whole banks or share them.
    """

    sbuf_bytes: int = 0
    psum_bytes: int = 0

    def plus(self, other: "Room") -> "Room":
        """Both at once."""
        return Room(
            self.sbuf_bytes + other.sbuf_bytes, self.psum_bytes + other.psum_bytes
        )

    def most(self, other: "Room") -> "Room":
        """Either."""
        return Room(
            max(self.sbuf_bytes, other.sbuf_bytes),
            max(self.psum_bytes, other.psum_bytes),
        )


def depth(
    buffer: Buffer, depths: Mapping[Tensor, int] | None = None, default: int = DEPTH
) -> int:
    """How many buffers a declaration has.

    Args:
      buffer: what it makes.
      depths: of some tensors' rings.
      default: of all others.
    """
    if all(loop.count == 1 for loop in buffer.loops):
        return 1
    return (depths or {}).get(buffer.tensor, default)


def room_of(space: str, nbytes: int, packing: Packing, count: int = 1) -> Room:
    """What `count` buffers of `nbytes` a partition take."""
    if space == "psum":
        return Room(psum_bytes=count * packed_bytes(nbytes, BANK_BYTES, packing))
    return Room(sbuf_bytes=count * nbytes) if space == "sbuf" else Room()


def room(
    body: Sequence[Node],
    scopes: Scopes,
    depths: Mapping[Tensor, int] | None = None,
    default: int = DEPTH,
) -> Room:
    """What a kernel takes of SBUF and PSUM, as `emu.checks.memory` counts it.

    A tile of the kernel's own body lives from its first to its last use; a ring as long as the loop
    whose body declares it.
    """
    return _Taken(scopes, depths, default).of_body(body, is_loop=False)


class _Taken:
    def __init__(
        self, scopes: Scopes, depths: Mapping[Tensor, int] | None, default: int
    ) -> None:
        self.scopes = scopes
        self.depths = depths
        self.default = default

    def of_buffer(self, buffer: Buffer) -> Room:
        count = depth(buffer, self.depths, self.default)
        space = buffer.tensor.space
        return room_of(space, buffer.partition_bytes, buffer.packing, count)

    def of_body(self, body: Sequence[Node], is_loop: bool) -> Room:
        ends: dict[Buffer, int] = {}
        for number, node in enumerate(body):
            ends.update(dict.fromkeys(_used(node, self.scopes), number))
        live: dict[Buffer, Room] = {}
        peak = Room()
        for number, node in enumerate(body):
            for buffer in self.scopes.declared.get(node, ()):
                live[buffer] = self.of_buffer(buffer)
            now = Room()
            for each in live.values():
                now = now.plus(each)
            inside = Room()
            for inner in bodies(node):
                taken = self.of_body(inner, is_loop=isinstance(node, Loop))
                inside = inside.most(taken)
            peak = peak.most(now.plus(inside))
            if not is_loop:
                for buffer in [each for each in live if ends[each] == number]:
                    del live[buffer]
        return peak


def _used(node: Node, scopes: Scopes) -> set[Buffer]:
    if isinstance(node, Operation):
        return {scopes.of(access) for access in node.accesses}
    inner = itertools.chain.from_iterable(bodies(node))
    return set().union(*(_used(each, scopes) for each in inner))


__all__ = ["DEPTH", "Room", "depth", "room", "room_of"]
