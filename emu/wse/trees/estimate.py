"""HPDC'24's estimate of a reduce along a tree, by which the best tree is chosen."""

from emu.datasheet import Device
from emu.wse.trees.tree import Tree


def model_cycles(tree: Tree, words: int, device: Device) -> float:
    """max(contention, energy / links + distance) + depth x (2 ramps + 1).

    It knows neither set-up nor the gap between two operations of a PE; the arrival formula does.

    A star of 32 PEs on a WSE-2 (a hop 1 cycle, a ramp 2), 100 words: PE 0 takes 31 streams, 3,100
    words, which is more than 496 hops of 100 words over 31 links and 31 hops of distance; with one
    stage of 5 cycles 3,105.
    """
    last = tree.pes - 1
    links = max(1, last)
    most_children = max(len(added) for added in tree.children)
    contention = words * most_children
    energy = words * sum(tree.hops)
    farthest = max(tree.root, last - tree.root)
    distance = device.hop_cycles * farthest
    # A link carries a word a cycle, so even if all links share the hops evenly, that is how long
    # they take, besides the way of the farthest word.
    flow = energy / links + distance
    stage_cycles = 2 * device.ramp_cycles + 1
    return max(contention, flow) + stage_cycles * tree.depth


__all__ = ["model_cycles"]
