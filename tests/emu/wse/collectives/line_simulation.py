"""Collectives on a line simulated word by word: queues with credits, one list per stage.

An independent reading of the wafer's rules in plain loops. A wavelet leaves a stage for the next
one in cycle t only if, at the start of t, fewer wavelets are in that stage or on their way to it
than its depth plus its latency. It is there, and may leave, its latency later.
"""

from collections.abc import Sequence

import numpy as np

from emu.wse.timeline.wires import Wires
from emu.wse.trees import Tree

Stages = list[tuple[int, int]]  # depth and latency of each
LONGEST = 200_000


class Way:
    """The stages between two PEs, from output queue to input queue."""

    def __init__(self, w: Wires, hops: int):
        self.stages: Stages = [
            (w.out_words, 1),
            (w.router_words, w.ramp_cycles),
            *[(w.router_words, w.hop_cycles)] * hops,
            (w.in_words, w.ramp_cycles),
        ]
        self.queues: list[list[int]] = [[] for _ in self.stages]

    def look(self, t: int) -> None:
        """What the decisions of cycle `t` see."""
        self.held = [len(q) for q in self.queues]
        self.there = [bool(q) and q[0] <= t for q in self.queues]

    def room(self, stage: int, words: int = 1) -> bool:
        return self.held[stage] + words <= sum(self.stages[stage])

    def move(self, t: int) -> None:
        for s in range(len(self.stages) - 1):
            if self.there[s] and self.room(s + 1):
                self.queues[s].pop(0)
                self.queues[s + 1].append(t + self.stages[s + 1][1])


class Pe:
    """A main thread that executes operations of `words` one after the other.

    Each is a pair of ways: what it takes in, or None for memory, and what it puts out, or None.
    """

    def __init__(
        self,
        start: int,
        operations: Sequence[tuple[Way | None, Way | None]],
        words: int,
    ):
        self.operations, self.words = list(operations), words
        self.at, self.left, self.done = 0, words, None
        self.start = start

    def issue(self, t: int, w: Wires) -> None:
        if self.at == len(self.operations) or t < self.start + w.setup_cycles:
            return
        taken, put = self.operations[self.at]
        count = 1 if taken else min(w.send_words, self.left)
        if (taken and not taken.there[-1]) or (put and not put.room(0, count)):
            return
        if taken:
            taken.queues[-1].pop(0)
        if put:
            put.queues[0].extend([t + 1] * count)
        self.left -= count
        if not self.left:
            self.at, self.left, self.start = (
                self.at + 1,
                self.words,
                t + 1 + w.drain_cycles,
            )


def run(pes: Sequence[Pe], ways: Sequence[Way], w: Wires) -> list[int]:
    """When each PE could dispatch what follows its last operation."""
    t = min(pe.start for pe in pes)
    while any(pe.at < len(pe.operations) for pe in pes):
        for way in ways:
            way.look(t)
        for pe in pes:
            pe.issue(t, w)
        for way in ways:
            way.move(t)
        t += 1
        assert t < LONGEST
    return [pe.start for pe in pes]


def reduce(tree: Tree, armed: Sequence[int], words: int, w: Wires) -> list[int]:
    """Every stream on a way of its own."""
    ways: list[Way | None] = [Way(w, h) if h else None for h in tree.hops]
    pes = []
    for i, own in enumerate(tree.children):
        operations: list[tuple[Way | None, Way | None]] = [(ways[c], None) for c in own]
        if i in tree.stores:
            operations.append((None, ways[i]))
        elif i != tree.root:
            operations[-1:] = [(operations[-1][0] if own else None, ways[i])]
        pes.append(Pe(armed[i], operations, words))
    return run(pes, [x for x in ways if x], w)


def ring(
    armed: Sequence[int], hops: Sequence[int], words: int, steps: int, w: Wires
) -> list[int]:
    """By place: `steps` sends to the next one and receives from the one before."""
    ways, pes = [Way(w, h) for h in hops], []
    for i, start in enumerate(armed):
        pair: list[tuple[Way | None, Way | None]] = [
            (None, ways[i]),
            (ways[i - 1], None),
        ]
        pes.append(Pe(start, (pair if i % 2 == 0 else pair[::-1]) * steps, words))
    return run(pes, ways, w)


def multicast(root: int, armed: Sequence[int], words: int, w: Wires) -> list[int]:
    """When the root and the receivers, nearest first, end; a router forwards to all or none."""
    n = len(armed)
    out, routers, inlets = (
        Way(w, 0),
        [Way(w, 1) for _ in armed],
        [Way(w, 0) for _ in armed],
    )
    pes = [Pe(root, [(None, out)], words)]
    pes += [Pe(start, [(inlets[i], None)], words) for i, start in enumerate(armed)]
    # Used of each way: `out` its first two stages, `routers` the third, `inlets` the third.
    t = min(root, *armed)
    while any(pe.at < 1 for pe in pes):
        for way in (out, *routers, *inlets):
            way.look(t)
        for pe in pes:
            pe.issue(t, w)
        if out.there[0] and out.room(1):
            out.queues[0].pop(0)
            out.queues[1].append(t + w.ramp_cycles)
        for i in range(-1, n):
            here, stage = (out, 1) if i < 0 else (routers[i], 2)
            onward = i + 1 == n or routers[i + 1].room(2)
            if here.there[stage] and onward and (i < 0 or inlets[i].room(2)):
                here.queues[stage].pop(0)
                if i + 1 < n:
                    routers[i + 1].queues[2].append(t + w.hop_cycles)
                if i >= 0:
                    inlets[i].queues[2].append(t + w.ramp_cycles)
        t += 1
        assert t < LONGEST
    return [pe.start for pe in pes]


def as_line(x: Sequence[int]) -> np.ndarray:
    """One line of one group."""
    return np.array(x, np.int64)[None, :, None]
