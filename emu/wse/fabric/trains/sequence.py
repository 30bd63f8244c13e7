"""Which operation is next on each PE: a straight program's own order, or that of a stepped run.

A *lane* is a thread of a PE, `thread * PEs + PE`, so that the main threads of all PEs come first.
What a lane has come to is an instruction, or one of the codes below zero (`events.py`): the start
of a data task, or the end of what a microthread does.
"""

import collections
from typing import TypeAlias

import numpy as np

from emu.wse.fabric.arrays import Counts, PEs
from emu.wse.fabric.encoding.encode import Encoded
from emu.wse.fabric.encoding.instructions import NONE, Instruction
from emu.wse.fabric.events import DONE, Dispatches

Lanes: TypeAlias = np.ndarray
"""Integers: `thread * PEs + PE` of some lanes."""


class Straight:
    """Every PE runs its tasks in the order of their numbers, each from its first operation.

    Attributes:
      pc: `int32[lanes * PEs]`, the instruction each lane has come to, or NONE when it is done.
    """

    def __init__(self, encoded: Encoded):
        self.encoded = encoded
        self.entry = encoded.entry.reshape(len(encoded.entry), -1)
        # A straight program has no microthreads, so a lane is a PE.
        pes = self.entry.shape[1]
        self.pc = np.full(pes, NONE, np.int32)
        self.task = np.full(pes, -1, np.int8)
        self._next_task(np.arange(pes))

    def words_sent(self) -> dict[int, Counts]:
        """`int64[PEs]` by color: words that each PE sends in the whole run."""
        totals = _no_words(self.encoded, len(self.pc))
        of_task: collections.Counter[int] = collections.Counter()
        first = 0
        for number, instruction in enumerate(self.encoded.instructions):
            color = instruction.outward
            if color != NONE:
                of_task[color] += instruction.time.issues
            if not instruction.last:
                continue
            # Added task by task: one look at a wafer's entries, not one for each operation.
            if of_task:
                runs = (self.entry == first).any(axis=0)
                for color, words in of_task.items():
                    totals[color][runs] += words
            of_task.clear()
            first = number + 1
        return totals

    def advance(self, lanes: Lanes, instruction: Instruction | None) -> Lanes:
        """They have done an instruction; returns the lanes to look at next."""
        assert instruction is not None
        # A task's instructions lie in a row.
        if not instruction.last:
            self.pc[lanes] += 1
            return lanes
        self._next_task(lanes)
        return lanes[self.pc[lanes] != NONE]

    def _next_task(self, pes: PEs) -> None:
        self.pc[pes] = NONE
        for task, entry in enumerate(self.entry):
            has_code = entry[pes] != NONE
            # All tasks of a straight program are ready from the start, and the machine takes the
            # lowest that is: the order of their numbers.
            later = self.task[pes] < task
            undecided = self.pc[pes] == NONE
            takes = pes[has_code & later & undecided]
            self.pc[takes] = entry[takes]
            self.task[takes] = task


class Ordered:
    """Each main thread does what it did in a stepped run; microthreads take their time.

    An operation on a microthread is done once its words are there, at the latest where the run
    saw its end.

    Attributes:
      pc: as in `Straight`; what a microthread's lane has come to is what it is busy with.
    """

    def __init__(self, encoded: Encoded, order: Dispatches):
        self.encoded = encoded
        self.pes = encoded.entry[0].size
        # Each PE's part in a row, in the order of time: `next` to `stop` is what is left of it.
        by_pe = order[np.argsort(order.pe, kind="stable")]
        self.code = by_pe.code.astype(np.int32)
        self.pe = by_pe.pe
        count = np.bincount(self.pe, minlength=self.pes)
        self.stop = np.cumsum(count)
        self.next = self.stop - count
        threads = [instruction.thread for instruction in encoded.instructions]
        lanes = self.pes * (1 + max(threads, default=0))
        self.pc = np.full(lanes, NONE, np.int32)
        self._load(np.arange(self.pes))

    def words_sent(self) -> dict[int, Counts]:
        """`int64[PEs]` by color: words that each PE sends in the whole run."""
        totals = _no_words(self.encoded, self.pes)
        for number, instruction in enumerate(self.encoded.instructions):
            if instruction.outward != NONE and not instruction.control:
                # As often as the run dispatched it: a task that was activated three times sends
                # three times. A control wavelet is no word that anybody reads.
                pes = self.pe[self.code == number]
                runs = np.bincount(pes, minlength=self.pes)
                totals[instruction.outward] += runs * instruction.time.issues
        return totals

    def start_thread(self, lanes: Lanes, number: int, thread: int) -> Lanes:
        """Main threads give an instruction to a microthread; returns the lanes to look at."""
        # The main thread goes on at once, as on the machine; where it later needs the microthread
        # to be done, the order of the run has a `DONE` for it to wait at.
        there = lanes + thread * self.pes
        self.pc[there] = number
        main = self.advance(lanes, None)
        return np.concatenate([there, main])

    def ended(self, lanes: Lanes, thread: int) -> Lanes:
        """Of main threads that wait for a microthread, those whose wait is over."""
        microthread = lanes + thread * self.pes
        # Not done yet means that its words are still to be worked out: `advance` wakes the main
        # thread.
        return lanes[self.pc[microthread] == NONE]

    def advance(self, lanes: Lanes, instruction: Instruction | None) -> Lanes:
        """They have done what they had come to; returns the lanes to look at next."""
        main = not len(lanes) or lanes[0] < self.pes
        if main:
            self.next[lanes] += 1
            self._load(lanes)
            return lanes[self.pc[lanes] != NONE]
        # A microthread is free again, for which its main thread may be waiting.
        self.pc[lanes] = NONE
        thread, pe = np.divmod(lanes, self.pes)
        return pe[self.pc[pe] == DONE - thread]

    def _load(self, lanes: Lanes) -> None:
        has_more = self.next[lanes] < self.stop[lanes]
        more = lanes[has_more]
        self.pc[lanes] = NONE
        self.pc[more] = self.code[self.next[more]]


def _no_words(encoded: Encoded, pes: int) -> dict[int, Counts]:
    colors = encoded.program.colors.values()
    return {color.index: np.zeros(pes, np.int64) for color in colors}


__all__ = ["Ordered", "Straight"]
