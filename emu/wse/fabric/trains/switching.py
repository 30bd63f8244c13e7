"""Where the words of switched and merging colors go: streams parted and parked at routers.

Worked out without time, a segment (what one operation sends) at a time: it moves on through every
router whose position takes it from where it comes, and is parked where none does, until a control
wavelet or the PE's own instruction moves the switch. At a router that takes a color from several
sides at once, time alone tells whose words are first: there every word waits for its turn in the
log of the stepped run.

A gather on three PEs in a row, all of whose words go to PE 0. The router of PE 1 has two positions,
*ramp to west* and then *east to west*:

    PE 2 sends 5 words    they come to PE 1 from the east and are parked: it takes from the ramp
    PE 1 sends 4 words    they pass, and PE 0 hears them
    PE 1 sends control    it passes, and moves the switch of its own router to *east to west*
                          the 5 parked words pass, and PE 0 hears them
"""

import collections
import dataclasses
from collections.abc import Iterable
from typing import TypeAlias, TypeVar

import numpy as np

from emu.wse.fabric import ops
from emu.wse.fabric.arrays import Counts, PEs, WordArray
from emu.wse.fabric.directions import OPPOSITE, RAMP, flat_steps, in_bits
from emu.wse.fabric.encoding.encode import Encoded
from emu.wse.fabric.encoding.instructions import NONE
from emu.wse.fabric.errors import FabricError
from emu.wse.fabric.events import Turns
from emu.wse.fabric.program import Color


@dataclasses.dataclass(frozen=True)
class Segment:
    """What one operation sent, or a part of it.

    Attributes:
      kind: `ops.DATA`, or whose routers a control wavelet turns.
      words: `uint32[words]`; of a control wavelet none.
    """

    kind: int
    words: np.ndarray

    @property
    def wavelets(self) -> int:
        return len(self.words) if self.kind == ops.DATA else 1

    def split(self, count: int) -> tuple["Segment", "Segment"]:
        """Its first `count` words, and the others."""
        first = Segment(self.kind, self.words[:count])
        others = Segment(self.kind, self.words[count:])
        return first, others


NO_WORDS = np.zeros(0, np.uint32)
Key = TypeVar("Key")
Entry = TypeVar("Entry")
Queues: TypeAlias = collections.defaultdict[Key, collections.deque[Entry]]


