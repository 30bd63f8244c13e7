"""Where the words of switched and merging colors go: streams parted and parked at routers.

Worked out without time, a segment (what one operation sends) at a time: it moves on through every
router whose position takes it from where it comes, and is parked where none does, until a control
wavelet or the PE's own instruction moves the switch. At a router that takes a color from several
sides at once, time alone tells whose words are first: there every word waits for its turn in the
log of the stepped run.
"""

import collections
from typing import Any

import numpy as np

from emu.wse.fabric import ops
from emu.wse.fabric.directions import OPPOSITE, RAMP
from emu.wse.fabric.encoding.encode import Encoded
from emu.wse.fabric.encoding.instructions import NONE
from emu.wse.fabric.errors import FabricError
from emu.wse.fabric.program import Color
from emu.wse.fabric.trains.routing import place, steps


class Switched:
    """One color's routers and what is parked at them.

    Attributes:
      name: the color's.
      inbox: per PE, words delivered to it and not read yet.
      total_sent, total_taken: words so far.
    """

    def __init__(self, encoded: Encoded, name: str, color: Color, turns: np.ndarray):
        """
        Args:
          encoded: the program.
          name, color: which color.
          turns: `int64[events, 2]`, (flat PE, direction) of each word that a merging router
            forwarded, in the order of time.
        """
        self.e = encoded
        self.name = name
        self.color = color
        positions = len(color.receive)
        self.receive = color.receive.reshape(positions, -1)
        self.send = color.send.reshape(positions, -1)
        self.last = color.last.reshape(-1)
        self.heeds = color.heeds.reshape(-1)
        self.step = steps(encoded.program.width)
        n = self.receive.shape[1]
        self.position = np.zeros(n, np.int64)
        self.parked: dict[tuple[int, int], collections.deque] = collections.defaultdict(
            collections.deque
        )
        self.inbox: list[Any] = [None] * n
        self.held = np.zeros(n, np.int64)
        self.total_sent = self.total_taken = 0
        self.turns: dict[int, collections.deque[int]] = collections.defaultdict(
            collections.deque
        )
        for pe, side in turns.tolist():
            self.turns[pe].append(side)

    # --- as `Stream` ---

    def available(self, pes: np.ndarray) -> np.ndarray:
        """Words that each may read now."""
        return self.held[pes]

    def take(self, pes: np.ndarray, count: int) -> np.ndarray:
        """Their next `count` words, `uint32[PEs, count]`; they are read."""
        self.held[pes] -= count
        self.total_taken += len(pes) * count
        return np.stack([self._take(pe, count) for pe in pes.tolist()])

    def _take(self, pe: int, count: int) -> np.ndarray:
        box, got = self.inbox[pe], []
        while count:
            words = box.popleft()
            if len(words) > count:
                box.appendleft(words[count:])
                words = words[:count]
            got.append(words)
            count -= len(words)
        return np.concatenate(got)

    def content(self, at: np.ndarray) -> np.ndarray:
        """`take` gives the words themselves."""
        return at

    def put(self, pes: np.ndarray, count: int, words: np.ndarray | None) -> np.ndarray:
        """They send `count` words each; returns the PEs that hear any."""
        assert words is not None
        self.total_sent += len(pes) * count
        return self._inject(pes, [(ops.DATA, row) for row in words])

    def control(self, pes: np.ndarray, reach: int) -> np.ndarray:
        """They send a control wavelet each; returns the PEs that hear words it set free."""
        return self._inject(pes, [(reach, None)] * len(pes))

    def switch(self, pes: np.ndarray, position: int) -> np.ndarray:
        """Their routers take a position; returns the PEs that hear words this set free."""
        beyond = pes[position > self.last[pes]]
        if len(beyond):
            raise FabricError(
                f"color '{self.name}': {place(self.e, beyond[0])} switches to "
                f"position {position}, its router's last is "
                f"{self.last[beyond[0]]}"
            )
        self.position[pes] = position
        return self._flow(pes.tolist())

    def sender(self, pe: int) -> int:
        """Whose words a PE hears: that of no one PE."""
        return NONE

    def unread(self) -> tuple[int, int]:
        """Words that nobody read and a PE that they wait at; 0 if there are none."""
        left = np.flatnonzero(self.held)
        if len(left):
            return int(self.held[left[0]]), int(left[0])
        for (pe, _), queue in self.parked.items():
            if count := sum(len(words) for kind, words in queue if kind == ops.DATA):
                return count, pe
        return 0, 0

    # --- routers ---

    def _inject(self, pes: np.ndarray, segments: list[tuple[int, Any]]) -> np.ndarray:
        for pe, segment in zip(pes.tolist(), segments, strict=True):
            self.parked[pe, RAMP].append(segment)
        return self._flow(pes.tolist())

    def _flow(self, todo: list[int]) -> np.ndarray:
        """Moves on what can move from routers `todo` on; returns the PEs that hear words."""
        heard: list[int] = []
        while todo:
            pe = todo.pop()
            while (segment := self._next(pe)) is not None:
                todo += self._forward(pe, *segment, heard)
        return np.unique(np.array(heard, np.int64))

    def _next(self, pe: int) -> tuple[int, int, Any] | None:
        """Takes a segment that the router's position lets through: side, kind, words."""
        receive = int(self.receive[self.position[pe], pe])
        sides = [s for s in range(RAMP + 1) if receive >> s & 1]
        if len(sides) > 1:
            return self._in_turn(pe)
        if not sides or not self.parked[pe, sides[0]]:
            return None
        return sides[0], *self.parked[pe, sides[0]].popleft()

    def _in_turn(self, pe: int) -> tuple[int, int, Any] | None:
        """At a merging router: the part of a segment whose turn it is."""
        turns = self.turns[pe]
        if not turns or not self.parked[pe, turns[0]]:
            return None
        side = turns[0]
        kind, words = self.parked[pe, side].popleft()
        count = 0
        while (
            turns and turns[0] == side and count < (1 if words is None else len(words))
        ):
            turns.popleft()
            count += 1
        if words is not None and count < len(words):
            self.parked[pe, side].appendleft((kind, words[count:]))
            words = words[:count]
        return side, kind, words

    def _forward(
        self, pe: int, side: int, kind: int, words: Any, heard: list[int]
    ) -> list[int]:
        """Sends a segment on; returns the routers that it reaches."""
        send = int(self.send[self.position[pe], pe])
        reached = []
        for to in range(RAMP):
            if send >> to & 1:
                there = pe + self.step[to]
                self.parked[there, OPPOSITE[to]].append((kind, words))
                reached.append(there)
        if send >> RAMP & 1 and kind == ops.DATA:
            if self.inbox[pe] is None:
                self.inbox[pe] = collections.deque()
            self.inbox[pe].append(words)
            self.held[pe] += len(words)
            heard.append(pe)
        acts = kind == ops.ALL or (kind == ops.OWN and side == RAMP)
        if acts and self.heeds[pe]:
            self.position[pe] = min(self.position[pe] + 1, self.last[pe])
        return reached


__all__ = ["Switched"]
