"""Whether trains may be believed, link by link: two colors must not want one in the same cycle.

On a link that several colors use, each word has a window: from the cycle in which it could cross,
had it waited for nothing, to the one in which it does. Where no two colors' windows meet, no color
ever waits for another, and the times stand.

Red sends 3 words over a link and blue 2. Red's reader is slow: its last word may have to wait.

    red     [10, 10]  [11, 11]  [12, 20]
    blue              [25, 25]  [26, 26]        apart: the times stand
    blue              [15, 15]  [16, 16]        15 is in [12, 20]: who waits is not known
"""

import itertools

import numpy as np

from emu.wse.fabric.arrays import Counts, CycleArray, Mask, PEs
from emu.wse.fabric.directions import DIRECTIONS, PORTS, RAMP, flat_steps, has, several
from emu.wse.fabric.encoding.encode import Encoded
from emu.wse.fabric.encoding.instructions import NONE
from emu.wse.fabric.trains.streams import Stream

FROM_RAMP = RAMP + 1
"""The link from a PE's output queues into its router; the others are ports of the router."""
WORDS = 1 << 20  # compared together


def clash(encoded: Encoded, streams: list[Stream]) -> str:
    """Which colors want which link at once, or nothing."""
    # Only ways out of a router or of a PE can be wanted twice: on the way in, every color has a
    # queue of its own.
    for link in (*PORTS, FROM_RAMP):
        uses = [_uses(stream, link) for stream in streams]
        both = zip(streams, uses, strict=True)
        for (first, first_uses), (second, second_uses) in itertools.combinations(
            both, 2
        ):
            shared = np.flatnonzero(first_uses & second_uses)
            if not len(shared):
                continue
            found = _meet(encoded, first, second, shared, link)
            if found:
                return found
    return ""


def crossings(streams: list[Stream], pes: int) -> Counts:
    """`int64[5, PEs]`: words that each router sends north, east, south, west and into its ramp."""
    crossed = np.zeros((len(PORTS), pes), np.int64)
    for stream in streams:
        routes = stream.routes
        sent = stream.total[routes.source]
        # Where nothing passes, the source NONE is -1 and has looked up the last PE's words.
        passed = np.where(routes.source == NONE, 0, sent)
        for port in PORTS:
            sends = has(routes.send, port)
            crossed[port] += np.where(sends, passed, 0)
    return crossed


def _uses(stream: Stream, link: int) -> Mask:
    """Where a color's words cross a link, of all PEs."""
    source = stream.routes.source
    sends_any = stream.total[source] > 0
    live = (source != NONE) & sends_any
    if link == FROM_RAMP:
        is_sender = source == np.arange(len(source))
        return live & is_sender
    return live & has(stream.routes.send, link)


def _meet(encoded: Encoded, first: Stream, second: Stream, pes: PEs, link: int) -> str:
    """Whether words of two colors meet on a link of some PEs, in words."""
    own = Windows(encoded, first, pes, link)
    other = Windows(encoded, second, pes, link)
    begin, end = own.whole()
    other_begin, other_end = other.whole()
    # Most colors share a link at quite different times: the whole streams' windows tell that.
    overlap = (begin <= other_end) & (other_begin <= end)
    near = np.flatnonzero(overlap)
    words = own.words[near] + other.words[near]
    # Every word of every link at once would not fit memory: two colors of 1,000 words that share
    # all 883,350 links of one direction have 1.8e9 windows.
    block = np.cumsum(words) // WORDS
    cuts = np.flatnonzero(np.diff(block)) + 1
    for some in np.split(near, cuts):
        found = _word_by_word(own, other, some)
        if found is None:
            continue
        index, cycle = found
        where = "from its ramp" if link == FROM_RAMP else f"to {DIRECTIONS[link]}"
        at = encoded.program.coordinates(pes[index])
        return (
            f"colors '{first.routes.name}' and '{second.routes.name}' want the link {where} of "
            f"PE {at} at once, in cycle {cycle}"
        )
    return ""


def _word_by_word(
    own: "Windows",
    other: "Windows",
    some: np.ndarray,
) -> tuple[int, int] | None:
    """Index of a PE and the cycle in which words of both colors want its link."""
    if not len(some):
        return None
    index, begin, end = own.each_word(some)
    other_index, other_begin, other_end = other.each_word(some)
    is_other = np.repeat([False, True], [len(index), len(other_index)])
    index = np.concatenate([index, other_index])
    begin = np.concatenate([begin, other_begin])
    end = np.concatenate([end, other_end])
    order = np.lexsort((begin, index))
    index = index[order]
    begin = begin[order]
    end = end[order]
    is_other = is_other[order]
    # Windows of one color begin and end in order, so that only neighbours need a look.
    # For if an earlier window of a color reached into the other color's, the ones between them
    # would too, as they end no earlier. Of red [10, 10] [11, 11] [12, 20] and blue [15, 15] it is
    # red's last and blue's first that are neighbours, and 20 >= 15.
    same_link = index[1:] == index[:-1]
    two_colors = is_other[1:] != is_other[:-1]
    overlap = end[:-1] >= begin[1:]
    found = np.flatnonzero(same_link & two_colors & overlap)
    if not len(found):
        return None
    later = int(found[0]) + 1
    return int(index[later]), int(begin[later])


