"""Reduce trees on a line of PEs, as data: who sends to whom, and in which order a PE adds.

A PE with several children adds the streams of all but the last into its memory, one after the
other, and streams the last one: fabric in + memory -> fabric out, the root into memory. A PE that
stores adds all of them into its memory and sends the sum from there. This makes every tree here;
names are those of HPDC'24 (arXiv 2404.15888) and of WaferLLM (arXiv 2502.04563).
"""

import dataclasses
import functools
from collections.abc import Iterable, Sequence

from emu.datasheet import Device
from emu.errors import LimitExceeded


@dataclasses.dataclass(frozen=True)
class Tree:
    """A rooted tree over the PEs of a line.

    Attributes:
      children: for each PE, in the order in which it adds them, the PEs whose streams it adds.
      stores: PEs that have all streams in memory before they send.
    """

    children: tuple[tuple[int, ...], ...]
    stores: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        sent = sorted(c for own in self.children for c in own)
        others = [i for i in range(self.pes) if i != self.root]
        if sent != others or len(self.order) != self.pes:
            raise LimitExceeded(
                f"tree of {self.pes} PEs: children {sent} must name every PE but one root once and "
                "lead back to it; let each PE send to one other, without a cycle"
            )
        if idle := sorted(set(self.stores) - (set(self.parent) - {-1, self.root})):
            raise LimitExceeded(
                f"tree of {self.pes} PEs: stores names {idle}, must name PEs that add streams and "
                f"send; leave out the root, {self.root}, and leaves"
            )

    @functools.cached_property
    def _hash(self) -> int:
        return hash((self.children, self.stores))

    def __hash__(self) -> int:
        return self._hash

    @property
    def pes(self) -> int:
        return len(self.children)

    @functools.cached_property
    def parent(self) -> tuple[int, ...]:
        """For each PE the one it sends to; the root's is -1."""
        out = [-1] * self.pes
        for i, own in enumerate(self.children):
            for c in own:
                out[c] = i
        return tuple(out)

    @functools.cached_property
    def aside(self) -> tuple[tuple[int, ...], ...]:
        """For each PE the children that it adds into memory before its last operation.

        That is to stream its last child through, or to send from memory where none is left.
        """
        stores = set(self.stores)
        return tuple(
            own if i in stores else own[:-1] for i, own in enumerate(self.children)
        )

    @functools.cached_property
    def streamed(self) -> tuple[tuple[int, ...], ...]:
        """For each PE the last child, unless it has none or sends from memory."""
        return tuple(
            own[len(a) :] for own, a in zip(self.children, self.aside, strict=True)
        )

    @functools.cached_property
    def root(self) -> int:
        return self.parent.index(-1) if -1 in self.parent else 0

    @functools.cached_property
    def order(self) -> tuple[int, ...]:
        """The PEs reached from the root, parents before children."""
        out = [self.root]
        for i in out:
            if len(out) > self.pes:
                break
            out.extend(self.children[i])
        return tuple(out)

    @functools.cached_property
    def depth(self) -> int:
        """Dependent PEs on the longest way to the root."""
        far = [0] * self.pes
        for i in self.order[1:]:
            far[i] = far[self.parent[i]] + 1
        return max(far)

    @functools.cached_property
    def hops(self) -> tuple[int, ...]:
        """For each PE the routers its stream crosses on its way; 0 for the root."""
        return tuple(abs(i - p) if p >= 0 else 0 for i, p in enumerate(self.parent))


def _tree(children: Sequence[Sequence[int]], stores: Iterable[int] = ()) -> Tree:
    return Tree(tuple(tuple(own) for own in children), tuple(stores))


@functools.lru_cache(maxsize=512)
def chain(pes: int) -> Tree:
    """Every PE sends to its western neighbour: `pes - 1` stages of one hop."""
    return _tree([[i + 1] if i + 1 < pes else [] for i in range(pes)])


@functools.lru_cache(maxsize=512)
def star(pes: int) -> Tree:
    """Every PE sends to the first one, which adds the nearest stream first: one stage."""
    return _tree([range(1, pes), *[[]] * (pes - 1)])


@functools.lru_cache(maxsize=512)
def binary(pes: int) -> Tree:
    """HPDC'24's tree: in round k, PEs at odd multiples of 2^k send 2^k to the west."""
    own: list[list[int]] = [[] for _ in range(pes)]
    for k in range(max(0, (pes - 1).bit_length())):
        for i in range(1 << k, pes, 2 << k):
            own[i - (1 << k)].append(i)
    return _tree(own)


@functools.lru_cache(maxsize=2048)
def two_phase(pes: int, group: int) -> Tree:
    """A chain in each group of `group` PEs, and a chain of their first PEs; one chain if no more.

    The last group may be shorter. The eastern-most leader forwards its group's stream at once.
    """
    if group < 1:
        raise LimitExceeded(f"two_phase: group is {group}, must be 1 or more PEs")
    own: list[list[int]] = []
    for i in range(pes):
        chained = [i + 1] if i + 1 < pes and (i + 1) % group else []
        leader = [i + group] if i % group == 0 and i + group < pes else []
        own.append(chained + leader)
    return _tree(own)


@functools.lru_cache(maxsize=2048)
def two_tree(pes: int, groups: int, *, stores: bool = False) -> Tree:
    """WaferLLM's tree of two levels: chains inward to a root inside each group, then over these.

    Groups have `g = pes / groups` PEs, rounded up; the last one may be shorter. A group's root is
    at offset `g // 2`, the whole root is that of group `groups // 2`. It adds its streams one after
    the other, those of its own group first, the western one before the eastern one.

    Args:
      pes: of the line.
      groups: of PEs.
      stores: the outermost groups' roots, which no other root sends to, store as WaferLLM's do;
        else they stream their own group's last stream through, a gap and its length sooner.
    """
    if not 1 <= groups <= pes:
        raise LimitExceeded(
            f"two_tree: {groups} groups, must be 1 to the {pes} PEs of the line"
        )
    own: list[list[int]] = [[] for _ in range(pes)]

    def inward(members: Sequence[int]) -> int:
        middle = members[len(members) // 2]
        for a, b in zip(members, members[1:], strict=False):
            sender, adder = (a, b) if b <= middle else (b, a)
            own[adder].append(sender)
        return middle

    g = -(-pes // groups)
    roots = [inward(range(at, min(at + g, pes))) for at in range(0, pes, g)]
    outermost = {roots[0], roots[-1]} - {inward(roots)}
    return _tree(own, sorted(i for i in outermost if stores and own[i]))


def model_cycles(tree: Tree, words: int, device: Device) -> float:
    """HPDC'24's estimate: max(contention, energy / links + distance) + depth x (2 ramps + 1).

    It knows neither set-up nor the gap between two operations of a PE; `arrival` does.
    """
    links = max(1, tree.pes - 1)
    contention = words * max(map(len, tree.children))
    reach = max(abs(i - tree.root) for i in (0, tree.pes - 1))
    flow = words * sum(tree.hops) / links + device.hop_cycles * reach
    return max(contention, flow) + (2 * device.ramp_cycles + 1) * tree.depth


__all__ = [
    "Tree",
    "binary",
    "chain",
    "model_cycles",
    "star",
    "two_phase",
    "two_tree",
]
