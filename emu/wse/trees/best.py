"""The best reduce tree for a length and a machine: HPDC'24's Auto-Gen, a dynamic programme.

Trees are pre-order: PEs of a subtree stand side by side and its root is the first of them, so no
two streams cross. For a bound C on a PE's children, `least[d, c, p]` is the least energy (hops of
one word) of a tree of `p` PEs, at most `d` deep, whose root has at most `c` children and every
other PE at most C. The root's last child heads the eastern part of the line, hence

    least[d, c, p] = min over i of  least[d, c - 1, i] + least[d - 1, C, p - i] + i.

The estimate of `model_cycles` is then least over C and d.

Three PEs, C = 2. One deep there is only the star, whose streams take 1 + 2 hops: i = 2, as the root
and its first child stay in the west, `least[1, 1, 2] = 1`, and the last child is a single PE,
`least[0, 2, 1] = 0`, 2 hops away. Two deep, i = 1 splits off both others: 0 + `least[1, 2, 2]` + 1,
or 2 hops, which is the chain.
"""

import functools

import numpy as np

from emu import given
from emu.datasheet import Device
from emu.wse.trees import families
from emu.wse.trees.estimate import model_cycles
from emu.wse.trees.tree import Tree

EXACT_PES = 256  # the programme is O(pes^3) for each bound on the children
NO_TREE = np.int64(1) << 40  # more energy than any tree's


def auto(pes: int, words: int, device: Device) -> Tree:
    """The tree of least estimated cycles for `words` wavelets.

    Up to `EXACT_PES` PEs it is the optimum over pre-order trees. On longer lines it is the best of
    chain, star, binary, every two-phase tree, and optimal trees over the first PEs of equal groups
    that are chained as in the two-phase tree.
    """
    given.whole("auto: PEs", pes, 1)
    given.whole("auto: words", words, 1)
    hop = int(device.hop_cycles)
    stage = int(2 * device.ramp_cycles + 1)
    if pes <= EXACT_PES:
        return _exact(pes, words, hop, stage)
    found = [families.chain(pes), families.star(pes), families.binary(pes)]
    found += [families.two_phase(pes, group) for group in range(2, pes)]
    # Of 800,000 PEs, groups of 3,125 to 6,249: their first PEs are few enough for an optimum.
    smallest = -(-pes // EXACT_PES)
    for group in range(smallest, 2 * smallest):
        groups = -(-pes // group)
        leaders = _exact(groups, words, hop, stage)
        found.append(_grouped(pes, group, leaders))
    return min(found, key=lambda tree: model_cycles(tree, words, device))


def _grouped(pes: int, group: int, leaders: Tree) -> Tree:
    """A chain in each group, and `leaders` over the groups' first PEs."""
    children = families.grouped_chains(pes, group)
    for leader, added in enumerate(leaders.children):
        pe = leader * group
        children[pe] += [child * group for child in added]
    return families.tree_of(children)


@functools.lru_cache(maxsize=256)
def _exact(pes: int, words: int, hop: int, stage: int) -> Tree:
    if pes == 1:
        return families.chain(1)
    links = pes - 1
    distance = hop * links
    # The chain's estimate.
    best = words + distance + stage * links
    chosen = families.chain(pes)
    # Fewer children than this never cost more than the distance, which every tree pays.
    most_children = max(1, min(links, distance // words))
    while most_children <= links and words * most_children < best:
        # Any tree's flow is a word each over every link, and the distance: what is left of the
        # best so far is for stages.
        left = best - words - distance
        deepest = min(links, int(left // stage))
        least = _least_energy(pes, most_children, deepest)
        contention = words * most_children
        for depth in range(1, deepest + 1):
            energy = least[depth, most_children, pes]
            flow = words * energy / links + distance
            cycles = max(contention, flow) + stage * depth
            if cycles < best:
                best = cycles
                chosen = _built(least, pes, most_children, depth)
        most_children += 1
    return chosen


def _least_energy(pes: int, most_children: int, deepest: int) -> np.ndarray:
    """`least[depth, children, size]`; `NO_TREE` where there is none."""
    least = np.full((deepest + 1, most_children + 1, pes + 1), NO_TREE)
    least[:, :, 1] = 0
    west = np.arange(1, pes)
    # Entry [n, i - 1] of a table over sizes n + 2 and splits i: the size of the eastern part.
    sizes = np.arange(2, pes + 1)[:, None]
    east = np.maximum(sizes - west, 0)
    possible = sizes > west
    for depth in range(1, deepest + 1):
        eastern_energy = least[depth - 1, most_children][east] + west
        eastern_energy = np.where(possible, eastern_energy, NO_TREE)
        for count in range(1, most_children + 1):
            western_energy = least[depth, count - 1][west]
            energy = (western_energy + eastern_energy).min(1)
            least[depth, count, 2:] = np.minimum(energy, NO_TREE)
            same = least[depth, count] == least[depth, count - 1]
            if same.all():
                # The next count follows from equal numbers and gains nothing either.
                least[depth, count:] = least[depth, count]
                break
    return least


def _built(least: np.ndarray, pes: int, most_children: int, deepest: int) -> Tree:
    """A tree of the least energy, read back from the table."""
    children = families.no_children(pes)
    unsplit = [(0, pes, deepest, most_children)]
    while unsplit:
        root, size, depth, count = unsplit.pop()
        while size > 1:
            splits = np.arange(1, size)
            western_energy = least[depth, count - 1][splits]
            eastern_energy = least[depth - 1, most_children][size - splits]
            energy = western_energy + eastern_energy + splits
            west = int(splits[int(energy.argmin())])
            child = root + west
            children[root].insert(0, child)
            unsplit.append((child, size - west, depth - 1, most_children))
            size = west
            count -= 1
    return families.tree_of(children)


__all__ = ["EXACT_PES", "auto"]