class Windows:
    """When one color's words want a link of some PEs.

    A word wants it from the cycle in which it reaches the link. Where the stream goes to one reader
    alone, that reader's pace is what could make it wait, up to the cycle in which there is room.

    Attributes:
      words: `int64[PEs]`, words that cross each link.

    Args:
      encoded: the program.
      stream: the color's.
      pes: flat PEs at which it crosses the link.
      link: which one.
    """

    def __init__(self, encoded: Encoded, stream: Stream, pes: PEs, link: int):
        routes = stream.routes
        source = routes.source[pes]
        hops = routes.hops[pes].astype(np.int64)
        self.words = stream.total[source]
        self._leaves = stream.leaves
        self._reads = stream.reads
        self._begin = stream.offset[source]
        # On a WSE-3 a word that leaves its queue in cycle 10 reaches the way out of the router 3
        # hops on in cycle 10 + 2 + 3 * 2 = 18.
        self._away = stream.ramp_cycles + hops * stream.hop_cycles
        if link == FROM_RAMP:
            self._away = np.zeros(len(pes), np.int64)
        if stream.reads is None:
            return
        # A stream whose ways part is held back by no reader: `queue_room` saw to that.
        reader = _only_reader(encoded, stream, pes)
        has_reader = reader != NONE
        links = np.where(has_reader, routes.hops[reader] - hops, 0)
        # Where the reader's times begin, and room and stages between the link and the reader.
        reads_begin = stream.read_at[reader]
        self._reads_begin = np.where(has_reader, reads_begin, NONE)
        # Two links before the reader, on a WSE-3 with 6 words of room at a PE's ramp and 4 at a
        # router, word 20 may cross once word 20 - (6 + 2 * 4) = 6 has been read, a cycle later for
        # each of the 3 stages.
        self._room = stream.in_capacity[reader] + links * stream.link_capacity
        self._stages = links + 1
        if link == FROM_RAMP:
            self._room = self._room + stream.ramp_capacity
            self._stages = self._stages + 1

    def of(self, index: np.ndarray, word: np.ndarray) -> tuple[CycleArray, CycleArray]:
        """First and last cycle in which words want the links of PEs, given by index."""
        assert self._leaves is not None
        leaves = self._leaves[self._begin[index] + word]
        begin = leaves + self._away[index]
        if self._reads is None:
            return begin, begin
        # The first `room` words cross without any having been read.
        makes_room = word - self._room[index]
        reads_begin = self._reads_begin[index]
        may_wait = (reads_begin != NONE) & (makes_room >= 0)
        at = np.where(may_wait, reads_begin + makes_room, 0)
        has_room = self._reads[at] + self._stages[index]
        end = np.where(may_wait, np.maximum(begin, has_room), begin)
        return begin, end

    def each_word(self, some: np.ndarray) -> tuple[np.ndarray, CycleArray, CycleArray]:
        """The windows of all words of some PEs, given by index: their indices, begins and ends."""
        # PEs 7 and 9 of 3 and 2 words: indices 7 7 7 9 9 and words 0 1 2 0 1.
        count = self.words[some]
        index = np.repeat(some, count)
        first = np.cumsum(count) - count
        word = np.arange(len(index)) - np.repeat(first, count)
        begin, end = self.of(index, word)
        return index, begin, end

    def whole(self) -> tuple[CycleArray, CycleArray]:
        """From the first word's first cycle to the last word's last, of every link."""
        index = np.arange(len(self.words))
        # Windows begin and end in the order of words, so the first one's begin and the last one's
        # end enclose all.
        first_word = np.zeros_like(index)
        begin, _ = self.of(index, first_word)
        _, end = self.of(index, self.words - 1)
        return begin, end


def _only_reader(encoded: Encoded, stream: Stream, pes: PEs) -> PEs:
    """The reader to whom alone each router sends, or NONE if its words part further on."""
    send = stream.routes.send
    step = np.array([*flat_steps(encoded.program.width), 0])
    reader = pes.astype(np.int64)
    going = np.arange(len(pes))
    while len(going):
        # All links at once, a hop downstream in each round, until a word's ways part or end.
        sides = send[reader[going]]
        parts = several(sides)
        arrived = sides == 1 << RAMP
        # No one reader's pace tells when such a word may go on.
        reader[going[parts]] = NONE
        further = ~(parts | arrived)
        going = going[further]
        direction = np.log2(sides[further])  # of one bit, its number
        reader[going] += step[direction.astype(np.int64)]
    return reader


__all__ = ["clash", "crossings"]
