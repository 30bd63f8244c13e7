"""A stepped program's cycles by phase: what each instruction of its tasks took, over all PEs.

Counted as the run goes on, from the log of all PEs, so that none of it has to be kept.
"""

import dataclasses

import numpy as np

from emu.wse.fabric.encoding.encode import Encoded
from emu.wse.fabric.encoding.instructions import NONE, VECTOR
from emu.wse.fabric.wording import in_words, tasks_of

FAR = np.iinfo(np.int64).max


@dataclasses.dataclass(frozen=True)
class Phase:
    """One instruction of a task, over all PEs that ran it.

    Attributes:
      task, what, where: its task, itself in words, and the line that declared the task.
      thread: 0 is the main thread.
      times: how often it was dispatched.
      first_cycle: of its first dispatch.
      last_cycle: when the last one was complete, the drain of a synchronous one included.
      datapath_cycles: that it held datapaths, summed.
      spent_cycles: from dispatch to completion, summed; threads of one PE overlap.
    """

    task: str
    what: str
    where: str
    thread: int
    times: int
    first_cycle: int
    last_cycle: int
    datapath_cycles: int
    spent_cycles: int


class Tally:
    """Phases under way.

    Args:
      encoded: the program.
    """

    def __init__(self, encoded: Encoded):
        made, pes = encoded.instructions, encoded.entry[0].size
        self.encoded = encoded
        self.vector = np.array([i.kind == VECTOR for i in made] or [False])
        self.thread = np.array([i.thread for i in made] or [0])
        after = [
            i.time.drain_cycles if i.kind == VECTOR else i.time.setup_cycles
            for i in made
        ]
        self.after = np.array(after or [0], np.int64)
        self.after[self.thread > 0] = (
            0  # a microthread's operation is done with its last issue
        )
        zero = np.zeros(len(self.after), np.int64)
        self.times = zero
        self.datapath = zero.copy()
        self.spent = zero.copy()
        self.first, self.last = zero + FAR, zero.copy()
        # Per thread and PE: the operation under way, its dispatch and its latest issue.
        self.running = {
            int(u): np.stack([np.full(pes, NONE, np.int64)] * 3)
            for u in np.unique(self.thread[self.vector])
        }

    def hear(self, begin: int, rows: np.ndarray, issues: np.ndarray) -> None:
        """Counts a chunk, as `cycle_log.Log` tells it."""
        rows = rows[rows[:, 2] >= 0]
        vector = self.vector[rows[:, 2]]
        cycle, _, code = rows[~vector].T
        self.complete(code, cycle, cycle + self.after[code])
        for u in self.running:
            mine = rows[vector & (self.thread[rows[:, 2]] == u)]
            self._thread(
                u, begin, mine[np.lexsort((mine[:, 0], mine[:, 1]))], issues == u
            )

    def _thread(self, u: int, begin: int, rows: np.ndarray, served: np.ndarray) -> None:
        """One thread's part of a chunk; `rows` are its dispatches by PE and cycle."""
        new, (cycle, pe, code) = len(rows), rows.T
        never = np.full(new, NONE, np.int64)
        # Operations: those dispatched in this chunk, then the one under way on each PE.
        code, begun, latest = np.concatenate(
            [np.stack([code, cycle, never]), self.running[u]], 1
        )
        step, at = np.nonzero(served)
        span = len(served) + 1
        before = (
            np.searchsorted(pe * span + cycle - begin, at * span + step, side="right")
            - 1
        )
        found = (before >= 0) & (np.append(pe, NONE)[before] == at)
        of = np.where(found, before, new + at)
        self.datapath += np.bincount(code[of], minlength=len(self.datapath))
        latest[of] = step + begin  # in ascending order: the last one stays
        # The PE's last one in this chunk.
        last = np.append(pe[1:] != pe[:-1], True)[:new]
        over = np.concatenate([np.flatnonzero(~last), new + pe[last]])
        self._close(code[over], begun[over], latest[over])
        self.running[u][:, pe[last]] = (
            code[:new][last],
            begun[:new][last],
            latest[:new][last],
        )
        others = np.ones(len(code) - new, bool)
        others[pe] = False
        self.running[u][2][others] = latest[new:][others]

    def _close(self, code: np.ndarray, begun: np.ndarray, latest: np.ndarray) -> None:
        done = (code != NONE) & (latest != NONE)
        code = code[done]
        begun = begun[done]
        latest = latest[done]
        self.complete(code, begun, latest + 1 + self.after[code])

    def complete(self, code: np.ndarray, begun: np.ndarray, end: np.ndarray) -> None:
        """Counts operations: instructions, cycles of dispatch and of completion."""
        self.times += np.bincount(code, minlength=len(self.times))
        np.add.at(self.spent, code, end - begun)
        np.minimum.at(self.first, code, begun)
        np.maximum.at(self.last, code, end)

    def done(self) -> tuple[Phase, ...]:
        """The phases that happened, in the order of their first dispatches."""
        for u, (code, begun, latest) in self.running.items():
            self._close(code, begun, latest)
            self.running[u][:] = NONE
        tasks = tasks_of(self.encoded)
        found = [
            Phase(
                tasks[k],
                in_words(i.op),
                i.where,
                i.thread,
                int(self.times[k]),
                int(self.first[k]),
                int(self.last[k]),
                int(self.datapath[k]),
                int(self.spent[k]),
            )
            for k, i in enumerate(self.encoded.instructions)
            if self.times[k]
        ]
        return tuple(sorted(found, key=lambda p: (p.first_cycle, p.last_cycle)))


def by_trains(encoded: Encoded, dispatches: np.ndarray) -> tuple[Phase, ...]:
    """The phases of a program worked out as trains, of all rows of `flow.Flow.dispatches`."""
    tally = Tally(encoded)
    _, code, cycle, _, latest = dispatches.T
    end = np.where(tally.vector[code], latest + 1, cycle) + tally.after[code]
    tally.complete(code, cycle, end)
    held = [-(-i.time.issues // i.time.words) for i in encoded.instructions]
    tally.datapath += tally.times * np.array(held or [0])
    return tally.done()


__all__ = ["Phase", "Tally", "by_trains"]
