"""The reduce trees that have names, by those of HPDC'24 (arXiv 2404.15888) and WaferLLM's.

WaferLLM is arXiv 2502.04563.
"""

import functools
from collections.abc import Iterable, Sequence

from emu.errors import LimitExceeded
from emu.wse.trees.tree import Tree


def _tree(children: Sequence[Sequence[int]], stores: Iterable[int] = ()) -> Tree:
    return Tree(tuple(tuple(added) for added in children), tuple(stores))


def _no_children(pes: int) -> list[list[int]]:
    return [[] for _ in range(pes)]


@functools.lru_cache(maxsize=512)
def chain(pes: int) -> Tree:
    """Every PE sends to its western neighbour: `pes - 1` stages of one hop."""
    return _tree([[pe + 1] if pe + 1 < pes else [] for pe in range(pes)])


@functools.lru_cache(maxsize=512)
def star(pes: int) -> Tree:
    """Every PE sends to the first one, which adds the nearest stream first: one stage."""
    return _tree([range(1, pes), *[[]] * (pes - 1)])


@functools.lru_cache(maxsize=512)
def binary(pes: int) -> Tree:
    """HPDC'24's tree: in round k, PEs at odd multiples of 2^k send 2^k to the west.

    Of seven PEs, 1, 3 and 5 send one hop, then 2 and 6 send two, then 4 sends four; the last
    PE of an odd count sits out the first round.
    """
    children = _no_children(pes)
    rounds = max(0, (pes - 1).bit_length())
    for k in range(rounds):
        distance = 1 << k
        for sender in range(distance, pes, 2 * distance):
            children[sender - distance].append(sender)
    return _tree(children)


@functools.lru_cache(maxsize=2048)
def two_phase(pes: int, group: int) -> Tree:
    """A chain in each group of `group` PEs, and a chain of their first PEs; one chain if no more.

    The last group may be shorter. The eastern-most leader forwards its group's stream at once.
    """
    if group < 1:
        raise LimitExceeded(f"two_phase: group is {group}, must be 1 or more PEs")
    children: list[list[int]] = []
    for pe in range(pes):
        next_pe = pe + 1
        next_leader = pe + group
        chained = [next_pe] if next_pe < pes and next_pe % group else []
        leads = pe % group == 0 and next_leader < pes
        children.append(chained + ([next_leader] if leads else []))
    return _tree(children)


@functools.lru_cache(maxsize=2048)
def two_tree(pes: int, groups: int, *, stores: bool = False) -> Tree:
    """WaferLLM's tree of two levels: chains inward to a root inside each group, then over these.

    Groups have `g = pes / groups` PEs, rounded up; the last one may be shorter. A group's root is
    at offset `g // 2`, the whole root is that of group `groups // 2`. It adds its streams one after
    the other, those of its own group first, the western one before the eastern one.

    Twelve PEs in three groups have roots 2, 6 and 10. PE 6 adds PE 5's stream, then 7's, then those
    of roots 2 and 10.

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
    children = _no_children(pes)

    def inward(members: Sequence[int]) -> int:
        """Chains from both ends to the middle member, which is returned."""
        middle = members[len(members) // 2]
        for western, eastern in zip(members, members[1:], strict=False):
            if eastern <= middle:
                children[eastern].append(western)
            else:
                children[western].append(eastern)
        return middle

    size = -(-pes // groups)
    roots = []
    for first in range(0, pes, size):
        roots.append(inward(range(first, min(first + size, pes))))
    outermost = {roots[0], roots[-1]} - {inward(roots)}
    return _tree(children, sorted(pe for pe in outermost if stores and children[pe]))


__all__ = ["binary", "chain", "star", "two_phase", "two_tree"]
