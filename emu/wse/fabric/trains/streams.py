"""The words of one static color: what each PE has sent on it, when, and how much was read.

A stream is all that one PE sends on the color in the whole run; its receivers read it each at
their own pace. Words of all streams lie in one array, each stream's in a row:

    PE           0  1  2  3        PEs 0 and 2 send 3 and 2 words
    total        3  0  2  0
    offset       0  3  3  5  5     word 1 of PE 2 lies at 3 + 1
"""

import numpy as np

from emu.wse.fabric.arrays import Counts, CycleArray, PEs, WordArray, WordPlaces
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
      ramp_cycles, hop_cycles: of the device.
      out_capacity, in_capacity: `int64[PEs]`, words in the queues at each PE's ramp and on the way
        into them.
      link_capacity, ramp_capacity: the same of a router, for what comes from another or from its
        PE.
    """

    def __init__(
        self,
        encoded: Encoded,
        routes: Routes,
        total: Counts,
        *,
        values: bool,
        timed: bool,
    ):
        device = encoded.device
        color = routes.color
        pes = len(total)
        self.name = routes.name
        self.routes = routes
        self.total = total
        self.offset = np.zeros(pes + 1, np.int64)
        np.cumsum(total, out=self.offset[1:])
        self.sent = np.zeros(pes, np.int32)
        self.taken = np.zeros(pes, np.int32)
        self.ramp_cycles = int(device.ramp_cycles)
        self.hop_cycles = int(device.hop_cycles)
        in_words = encoded.inputs.flat_words[color.index]
        out_words = encoded.outputs.flat_words[color.index]
        router_words = int(device.router_queue_words)
        # A queue and its way hold a word for each cycle of the way: a stream flows at full rate.
        self.out_capacity = out_words + 1
        self.in_capacity = in_words + self.ramp_cycles
        self.link_capacity = router_words + self.hop_cycles
        self.ramp_capacity = router_words + self.ramp_cycles
        all_words = int(self.offset[-1])
        self.words = np.zeros(all_words, np.uint32) if values else None
        self.leaves = np.zeros(all_words, np.int64) if timed else None
        self.pushes: CycleArray | None = None
        self.reads: CycleArray | None = None
        self.read_at = np.full(pes if timed else 0, NONE, np.int64)
        if timed:
            self._keep_reads(all_words)

    def _keep_reads(self, all_words: int) -> None:
        """Room for the times of reads and pushes, where a queue could ever be full."""
        receivers = self.routes.receivers
        source = self.routes.source[receivers]
        heard = self.total[source]
        # Fewer words wait in the input queue however late they are read.
        fills_queue = heard > self.in_capacity[receivers]
        if not fills_queue.any():
            return
        # Only these readers' times are kept: where all streams are short, none are.
        slow = receivers[fills_queue]
        words = heard[fills_queue]
        end = np.cumsum(words)
        self.read_at[slow] = end - words
        self.reads = np.zeros(int(end[-1]), np.int64)
        self.pushes = np.zeros(all_words, np.int64)

    def available(self, pes: PEs) -> Counts:
        """Words that each may read now."""
        source = self.routes.source[pes]
        # Each reader counts for itself what it took: a stream with many readers lies in memory
        # once.
        return self.sent[source] - self.taken[pes]

    def take(self, pes: PEs, count: int) -> WordPlaces:
        """Where in the arrays their next `count` words are, `[PEs, count]`; they are read."""
        source = self.routes.source[pes]
        begin = self.offset[source] + self.taken[pes]
        self.taken[pes] += count
        return _following(begin, count)

    def content(self, at: WordPlaces) -> WordArray:
        """The words at `at`."""
        assert self.words is not None
        return self.words[at]

    def arrivals(self, pes: PEs, at: WordPlaces) -> CycleArray:
        """When the words at `at` can be in the input queues of their readers `pes`.

        Over the sender's ramp, all links and the reader's ramp: 3 hops from its sender on a WSE-3,
        a word that leaves its queue in cycle 10 arrives in cycle 10 + 2 * 2 + 3 * 2 = 20.
        """
        assert self.leaves is not None
        hops = self.routes.hops[pes].astype(np.int64)
        away = 2 * self.ramp_cycles + hops * self.hop_cycles
        return self.leaves[at] + away[:, None]

    def was_read(self, pes: PEs, when: CycleArray) -> None:
        """Remembers when they read the words that they took last, `[PEs, count]`."""
        if self.reads is None:
            return
        count = when.shape[1]
        slow = self.read_at[pes] != NONE
        if slow.any():
            readers = pes[slow]
            # `take` has counted these words already.
            before = self.taken[readers] - count
            begin = self.read_at[readers] + before
            self.reads[_following(begin, count)] = when[slow]

    def put(self, pes: PEs, count: int, words: WordArray | None) -> PEs:
        """They send `count` words each; returns the receivers."""
        if self.words is not None and words is not None:
            self.words[self._next_words(pes, count)] = words
        self.sent[pes] += count
        return self.routes.heard_by(pes)

    def _next_words(self, pes: PEs, count: int) -> WordPlaces:
        """Where in the arrays the words belong that they send next, `[PEs, count]`."""
        begin = self.offset[pes] + self.sent[pes]
        return _following(begin, count)

    def control(self, pes: PEs, kind: int) -> PEs:
        """Control wavelets move no switch here and never reach a PE."""
        return pes[:0]

    def switch(self, pes: PEs, position: int) -> PEs:
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
        receivers = self.routes.receivers
        left = self.available(receivers)
        if not left.any():
            return 0, 0
        most = int(left.argmax())
        return int(left[most]), int(receivers[most])

    # --- times of the sender's queue; before `put` ---

    def previous(self, pes: PEs) -> CycleArray:
        """When the last word that each sent leaves its output queue."""
        assert self.leaves is not None
        sent = self.sent[pes]
        # Of a PE that has sent nothing the entry is another's, and is not used.
        last = self.leaves[self.offset[pes] + sent - 1]
        return np.where(sent > 0, last, trains.NEVER)

    def before(self, pes: PEs) -> CycleArray:
        """Departures of the last words sent, as many as the output queue holds, the latest last.

        All of `pes` have output queues of one depth.
        """
        assert self.leaves is not None
        capacity = int(self.out_capacity[pes[0]])
        back = np.arange(-capacity, 0)
        # A PE that has sent 3 words, with a queue of 9, sees words -6 to 2. Those below 0 never
        # were; as having left long ago they delay nothing.
        word = self.sent[pes][:, None] + back
        exists = word >= 0
        at = self.offset[pes][:, None] + word
        leaves = self.leaves[np.where(exists, at, 0)]
        return np.where(exists, leaves, trains.NEVER)

    def pushed(self, pes: PEs, pushes: CycleArray, leaves: CycleArray) -> None:
        """Remembers when the words they send now enter and leave the output queue."""
        assert self.leaves is not None
        at = self._next_words(pes, leaves.shape[1])
        self.leaves[at] = leaves
        if self.pushes is not None:
            self.pushes[at] = pushes


def _following(begin: np.ndarray, count: int) -> WordPlaces:
    """`[PEs, count]`: each index of `begin` and those after it."""
    return begin[:, None] + np.arange(count)


__all__ = ["Stream"]
