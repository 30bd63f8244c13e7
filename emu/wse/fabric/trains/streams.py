"""The words of one static color: what each PE has sent on it, when, and how much was read.

A stream is all that one PE sends on the color in the whole run; its receivers read it each at
their own pace. Words of all streams lie in one array, each stream's in a row.
"""

import numpy as np

from emu.wse.fabric.encoding.encode import Encoded
from emu.wse.fabric.encoding.instructions import NONE
from emu.wse.fabric.errors import FabricError
from emu.wse.fabric.trains import trains
from emu.wse.fabric.trains.routing import Routes


class Stream:
    """One static color's streams.

    Attributes:
      name, routes: the color's, and where its words go.
      total: `int64[PEs]`, words each PE sends in the whole run.
      offset: `int64[PEs + 1]`, where its words begin.
      sent, taken: `int32[PEs]`, words sent and words read so far.
      words: `uint32[all words]`; None without values.
      leaves: `int64[all words]`, when each leaves its output queue; None without times.
      pushes: the same, when it is put in.
      reads: `int64[...]`, when receivers read them, one stream's words for each of `read_at`.
      read_at: `int64[PEs]`, where a receiver's part of `reads` begins, or NONE if its words all fit
        the smallest queue and can hold up nobody.
    """

    def __init__(
        self,
        encoded: Encoded,
        routes: Routes,
        total: np.ndarray,
        *,
        values: bool,
        timed: bool,
    ):
        d, color = encoded.device, routes.color
        n = len(total)
        self.name = routes.name
        self.routes = routes
        self.total = total
        self.offset = np.zeros(n + 1, np.int64)
        np.cumsum(total, out=self.offset[1:])
        self.sent = np.zeros(n, np.int32)
        self.taken = np.zeros(n, np.int32)
        self.ramp = int(d.ramp_cycles)
        self.hop = int(d.hop_cycles)
        self.out_capacity = int(d.output_queue_words[color.output_queue]) + 1
        self.in_capacity = int(d.input_queue_words[color.input_queue]) + self.ramp
        self.link_capacity = int(d.router_queue_words) + self.hop
        self.ramp_capacity = int(d.router_queue_words) + self.ramp
        every = int(self.offset[-1])
        self.words = np.zeros(every, np.uint32) if values else None
        self.leaves = np.zeros(every, np.int64) if timed else None
        self.pushes = self.reads = None
        self.read_at = np.full(n if timed else 0, NONE, np.int64)
        if timed:
            self._keep_reads()

    def _keep_reads(self) -> None:
        """Room for the times of reads and pushes, where a queue could ever be full."""
        heard = self.total[self.routes.source[self.routes.receivers]]
        slow = heard > self.in_capacity
        if slow.any():
            begin = np.cumsum(heard[slow]) - heard[slow]
            self.read_at[self.routes.receivers[slow]] = begin
            self.reads = np.zeros(int(heard[slow].sum()), np.int64)
            self.pushes = np.zeros(len(self.leaves), np.int64)  # type: ignore[arg-type]

    def available(self, pes: np.ndarray) -> np.ndarray:
        """Words that each may read now."""
        return self.sent[self.routes.source[pes]] - self.taken[pes]

    def take(self, pes: np.ndarray, count: int) -> np.ndarray:
        """Where in the arrays their next `count` words are, `[PEs, count]`; they are read."""
        begin = self.offset[self.routes.source[pes]] + self.taken[pes]
        self.taken[pes] += count
        return begin[:, None] + np.arange(count)

    def content(self, at: np.ndarray) -> np.ndarray:
        """The words at `at`."""
        assert self.words is not None
        return self.words[at]

    def arrivals(self, pes: np.ndarray, at: np.ndarray) -> np.ndarray:
        """When the words at `at` can be in the input queues of their readers `pes`."""
        assert self.leaves is not None
        away = 2 * self.ramp + self.routes.hops[pes].astype(np.int64) * self.hop
        return self.leaves[at] + away[:, None]

    def was_read(self, pes: np.ndarray, when: np.ndarray) -> None:
        """Remembers when they read the words that they took last, `[PEs, count]`."""
        if self.reads is None:
            return
        slow = self.read_at[pes] != NONE
        if slow.any():
            begin = (self.read_at[pes] + self.taken[pes] - when.shape[1])[slow]
            self.reads[begin[:, None] + np.arange(when.shape[1])] = when[slow]

    def put(self, pes: np.ndarray, count: int, words: np.ndarray | None) -> np.ndarray:
        """They send `count` words each; returns the receivers."""
        if self.words is not None and words is not None:
            self.words[
                (self.offset[pes] + self.sent[pes])[:, None] + np.arange(count)
            ] = words
        self.sent[pes] += count
        return self.routes.heard_by(pes)

    def control(self, pes: np.ndarray, reach: int) -> np.ndarray:
        """Control wavelets move no switch here and never reach a PE."""
        return pes[:0]

    def switch(self, pes: np.ndarray, position: int) -> np.ndarray:
        """Its routers have one position."""
        if position:
            raise FabricError(
                f"color '{self.name}' switches to position {position}, has one"
            )
        return pes[:0]

    def sender(self, pe: int) -> int:
        """Whose words a PE hears."""
        return int(self.routes.source[pe])

    def unread(self) -> tuple[int, int]:
        """Words that a reader left, and its PE; 0 if there are none."""
        r = self.routes
        left = self.sent[r.source[r.receivers]] - self.taken[r.receivers]
        at = int(left.argmax()) if len(left) else 0
        return (int(left[at]), int(r.receivers[at])) if left.any() else (0, 0)

    # --- times of the sender's queue; before `put` ---

    def previous(self, pes: np.ndarray) -> np.ndarray:
        """When the last word that each sent leaves its output queue."""
        assert self.leaves is not None
        # Of a PE without one: unused.
        last = self.leaves[self.offset[pes] + self.sent[pes] - 1]
        return np.where(self.sent[pes] > 0, last, trains.NEVER)

    def before(self, pes: np.ndarray) -> np.ndarray:
        """Departures of the last words sent, as many as the output queue holds, the latest last."""
        assert self.leaves is not None
        back = np.arange(-self.out_capacity, 0)
        at = (self.offset[pes] + self.sent[pes])[:, None] + back
        there = self.sent[pes][:, None] + back >= 0
        return np.where(there, self.leaves[np.where(there, at, 0)], trains.NEVER)

    def pushed(self, pes: np.ndarray, pushes: np.ndarray, leaves: np.ndarray) -> None:
        """Remembers when the words they send now enter and leave the output queue."""
        assert self.leaves is not None
        at = (self.offset[pes] + self.sent[pes])[:, None] + np.arange(leaves.shape[1])
        self.leaves[at] = leaves
        if self.pushes is not None:
            self.pushes[at] = pushes


__all__ = ["Stream"]
