"""Whether trains may be believed, queue by queue: a slow reader must hold up nobody.

A stage that takes words after a latency L and holds `depth` of them takes word `k` once word
`k - depth - L` has left it, a cycle later. Along a route these conditions add up: with K words of
room and n stages from a place to a reader, word `k` may pass that place at the reader's time of
word `k - K` plus n. Words that wait on the way do not come later for it, as every stage restarts at
full rate; so it is enough to look where somebody else would wait: at the sender's datapath, and at
the last router that sends the words more than one way.

On a WSE-3 a reader 1 hop from its sender has, with queues of 4 and 8 words at the PEs' ramps and 2
in a router: 4 + 2 in its input queue and ramp, 2 + 2 at its own router, 2 + 2 at the sender's
router and 8 + 1 in the sender's output queue, together 23 words over 4 stages. So word 23 is pushed
in time if word 0 is read 4 cycles before that or earlier; a reader that comes later would hold up
the sender.
"""

import dataclasses

import numpy as np

from emu.wse.fabric.arrays import Counts, CycleArray, PEs
from emu.wse.fabric.encoding.encode import Encoded
from emu.wse.fabric.encoding.instructions import NONE
from emu.wse.fabric.trains.streams import Stream

BLOCK = 1 << 20  # words looked at together


@dataclasses.dataclass(frozen=True)
class Readers:
    """Readers of a color that could be too slow.

    Attributes:
      stream: the color's.
      pes: which PEs they are.
      ways_part: whether a router before them sends the words more than one way, so that it, and not
        the sender, is where others would wait.
      room, stages: words of room, and stages, between each and where others would wait for it.
      checked: words that need room which this reader makes: all beyond the first `room`.
    """

    stream: Stream
    pes: PEs
    ways_part: bool
    room: Counts
    stages: Counts
    checked: Counts

    def some(self, which: np.ndarray) -> "Readers":
        """Those at some indices."""
        return dataclasses.replace(
            self,
            pes=self.pes[which],
            room=self.room[which],
            stages=self.stages[which],
            checked=self.checked[which],
        )


def held_up(encoded: Encoded, stream: Stream) -> str:
    """Who would have to wait for room on this color, or nothing."""
    if stream.reads is None:
        return ""
    routes = stream.routes
    # The times of other readers were not kept: all their words fit the input queue, however late
    # they are read.
    is_slow = stream.read_at[routes.receivers] != NONE
    slow = routes.receivers[is_slow]
    behind_a_fork = routes.tail[slow] != NONE
    # A reader behind a fork is checked at the last fork alone. If nothing waits there, nothing
    # before it is held up by this reader, and a fork further back has its own readers to be checked
    # by.
    for ways_part in (False, True):
        pes = slow[behind_a_fork == ways_part]
        readers = _readers(stream, pes, ways_part)
        for block in _blocks(readers.checked):
            late = _first_late(readers.some(block))
            if late is not None:
                return _told(encoded, stream, late, ways_part)
    return ""


def _readers(stream: Stream, pes: PEs, ways_part: bool) -> Readers:
    routes = stream.routes
    # With ways that part, what is before the last fork holds words for other readers too.
    if ways_part:
        # A reader 2 links behind a fork of a WSE-3 leaves room for 6 + 2 * 4 = 14 words between
        # them, over 3 stages: its input queue and two routers.
        links = routes.tail[pes].astype(np.int64)
        room = stream.in_capacity[pes] + links * stream.link_capacity
        stages = links + 1
    else:
        links = routes.hops[pes].astype(np.int64)
        way = stream.in_capacity[pes] + links * stream.link_capacity
        out_capacity = stream.out_capacity[routes.source[pes]]
        room = way + stream.ramp_capacity + out_capacity
        # The input queue, a router for each link, the sender's router and its output queue.
        stages = links + 3
    words = stream.total[routes.source[pes]]
    return Readers(
        stream=stream,
        pes=pes,
        ways_part=ways_part,
        room=room,
        stages=stages,
        checked=np.maximum(words - room, 0),
    )


def _blocks(count: Counts) -> list[np.ndarray]:
    """Parts of the readers that have any words to look at, of about `BLOCK` words each."""
    some = np.flatnonzero(count)
    if not len(some):
        return []
    block = np.cumsum(count[some]) // BLOCK
    cuts = np.flatnonzero(np.diff(block)) + 1
    return np.split(some, cuts)


def _first_late(readers: Readers) -> int | None:
    """The first reader that makes room later than a word wants it, word by word."""
    count = readers.checked
    which = np.repeat(np.arange(len(count)), count)
    first = np.cumsum(count) - count
    word = np.arange(len(which)) - first[which]
    made = _makes_room(readers, which, word)
    wanted = _wants_room(readers, which, word)
    # Equal is in time: `made` is the first cycle in which a word may take the place.
    late = np.flatnonzero(made > wanted)
    if not len(late):
        return None
    reader = which[late[0]]
    return int(readers.pes[reader])


def _makes_room(readers: Readers, which: np.ndarray, word: np.ndarray) -> CycleArray:
    """When a word, read by a reader, has made room where others would wait for it."""
    stream = readers.stream
    assert stream.reads is not None
    begin = stream.read_at[readers.pes]
    return stream.reads[begin[which] + word] + readers.stages[which]


def _wants_room(readers: Readers, which: np.ndarray, word: np.ndarray) -> CycleArray:
    """When the word that gets that room, `room` words later, passes there as the trains have it."""
    stream = readers.stream
    routes = stream.routes
    assert stream.leaves is not None and stream.pushes is not None
    begin = stream.offset[routes.source[readers.pes]] + readers.room
    passing = begin[which] + word
    if not readers.ways_part:
        return stream.pushes[passing]
    # To the fork only: of a reader 5 hops from its sender and 2 behind the fork, 3 hops.
    hops = routes.hops[readers.pes] - routes.tail[readers.pes]
    away = stream.ramp_cycles + hops.astype(np.int64) * stream.hop_cycles
    return stream.leaves[passing] + away[which]


def _told(encoded: Encoded, stream: Stream, reader: int, ways_part: bool) -> str:
    program = encoded.program
    sender = int(stream.routes.source[reader])
    who = "other receivers" if ways_part else f"PE {program.coordinates(sender)}"
    return (
        f"PE {program.coordinates(reader)} reads color '{stream.routes.name}' so late that {who} "
        f"would have to wait for room"
    )


__all__ = ["held_up"]
