"""Which operation is next on each PE: the tasks of a straight program, one after another."""

import numpy as np

from emu.wse.encode import NONE, Encoded, Instruction


class Straight:
    """Every PE runs its tasks in the order of their numbers, each from its first operation.

    Attributes:
      pc: `int32[PEs]`, the instruction each has come to, or NONE when it is done.
    """

    def __init__(self, encoded: Encoded):
        self.e = encoded
        self.entry = encoded.entry.reshape(len(encoded.entry), -1)
        self.pc = np.full(self.entry.shape[1], NONE, np.int32)
        self.task = np.full(self.entry.shape[1], -1, np.int8)
        self.takes = np.array([i.inward for i in encoded.instructions] + [NONE], np.int32)
        self._next_task(np.arange(len(self.pc)))

    def words_sent(self) -> dict[int, np.ndarray]:
        """`int64[PEs]` by color: words that each PE sends in the whole run."""
        out = {c.index: np.zeros(len(self.pc), np.int64) for c in self.e.program.colors.values()}
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

    def waits_for(self, pes: np.ndarray, color: int) -> np.ndarray:
        """Whether they have come to an operation that takes words of `color`."""
        return self.takes[self.pc[pes]] == color  # of NONE: the last entry

    def advance(self, pes: np.ndarray, i: Instruction) -> np.ndarray:
        """They have done `i`; returns those that go on."""
        if not i.last:
            self.pc[pes] += 1
            return pes
        self._next_task(pes)
        return pes[self.pc[pes] != NONE]

    def _next_task(self, pes: np.ndarray) -> None:
        self.pc[pes] = NONE
        for task, entry in enumerate(self.entry):
            takes = (self.task[pes] < task) & (self.pc[pes] == NONE) & (entry[pes] != NONE)
            self.pc[pes[takes]] = entry[pes[takes]]
            self.task[pes[takes]] = task


__all__ = ["Straight"]
