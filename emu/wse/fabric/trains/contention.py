"""Whether trains may be believed, link by link: two colors must not want one in the same cycle.

On a link that several colors use, each word has a window: from the cycle in which it could cross,
had it waited for nothing, to the one in which it does. Where no two colors' windows meet, no color
ever waits for another, and the times stand.
"""

import numpy as np

from emu.wse.fabric.directions import DIRECTIONS, RAMP
from emu.wse.fabric.encoding.encode import Encoded
from emu.wse.fabric.encoding.instructions import NONE
from emu.wse.fabric.trains.routing import place, steps
from emu.wse.fabric.trains.streams import Stream

UP = RAMP + 1  # the link from a PE's queues to its router
WORDS = 1 << 20  # compared together


def clash(encoded: Encoded, streams: list[Stream]) -> str:
    """Which colors want which link at once, or nothing."""
    for side in range(UP + 1):
        uses = [(s, _uses(s, side)) for s in streams]
        for k, (a, in_a) in enumerate(uses):
            for b, in_b in uses[k + 1 :]:
                shared = np.flatnonzero(in_a & in_b)
                if len(shared) and (found := _meet(encoded, a, b, shared, side)):
                    return found
    return ""


def crossings(streams: list[Stream], pes: int) -> np.ndarray:
    """`int64[5, PEs]`: words that each router sends north, east, south, west and into its ramp."""
    out = np.zeros((RAMP + 1, pes), np.int64)
    for s in streams:
        passed = np.where(s.routes.source == NONE, 0, s.total[s.routes.source])
        for side in range(RAMP + 1):
            out[side] += np.where(s.routes.send >> side & 1, passed, 0)
    return out


def _uses(s: Stream, side: int) -> np.ndarray:
    """PEs at which a color's words cross the link on one side."""
    source = s.routes.source
    live = (source != NONE) & (s.total[source] > 0)
    if side == UP:
        return live & (source == np.arange(len(source)))
    return live & ((s.routes.send >> side & 1) == 1)


def _meet(encoded: Encoded, a: Stream, b: Stream, at: np.ndarray, side: int) -> str:
    """Whether words of two colors meet on a link of the PEs `at`."""
    ends = [_Ends(encoded, s, at, side) for s in (a, b)]
    zero = np.zeros(len(at), np.int64)
    (low_a, _), (low_b, _) = (x.window(np.arange(len(at)), zero) for x in ends)
    (_, high_a), (_, high_b) = (x.window(np.arange(len(at)), x.words - 1) for x in ends)
    near = np.flatnonzero((low_a <= high_b) & (low_b <= high_a))
    words = np.cumsum(ends[0].words[near] + ends[1].words[near])
    for some in (
        np.split(near, np.flatnonzero(np.diff(words // WORDS)) + 1) if len(near) else []
    ):
        found = _word_by_word(ends, some)
        if found is not None:
            link = "from its ramp" if side == UP else f"to {DIRECTIONS[side]}"
            return (
                f"colors '{a.routes.name}' and '{b.routes.name}' want the link {link} of "
                f"{place(encoded, at[found[0]])} at once, in cycle {found[1]}"
            )
    return ""


def _word_by_word(ends: list["_Ends"], some: np.ndarray) -> tuple[int, int] | None:
    """Index of a PE and the cycle in which words of both colors want its link."""
    rows = []
    for color, x in enumerate(ends):
        which = np.repeat(some, x.words[some])
        begin = np.cumsum(x.words[some]) - x.words[some]
        j = np.arange(len(which)) - np.repeat(begin, x.words[some])
        rows.append((which, *x.window(which, j), np.full(len(which), color)))
    which, low, high, color = (np.concatenate(x) for x in zip(*rows, strict=True))
    order = np.lexsort((low, which))
    which = which[order]
    low = low[order]
    high = high[order]
    color = color[order]
    # Windows of one color begin and end in order, so that only neighbours need a look.
    meet = (
        (which[1:] == which[:-1]) & (color[1:] != color[:-1]) & (high[:-1] >= low[1:])
    )
    found = np.flatnonzero(meet)
    return (int(which[found[0]]), int(low[found[0] + 1])) if len(found) else None


class _Ends:
    """One color's words on a link of some PEs, and the one reader that could make them wait."""

    def __init__(self, encoded: Encoded, s: Stream, at: np.ndarray, side: int):
        r = s.routes
        self.s, source = s, r.source[at]
        hops = r.hops[at].astype(np.int64)
        self.words = s.total[source]
        self.begin = s.offset[source]
        self.away = np.zeros(len(at), np.int64) if side == UP else s.ramp + hops * s.hop
        self.reads = np.full(len(at), NONE, np.int64)  # where the reader's times begin
        self.room = self.stages = np.zeros(len(at), np.int64)
        if s.reads is None:
            return
        reader = _only_reader(encoded, s, at)
        links = np.where(reader == NONE, 0, r.hops[reader] - hops)
        self.reads = np.where(reader == NONE, NONE, s.read_at[reader])
        self.room = s.in_capacity + links * s.link_capacity
        self.stages = links + 1
        if side == UP:
            self.room = self.room + s.ramp_capacity
            self.stages = self.stages + 1

    def window(self, which: np.ndarray, j: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """First and last cycle in which word `j` wants the link of PE `which`."""
        assert self.s.leaves is not None
        low = self.s.leaves[self.begin[which] + j] + self.away[which]
        if self.s.reads is None:
            return low, low
        waits = (self.reads[which] != NONE) & (j >= self.room[which])
        at = np.where(waits, self.reads[which] + j - self.room[which], 0)
        return low, np.where(
            waits, np.maximum(low, self.s.reads[at] + self.stages[which]), low
        )


def _only_reader(encoded: Encoded, s: Stream, at: np.ndarray) -> np.ndarray:
    """The reader to whom alone each router sends, or NONE if its words part further on."""
    send = s.routes.send
    step = np.array([*steps(encoded.program.width), 0])
    reader = at.astype(np.int64)
    going = np.arange(len(at))
    while len(going):
        sides = send[reader[going]]
        parts = (sides & (sides - 1)) != 0
        ends = parts | (sides == 1 << RAMP)
        reader[going[parts]] = NONE
        going, sides = going[~ends], sides[~ends]
        reader[going] += step[np.log2(sides).astype(np.int64)]
    return reader


__all__ = ["clash", "crossings"]
