"""Which operation is next on each PE: a straight program's own order, or that of a stepped run.

A *lane* is a thread of a PE, `lane * PEs + PE`, so that lane 0 of all PEs comes first. What a lane
has come to is an instruction, or one of the codes below zero.
"""

import numpy as np

from emu.wse.fabric.encoding.encode import Encoded
from emu.wse.fabric.encoding.instructions import NONE, Instruction

HEARD = -2  # HEARD - task: a data task starts
# DONE - thread: the main thread waits until that microthread's operation is done.
DONE = -64


class Straight:
    """Every PE runs its tasks in the order of their numbers, each from its first operation.

    Attributes:
      pc: `int32[lanes * PEs]`, the instruction each lane has come to, or NONE when it is done.
    """

    def __init__(self, encoded: Encoded):
        self.e = encoded
        self.entry = encoded.entry.reshape(len(encoded.entry), -1)
        self.pc = np.full(self.entry.shape[1], NONE, np.int32)
        self.task = np.full(self.entry.shape[1], -1, np.int8)
        self._next_task(np.arange(len(self.pc)))

    def words_sent(self) -> dict[int, np.ndarray]:
        """`int64[PEs]` by color: words that each PE sends in the whole run."""
        out = {
            c.index: np.zeros(len(self.pc), np.int64)
            for c in self.e.program.colors.values()
        }
        sums: dict[int, int] = {}
        first = 0
        for at, i in enumerate(self.e.instructions):
            if i.outward != NONE:
                sums[i.outward] = sums.get(i.outward, 0) + i.time.issues
            if i.last:
                runs = (self.entry == first).any(axis=0) if sums else None
                for color, words in sums.items():
                    out[color][runs] += words
                sums, first = {}, at + 1
        return out

    def advance(self, lanes: np.ndarray, i: Instruction | None) -> np.ndarray:
        """They have done `i`; returns the lanes to look at next."""
        assert i is not None
        if not i.last:
            self.pc[lanes] += 1
            return lanes
        self._next_task(lanes)
        return lanes[self.pc[lanes] != NONE]

    def _next_task(self, pes: np.ndarray) -> None:
        self.pc[pes] = NONE
        for task, entry in enumerate(self.entry):
            takes = (
                (self.task[pes] < task) & (self.pc[pes] == NONE) & (entry[pes] != NONE)
            )
            self.pc[pes[takes]] = entry[pes[takes]]
            self.task[pes[takes]] = task


class Ordered:
    """Each main thread does what it did in a stepped run; microthreads take their time.

    An operation on a microthread is done once its words are there, at the latest where the run
    saw its end.

    Attributes:
      pc: as in `Straight`; what a microthread's lane has come to is what it is busy with.
    """

    def __init__(self, encoded: Encoded, order: np.ndarray):
        self.e, self.pes = encoded, encoded.entry[0].size
        order = order[np.argsort(order[:, 1], kind="stable")]
        self.code = order[:, 2].astype(np.int32)
        self.pe = order[:, 1]
        count = np.bincount(self.pe, minlength=self.pes)
        self.stop = np.cumsum(count)
        self.next = self.stop - count
        threads = 1 + max((i.thread for i in encoded.instructions), default=0)
        self.pc = np.full(threads * self.pes, NONE, np.int32)
        self._load(np.arange(self.pes))

    def words_sent(self) -> dict[int, np.ndarray]:
        """`int64[PEs]` by color: words that each PE sends in the whole run."""
        out = {
            c.index: np.zeros(self.pes, np.int64)
            for c in self.e.program.colors.values()
        }
        for at, i in enumerate(self.e.instructions):
            if i.outward != NONE and not i.control:
                runs = np.bincount(self.pe[self.code == at], minlength=self.pes)
                out[i.outward] += runs * i.time.issues
        return out

    def start_thread(self, lanes: np.ndarray, at: int, thread: int) -> np.ndarray:
        """Main threads give instruction `at` to a microthread; returns the lanes to look at."""
        there = lanes + thread * self.pes
        self.pc[there] = at
        return np.concatenate([there, self.advance(lanes, None)])

    def ended(self, lanes: np.ndarray, thread: int) -> np.ndarray:
        """Of main threads that wait for a microthread, those whose wait is over."""
        return lanes[self.pc[lanes + thread * self.pes] == NONE]

    def advance(self, lanes: np.ndarray, i: Instruction | None) -> np.ndarray:
        """They have done `i`, or what else they had come to; returns the lanes to look at next."""
        if not len(lanes) or lanes[0] < self.pes:
            self.next[lanes] += 1
            self._load(lanes)
            return lanes[self.pc[lanes] != NONE]
        self.pc[lanes] = NONE
        main = lanes % self.pes
        return main[self.pc[main] == DONE - lanes // self.pes]

    def _load(self, lanes: np.ndarray) -> None:
        more = self.next[lanes] < self.stop[lanes]
        self.pc[lanes] = NONE
        self.pc[lanes[more]] = self.code[self.next[lanes[more]]]


__all__ = ["DONE", "HEARD", "Ordered", "Straight"]
