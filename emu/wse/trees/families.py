"""The reduce trees that have names, by those of HPDC'24 (arXiv 2404.15888) and WaferLLM's.

WaferLLM is arXiv 2502.04563.
"""

import functools
import itertools
from collections.abc import Iterable, Sequence

from emu import given
from emu.wse.trees.tree import Tree

Children = list[list[int]]
"""For each PE those whose streams it adds, while a tree is being made."""


def no_children(pes: int) -> Children:
    """PEs none of which sends to another yet."""
    return [[] for _ in range(given.whole("tree: PEs", pes, 1))]


def grouped_chains(pes: int, group: int) -> Children:
    """A chain to the first PE of each group; the last group may be shorter."""
    children = no_children(pes)
    for sender in range(1, pes):
        leads = sender % group == 0
        if not leads:
            children[sender - 1].append(sender)
    return children


def tree_of(children: Children, stores: Iterable[int] = ()) -> Tree:
    """The tree that was made."""
    return Tree(tuple(map(tuple, children)), tuple(stores))


@functools.lru_cache(maxsize=512)
def chain(pes: int) -> Tree:
    """Every PE sends to its western neighbour: `pes - 1` stages of one hop."""
    children = grouped_chains(pes, group=pes)
    return tree_of(children)


@functools.lru_cache(maxsize=512)
def star(pes: int) -> Tree:
    """Every PE sends to the first one, which adds the nearest stream first: one stage."""
    children = no_children(pes)
    children[0].extend(range(1, pes))
    return tree_of(children)


@functools.lru_cache(maxsize=512)
def binary(pes: int) -> Tree:
    """HPDC'24's tree: in round k, PEs at odd multiples of 2^k send 2^k to the west.

    Of seven PEs, 1, 3 and 5 send one hop, then 2 and 6 send two, then 4 sends four; the last
    PE of an odd count sits out the first round.
    """
    children = no_children(pes)
    distance = 1
    while distance < pes:
        # Rounds are in this order, so each PE's children are too: a nearer stream, whose subtree is
        # smaller, is added before a farther one.
        for sender in range(distance, pes, 2 * distance):
            children[sender - distance].append(sender)
        distance *= 2
    return tree_of(children)


@functools.lru_cache(maxsize=2048)
def two_phase(pes: int, group: int) -> Tree:
    """A chain in each group of `group` PEs, and a chain of their first PEs; one chain if no more.

    The last group may be shorter. The eastern-most leader forwards its group's stream at once.
    """
    given.whole("two_phase: group", group, 1)
    children = grouped_chains(pes, group)
    for leader in range(group, pes, group):
        # Behind the chain of its own group, whose stream is the nearer one and is added first.
        children[leader - group].append(leader)
    return tree_of(children)


@functools.lru_cache(maxsize=2048)
def two_tree(pes: int, groups: int, *, stores: bool = False) -> Tree:
    """WaferLLM's tree of two levels: chains inward to a root inside each group, then over these.

    Groups have `g = pes / groups` PEs, rounded up; the last one may be shorter. A group's root is
    at offset `g // 2`, the whole root is that of group `groups // 2`. It adds its streams one after
    the other, those of its own group first, the eastern one before the western one: the west is the
    longer side of an even number, so its stream comes last.

    Twelve PEs in three groups have roots 2, 6 and 10. PE 6 adds PE 7's stream, then 5's, then those
    of roots 10 and 2.

    Args:
      pes: of the line.
      groups: of PEs.
      stores: the outermost groups' roots, which no other root sends to, store as WaferLLM's do;
        else they stream their own group's last stream through, a gap and its length sooner.
    """
    given.whole("two_tree: groups", groups, 1, given.whole("two_tree: PEs", pes, 1))
    children = no_children(pes)

    def inward(members: Sequence[int]) -> int:
        """Chains from both ends to the middle member, which is returned."""
        middle = members[len(members) // 2]
        for western, eastern in reversed(list(itertools.pairwise(members))):
            # Of PEs 4 5 6 7 the middle is 6: 4 -> 5 -> 6 <- 7.
            if eastern <= middle:
                children[eastern].append(western)
            else:
                children[western].append(eastern)
        return middle

    size = -(-pes // groups)
    roots = []
    for first in range(0, pes, size):
        end = min(first + size, pes)
        roots.append(inward(range(first, end)))
    whole_root = inward(roots)
    if not stores:
        return tree_of(children)
    # The root does not send, and a group of one PE has no stream to store.
    outermost = {roots[0], roots[-1]} - {whole_root}
    storing = [pe for pe in outermost if children[pe]]
    return tree_of(children, sorted(storing))


__all__ = [
    "binary",
    "chain",
    "grouped_chains",
    "no_children",
    "star",
    "tree_of",
    "two_phase",
    "two_tree",
]
