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
    added = [child for children in tree.into_memory for child in children]
    from_root = {pe: n for n, pe in enumerate(tree.order)}
    # A head comes after its parent in `order`, so backwards all that a chain adds has its level.
    for head in sorted([tree.root, *added], key=lambda pe: -from_root[pe]):
        chain = [head]
        while tree.streamed[chain[-1]]:
            chain += tree.streamed[chain[-1]]
        below = [level[child] for pe in chain for child in tree.into_memory[pe]]
        level[head] = 1 + max(below, default=0)
        by_level_and_length.setdefault((level[head], len(chain)), []).append(chain)
    return tuple(
        _stacked(tree, sorted(by_level_and_length[key]))
        for key in sorted(by_level_and_length)
    )


def _stacked(tree: Tree, chains: list[list[int]]) -> Chains:
    """Chains of one length as arrays."""
    members = np.array(chains)
    most = max(len(tree.into_memory[pe]) for chain in chains for pe in chain)
    into_memory = np.full((*members.shape, most), NOBODY)
    for row, chain in enumerate(chains):
        for place, pe in enumerate(chain):
            children = tree.into_memory[pe]
            into_memory[row, place, : len(children)] = children
    return Chains(members, np.array(tree.hops)[members], into_memory)


__all__ = ["NOBODY", "Chains", "chains_of"]
