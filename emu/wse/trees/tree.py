"""A reduce tree on a line of PEs, as data: who sends to whom, and in which order a PE adds.

A PE with several children adds the streams of all but the last into its memory, one after the
other, and streams the last one: fabric in + memory -> fabric out, the root into memory. A PE that
stores adds all of them into its memory and sends the sum from there.

Groups of three over eight PEs (`two_phase(8, 3)`), an arrow for a stream, the root being PE 0:

    PE         0   1   2   3   4   5   6   7
    chains     0 <-1 <-2   3 <-4 <-5   6 <-7
    leaders    0 <---------3 <---------6

    children       (1, 3)  (2,)  ()  (4, 6)  (5,)  ()  (7,)  ()
    into_memory    (1,)    ()    ()  (4,)    ()    ()  ()    ()
    streamed       (3,)    (2,)  ()  (6,)    (5,)  ()  (7,)  ()
    hops           0       1     1   3       1     1   3     1

PE 3 first adds PE 4's stream to its own tile, in memory. Then each word of PE 6's stream meets a
word of that sum and goes on to PE 0 at once.
"""

import dataclasses
import functools

from emu.errors import LimitExceeded

NO_PARENT = -1


@dataclasses.dataclass(frozen=True)
class Tree:
    """A rooted tree over the PEs of a line.

    Attributes:
      children: for each PE, in the order in which it adds them, the PEs whose streams it adds.
      stores: PEs that have all streams in memory before they send.

    Raises:
      LimitExceeded: the children do not make one tree of all PEs, or `stores` names a PE that has
        nothing to store: a leaf, or the root, which does not send.
    """

    children: tuple[tuple[int, ...], ...]
    stores: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        # Naming every PE but one once is not enough: with children (), (2,) and (1,), PEs 1 and 2
        # send to each other, and PE 0 is a root that reaches neither.
        sent = sorted(child for added in self.children for child in added)
        others = [pe for pe in range(self.pes) if pe != self.root]
        if sent != others or len(self.order) != self.pes:
            raise LimitExceeded(
                f"tree of {self.pes} PEs: children {sent} must name every PE but one root once and "
                "lead back to it; let each PE send to one other, without a cycle"
            )
        add_and_send = set(self.parent) - {NO_PARENT, self.root}
        if idle := sorted(set(self.stores) - add_and_send):
            raise LimitExceeded(
                f"tree of {self.pes} PEs: stores names {idle}, must name PEs that add streams and "
                f"send; leave out the root, {self.root}, and leaves"
            )

    @functools.cached_property
    def _hash(self) -> int:
        return hash((self.children, self.stores))

    def __hash__(self) -> int:
        # A tree is a parameter of instructions and is hashed at each: once is enough.
        return self._hash

    @property
    def pes(self) -> int:
        return len(self.children)

    @functools.cached_property
    def parent(self) -> tuple[int, ...]:
        """For each PE the one it sends to; the root's is `NO_PARENT`."""
        parents = [NO_PARENT] * self.pes
        for pe, added in enumerate(self.children):
            for child in added:
                parents[child] = pe
        return tuple(parents)

    @functools.cached_property
    def into_memory(self) -> tuple[tuple[int, ...], ...]:
        """For each PE the children that it adds into memory before its last operation.

        That is to stream its last child through, or to send from memory where none is left.
        """
        stores = set(self.stores)
        before = []
        for pe, added in enumerate(self.children):
            # A leaf has none either way, and sends its own tile from memory.
            before.append(added if pe in stores else added[:-1])
        return tuple(before)

    @functools.cached_property
    def streamed(self) -> tuple[tuple[int, ...], ...]:
        """For each PE the last child, unless it has none or sends from memory."""
        streamed = []
        for added, before in zip(self.children, self.into_memory, strict=True):
            streamed.append(added[len(before) :])
        return tuple(streamed)

    @functools.cached_property
    def root(self) -> int:
        return self.parent.index(NO_PARENT) if NO_PARENT in self.parent else 0

    @functools.cached_property
    def order(self) -> tuple[int, ...]:
        """The PEs reached from the root, parents before children."""
        reached = [self.root]
        for pe in reached:
            if len(reached) > self.pes:  # a PE is named twice: no tree
                break
            reached.extend(self.children[pe])
        return tuple(reached)

    @functools.cached_property
    def depth(self) -> int:
        """Dependent PEs on the longest way to the root."""
        levels = [0] * self.pes
        for pe in self.order[1:]:
            levels[pe] = levels[self.parent[pe]] + 1
        return max(levels)

    @functools.cached_property
    def hops(self) -> tuple[int, ...]:
        """For each PE the routers its stream crosses on its way; 0 for the root."""
        crossed = []
        for pe, parent in enumerate(self.parent):
            crossed.append(0 if parent == NO_PARENT else abs(pe - parent))
        return tuple(crossed)


__all__ = ["NO_PARENT", "Tree"]
