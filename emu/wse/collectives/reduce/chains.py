"""A reduce tree cut into chains, in which each PE streams through what the next one sends."""

import dataclasses
import functools

import numpy as np

from emu.wse.trees.tree import Tree

NOBODY = -1


@dataclasses.dataclass(frozen=True)
class Chains:
    """Chains of one length: each member streams the next one through, the last sends from memory.

    Attributes:
      members: `[chains, length]`, the one nearest to the root first.
      hops: `[chains, length]` from a member to the one before; the first one's to its receiver.
      into_memory: `[chains, length, most]`, the children added into memory before; `NOBODY` where
        there are fewer.
    """

    members: np.ndarray
    hops: np.ndarray
    into_memory: np.ndarray


@functools.lru_cache(maxsize=512)
def chains_of(tree: Tree) -> tuple[Chains, ...]:
    """A tree's chains, those first whose streams others add, else from west to east.

    `two_phase(8, 3)` has three chains on two levels: on the first 1 <- 2 and 4 <- 5, whose heads
    others add into memory, on the second 0 <- 3 <- 6 <- 7, in which PE 6 streams its own group's
    last PE through.
    """
    level: dict[int, int] = {}
    by_level_and_length: dict[tuple[int, int], list[list[int]]] = {}
    heads = {tree.root}
    for children in tree.into_memory:
        heads.update(children)
    # A head comes after its parent in `order`, so backwards all that a chain adds has its level.
    for head in reversed(tree.order):
        if head not in heads:
            continue
        chain = _chain(tree, head)
        highest = 0
        for pe in chain:
            for child in tree.into_memory[pe]:
                highest = max(highest, level[child])
        level[head] = 1 + highest
        key = (level[head], len(chain))
        by_level_and_length.setdefault(key, []).append(chain)
    found = []
    for key in sorted(by_level_and_length):
        west_to_east = sorted(by_level_and_length[key])
        found.append(_stacked(tree, west_to_east))
    return tuple(found)


def _chain(tree: Tree, head: int) -> list[int]:
    """A head, the child that it streams through, that one's, and so on."""
    chain = [head]
    while streamed := tree.streamed[chain[-1]]:
        chain.extend(streamed)
    return chain


def _stacked(tree: Tree, chains: list[list[int]]) -> Chains:
    """Chains of one length as arrays."""
    members = np.array(chains)
    most = max(len(tree.into_memory[pe]) for pe in members.flat)
    into_memory = np.full((*members.shape, most), NOBODY)
    for row, chain in enumerate(chains):
        for place, pe in enumerate(chain):
            children = tree.into_memory[pe]
            into_memory[row, place, : len(children)] = children
    hops = np.array(tree.hops)[members]
    return Chains(members, hops, into_memory)


__all__ = ["NOBODY", "Chains", "chains_of"]
