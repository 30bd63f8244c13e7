"""Whether trains may be believed, queue by queue: a slow reader must hold up nobody.

A stage that takes words after a latency L and holds `depth` of them takes word `j` once word
`j - depth - L` has left it, a cycle later. Along a route these conditions add up: with K words of
room and n stages from a place to a reader, word `j` may pass that place at the reader's time of
word `j - K` plus n. Words that wait on the way do not come later for it, as every stage restarts at
full rate; so it is enough to look where somebody else would wait: at the sender's datapath, and at
the last router that sends the words more than one way.
"""

import numpy as np

from emu.wse.fabric.encoding.encode import Encoded
from emu.wse.fabric.encoding.instructions import NONE
from emu.wse.fabric.trains.routing import place
from emu.wse.fabric.trains.streams import Stream

BLOCK = 1 << 20  # words looked at together


def held_up(encoded: Encoded, stream: Stream) -> str:
    """Who would have to wait for room on this color, or nothing."""
    if stream.reads is None:
        return ""
    r = stream.routes
    slow = r.receivers[stream.read_at[r.receivers] != NONE]
    alone = r.tail[slow] == NONE
    for readers, several in ((slow[alone], False), (slow[~alone], True)):
        room, stages = _room(stream, readers, several)
        count = np.maximum(stream.total[r.source[readers]] - room, 0)
        for some in _blocks(count):
            late = _late(
                stream, readers[some], room[some], stages[some], count[some], several
            )
            if len(late):
                return _told(encoded, stream, int(late[0]), several)
    return ""


def _room(
    stream: Stream, readers: np.ndarray, several: bool
) -> tuple[np.ndarray, np.ndarray]:
    """Words of room, and stages, between each reader and where others would wait for it."""
    r = stream.routes
    if several:
        links = r.tail[readers].astype(np.int64)
        return stream.in_capacity + links * stream.link_capacity, links + 1
    links = r.hops[readers].astype(np.int64)
    route = stream.in_capacity + links * stream.link_capacity + stream.ramp_capacity
    return route + stream.out_capacity, links + 3


def _blocks(count: np.ndarray) -> list[np.ndarray]:
    """Parts of the readers that have any words to look at, of about `BLOCK` words each."""
    some = np.flatnonzero(count)
    if not len(some):
        return []
    cuts = np.flatnonzero(np.diff(np.cumsum(count[some]) // BLOCK)) + 1
    return np.split(some, cuts)


def _late(
    stream: Stream,
    readers: np.ndarray,
    room: np.ndarray,
    stages: np.ndarray,
    count: np.ndarray,
    several: bool,
) -> np.ndarray:
    """The readers that are too slow."""
    assert (
        stream.reads is not None
        and stream.leaves is not None
        and stream.pushes is not None
    )
    r = stream.routes
    which = np.repeat(np.arange(len(readers)), count)
    j = np.arange(len(which)) - np.repeat(np.cumsum(count) - count, count)
    read = stream.reads[(stream.read_at[readers])[which] + j] + stages[which]
    sender = r.source[readers]
    passing = (stream.offset[sender] + room)[which] + j
    if several:
        away = (
            stream.ramp
            + (r.hops[readers] - r.tail[readers]).astype(np.int64) * stream.hop
        )
        allowed = stream.leaves[passing] + away[which]
    else:
        allowed = stream.pushes[passing]
    return readers[np.unique(which[read > allowed])]


def _told(encoded: Encoded, stream: Stream, reader: int, several: bool) -> str:
    sender = int(stream.routes.source[reader])
    who = "other receivers" if several else place(encoded, sender)
    return (
        f"{place(encoded, reader)} reads color '{stream.routes.name}' so late that {who} "
        f"would have to wait for room"
    )


__all__ = ["held_up"]