class Switched:
    """One color's routers and what is parked at them.

    Attributes:
      name: the color's.
      position: `int64[PEs]`, of each router's switch.
      parked: by flat PE and the direction it came from, segments in order.
      inbox: by flat PE, words delivered to it and not read yet; `held` counts them.
      turns: by flat PE of a merging router, the directions of the wavelets that it took, in order.
      total_sent, total_taken: words so far.

    Args:
      encoded: the program.
      name, color: which color.
      turns: of the stepped run.
    """

    def __init__(self, encoded: Encoded, name: str, color: Color, turns: Turns):
        self.encoded = encoded
        self.name = name
        self.color = color
        positions = len(color.receive)
        self.receive = color.receive.reshape(positions, -1)
        self.send = color.send.reshape(positions, -1)
        self.last = color.last.reshape(-1)
        self.heeds = color.heeds.reshape(-1)
        self.step = flat_steps(encoded.program.width)
        pes = self.receive.shape[1]
        self.position = np.zeros(pes, np.int64)
        self.parked: Queues[tuple[int, int], Segment]
        self.parked = collections.defaultdict(collections.deque)
        self.inbox: Queues[int, np.ndarray]
        self.inbox = collections.defaultdict(collections.deque)
        self.held = np.zeros(pes, np.int64)
        self.total_sent = 0
        self.total_taken = 0
        self.turns: Queues[int, int]
        self.turns = collections.defaultdict(collections.deque)
        mine = turns[turns.color == color.index]
        # Rows are in the order of time, so each router's turns come out in its own order.
        for pe, _, direction in mine.rows():
            self.turns[pe].append(direction)

    # --- as `Stream` ---

    def available(self, pes: PEs) -> Counts:
        """Words that each may read now."""
        return self.held[pes]

    def take(self, pes: PEs, count: int) -> WordArray:
        """Their next `count` words, `uint32[PEs, count]`; they are read."""
        self.held[pes] -= count
        self.total_taken += len(pes) * count
        rows = [self._take(pe, count) for pe in pes.tolist()]
        return np.stack(rows)

    def _take(self, pe: int, count: int) -> np.ndarray:
        inbox = self.inbox[pe]
        got: list[np.ndarray] = []
        while count:
            words = inbox.popleft()
            # An operation may take less than one sender sent at once, or more than that.
            if len(words) > count:
                inbox.appendleft(words[count:])
                words = words[:count]
            got.append(words)
            count -= len(words)
        return np.concatenate(got)

    def content(self, words: WordArray) -> WordArray:
        """`take` gives the words themselves."""
        return words

    def put(self, pes: PEs, count: int, words: WordArray | None) -> PEs:
        """They send `count` words each; returns the PEs that hear any."""
        assert words is not None
        self.total_sent += len(pes) * count
        # Copied: they may be parked while the sender overwrites the memory that they came from.
        segments = [Segment(ops.DATA, row.copy()) for row in words]
        return self._inject(pes, segments)

    def control(self, pes: PEs, kind: int) -> PEs:
        """They send a control wavelet each; returns the PEs that hear words it set free."""
        segments = [Segment(kind, NO_WORDS)] * len(pes)
        return self._inject(pes, segments)

    def switch(self, pes: PEs, position: int) -> PEs:
        """Their routers take a position; returns the PEs that hear words this set free."""
        beyond = pes[position > self.last[pes]]
        if len(beyond):
            pe = beyond[0]
            at = self.encoded.program.coordinates(pe)
            raise FabricError(
                f"color '{self.name}': PE {at} switches to "
                f"position {position}, its router's last is {self.last[pe]}"
            )
        self.position[pes] = position
        return self._flow(pes.tolist())

    def sender(self, pe: int) -> int:
        """Whose words a PE hears: that of no one PE."""
        return NONE

    def unread(self) -> tuple[int, int]:
        """Words that nobody read and a PE that they wait at; 0 if there are none."""
        for pe in np.flatnonzero(self.held)[:1].tolist():
            return int(self.held[pe]), pe
        for (pe, _), segments in self.parked.items():
            count = sum(len(segment.words) for segment in segments)
            if count:
                return count, pe
        return 0, 0

    # --- routers ---

    def _inject(self, pes: PEs, segments: Iterable[Segment]) -> PEs:
        for pe, segment in zip(pes.tolist(), segments, strict=True):
            # A PE's own words enter its router as if from a neighbour, and may be parked there as
            # well.
            self.parked[pe, RAMP].append(segment)
        return self._flow(pes.tolist())

    def _flow(self, todo: list[int]) -> PEs:
        """Moves on what can move from routers `todo` on; returns the PEs that hear words."""
        heard: list[int] = []
        while todo:
            # In whatever order routers are looked at, words come out the same: each side is a
            # queue, and where two sides could go, the log decides.
            pe = todo.pop()
            while (found := self._next(pe)) is not None:
                side, segment = found
                todo += self._forward(pe, side, segment, heard)
        return np.unique(np.array(heard, np.int64))

    def _next(self, pe: int) -> tuple[int, Segment] | None:
        """Takes a segment that the router's position lets through, and the side it came from."""
        position = self.position[pe]
        # The position is read anew for each segment: the one before may have been a control wavelet
        # that turned it.
        sides = in_bits(int(self.receive[position, pe]))
        if len(sides) > 1:
            return self._in_turn(pe)
        for side in sides:
            segments = self.parked[pe, side]
            if segments:
                return side, segments.popleft()
        return None

    def _in_turn(self, pe: int) -> tuple[int, Segment] | None:
        """At a merging router: the part of a segment whose turn it is."""
        turns = self.turns[pe]
        if not turns:
            return None
        side = turns[0]
        segments = self.parked[pe, side]
        if not segments:
            return None
        segment = segments.popleft()
        # Turns `west west east` let two words of a segment of five from the west pass, and the
        # others wait until the east's have passed.
        count = 0
        while turns and turns[0] == side and count < segment.wavelets:
            turns.popleft()
            count += 1
        if count < segment.wavelets:
            segment, later = segment.split(count)
            segments.appendleft(later)
        return side, segment

    def _forward(
        self,
        pe: int,
        side: int,
        segment: Segment,
        heard: list[int],
    ) -> list[int]:
        """Sends a segment that came from `side` on; returns the routers that it reaches."""
        reached: list[int] = []
        position = self.position[pe]
        for to in in_bits(int(self.send[position, pe])):
            if to != RAMP:
                there = pe + self.step[to]
                self.parked[there, OPPOSITE[to]].append(segment)
                reached.append(there)
            elif segment.kind == ops.DATA:
                self.inbox[pe].append(segment.words)
                self.held[pe] += len(segment.words)
                heard.append(pe)
        # Only now, after it was sent on: a control wavelet itself still goes by the old position,
        # as does all that came before it.
        own = segment.kind == ops.OWN and side == RAMP
        turns = own or segment.kind == ops.ALL
        if turns and self.heeds[pe]:
            following = position + 1
            # At its last position a switch stays.
            self.position[pe] = min(following, self.last[pe])
        return reached


__all__ = ["Segment", "Switched"]
