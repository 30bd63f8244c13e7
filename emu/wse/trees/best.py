"""The best reduce tree for a length and a machine: HPDC'24's Auto-Gen, a dynamic programme.

Trees are pre-order: PEs of a subtree stand side by side and its root is the first of them, so no
two streams cross. For a bound C on a PE's children, `least[d, c, p]` is the least energy (hops of
one word) of a tree of `p` PEs, at most `d` deep, whose root has at most `c` children and every
other PE at most C. The root's last child heads the eastern part of the line, hence

    least[d, c, p] = min over i of  least[d, c - 1, i] + least[d - 1, C, p - i] + i.

The estimate of `trees.model_cycles` is then least over C and d.
"""

import functools

import numpy as np

from emu.datasheet import Device
from emu.wse.trees import families as trees
from emu.wse.trees.families import Tree

EXACT_PES = 256  # the programme is O(pes^3) for each bound on the children
FAR = np.int64(1) << 40


def auto(pes: int, words: int, device: Device) -> Tree:
    """The tree of least estimated cycles for `words` wavelets.

    Up to `EXACT_PES` PEs it is the optimum over pre-order trees. On longer lines it is the best of
    chain, star, binary, every two-phase tree, and optimal trees over the first PEs of equal groups
    that are chained as in the two-phase tree.
    """
    return _auto(pes, words, device)


def _auto(pes: int, words: int, device: Device) -> Tree:
    hop = int(device.hop_cycles)
    stage = int(2 * device.ramp_cycles + 1)
    if pes <= EXACT_PES:
        return _exact(pes, words, hop, stage)
    found = [trees.chain(pes), trees.star(pes), trees.binary(pes)]
    found += [trees.two_phase(pes, s) for s in range(2, pes)]
    for group in range(-(-pes // EXACT_PES), 2 * -(-pes // EXACT_PES)):
        found.append(_grouped(pes, group, _exact(-(-pes // group), words, hop, stage)))
    return min(found, key=lambda t: trees.model_cycles(t, words, device))


def _grouped(pes: int, group: int, leaders: Tree) -> Tree:
    """A chain in each group, and `leaders` over the groups' first PEs."""
    own = [[i + 1] if i + 1 < pes and (i + 1) % group else [] for i in range(pes)]
    for leader, children in enumerate(leaders.children):
        own[leader * group] += [c * group for c in children]
    return Tree(tuple(map(tuple, own)))


@functools.lru_cache(maxsize=256)
def _exact(pes: int, words: int, hop: int, stage: int) -> Tree:
    if pes == 1:
        return trees.chain(1)
    links = pes - 1
    distance = hop * links
    # The chain's estimate.
    best = words + distance + stage * links
    chosen = trees.chain(pes)
    # Fewer children than this never cost more than the distance, which every tree pays.
    children = max(1, min(links, distance // words))
    while children <= links and words * children < best:
        deepest = min(links, int((best - words - distance) // stage))
        least = _least_energy(pes, children, deepest)
        for depth in range(1, deepest + 1):
            flow = words * least[depth, children, pes] / links + distance
            cycles = max(words * children, flow) + stage * depth
            if cycles < best:
                best = cycles
                chosen = _built(least, pes, children, depth)
        children += 1
    return chosen


def _least_energy(pes: int, most: int, deepest: int) -> np.ndarray:
    """`least[depth, children, size]`; `FAR` where no such tree is."""
    least = np.full((deepest + 1, most + 1, pes + 1), FAR)
    least[:, :, 1] = 0
    west = np.arange(1, pes)
    # Entry [n, i - 1] of a table over sizes n + 2 and splits i: the size of the eastern part.
    sizes = np.arange(2, pes + 1)[:, None]
    east = np.maximum(sizes - west, 0)
    possible = sizes > west
    for d in range(1, deepest + 1):
        right = np.where(possible, least[d - 1, most][east] + west, FAR)
        for c in range(1, most + 1):
            least[d, c, 2:] = np.minimum((least[d, c - 1][west] + right).min(1), FAR)
            if (least[d, c] == least[d, c - 1]).all():
                least[d, c:] = least[d, c]
                break
    return least


def _built(least: np.ndarray, pes: int, most: int, depth: int) -> Tree:
    """A tree of the least energy, read back from the table."""
    own: list[list[int]] = [[] for _ in range(pes)]
    todo = [(0, pes, depth, most)]
    while todo:
        root, size, d, c = todo.pop()
        while size > 1:
            splits = np.arange(1, size)
            energy = (
                least[d, c - 1][splits] + least[d - 1, most][size - splits] + splits
            )
            west = int(splits[int(energy.argmin())])
            own[root].insert(0, root + west)
            todo.append((root + west, size - west, d - 1, most))
            size, c = west, c - 1
    return Tree(tuple(map(tuple, own)))


__all__ = ["EXACT_PES", "auto"]
