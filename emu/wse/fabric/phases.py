"""A stepped program's cycles by phase: what each instruction of its tasks took, over all PEs.

Counted as the run goes on, from the log of all PEs, so that none of it has to be kept.
"""

import dataclasses

import numpy as np

from emu.wse.fabric.arrays import Codes, Counts, CycleArray, Mask, PEs
from emu.wse.fabric.encoding.encode import Encoded
from emu.wse.fabric.encoding.instructions import NONE, VECTOR, Instruction
from emu.wse.fabric.events import Dispatches, Operations
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


@dataclasses.dataclass
class UnderWay:
    """The operation that one thread is busy with, on each PE.

    Attributes:
      code: `int64[PEs]`, the instruction, or NONE.
      begun: its dispatch.
      latest: its latest issue, or NONE if it has not issued.
    """

    code: Codes
    begun: CycleArray
    latest: CycleArray

    @classmethod
    def nothing(cls, pes: int) -> "UnderWay":
        nothing = np.full(pes, NONE, np.int64)
        return cls(code=nothing, begun=nothing.copy(), latest=nothing.copy())


@dataclasses.dataclass(frozen=True)
class Issues:
    """Issues of one thread, in the order of time: when, and on which flat PE."""

    cycle: CycleArray
    pe: PEs


def _cycles_after(instruction: Instruction) -> int:
    """From the cycle after its last issue, or from its dispatch off the datapath, to its end."""
    if instruction.kind != VECTOR:
        return instruction.time.setup_cycles
    # A microthread's operation is done with its last issue.
    return instruction.time.drain_cycles if instruction.thread == 0 else 0


class Tally:
    """Phases under way.

    Args:
      encoded: the program.
    """

    def __init__(self, encoded: Encoded):
        instructions = encoded.instructions
        pes = encoded.entry[0].size
        count = max(1, len(instructions))
        self.encoded = encoded
        self.vector = np.zeros(count, bool)
        self.thread = np.zeros(count, np.int64)
        self.after = np.zeros(count, np.int64)
        for number, instruction in enumerate(instructions):
            self.vector[number] = instruction.kind == VECTOR
            self.thread[number] = instruction.thread
            self.after[number] = _cycles_after(instruction)
        self.times = np.zeros(count, np.int64)
        self.datapath = np.zeros(count, np.int64)
        self.spent = np.zeros(count, np.int64)
        self.first = np.full(count, FAR, np.int64)
        self.last = np.zeros(count, np.int64)
        self.running: dict[int, UnderWay] = {}
        for thread in np.unique(self.thread[self.vector]).tolist():
            self.running[thread] = UnderWay.nothing(pes)

    def hear(self, begin: int, events: Dispatches, issues: np.ndarray) -> None:
        """Counts a chunk, as `cycles.log.Log` tells it."""
        events = events[events.code >= 0]
        vector = self.vector[events.code]
        scalar = events[~vector]
        ends = scalar.cycle + self.after[scalar.code]
        self.complete(scalar.code, scalar.cycle, ends)
        thread_of = self.thread[events.code]
        for thread, running in self.running.items():
            own = events[vector & (thread_of == thread)]
            by_pe = np.lexsort((own.cycle, own.pe))
            self._thread(running, begin, own[by_pe], issues == thread)

    def _thread(
        self,
        running: UnderWay,
        begin: int,
        own: Dispatches,
        served: Mask,
    ) -> None:
        """One thread's part of a chunk; `own` are its dispatches by PE and cycle."""
        new = len(own)
        # Operations: those dispatched in this chunk, then the one under way on each PE.
        code = np.concatenate([own.code, running.code])
        begun = np.concatenate([own.cycle, running.begun])
        never = np.full(new, NONE)
        latest = np.concatenate([never, running.latest])
        step, pe = np.nonzero(served)
        issue = Issues(cycle=step + begin, pe=pe)
        operation = self._issued_for(own, issue, begin + len(served))
        self.datapath += self._times(code[operation])
        latest[operation] = issue.cycle  # in ascending order: the last one stays
        # The last operation of each PE in this chunk goes on; those before it are over.
        changes = own.pe[1:] != own.pe[:-1]
        is_last = np.append(changes, True)[:new]
        last = np.flatnonzero(is_last)
        last_pe = own.pe[last]
        followed = np.flatnonzero(~is_last)
        replaced = new + last_pe  # what was under way where a PE has begun anew
        over = np.concatenate([followed, replaced])
        self._close(code[over], begun[over], latest[over])
        # What was under way before may have issued on.
        running.latest[:] = latest[new:]
        running.code[last_pe] = code[last]
        running.begun[last_pe] = begun[last]
        running.latest[last_pe] = latest[last]

    def _issued_for(self, own: Dispatches, issue: Issues, end: int) -> np.ndarray:
        """Which operation each issue is of: a row of `own`, or `len(own) + PE` if it is older.

        PE and cycle are made one number, `PE * end + cycle`, so that one search over all PEs finds
        the last dispatch before each issue. All cycles are before `end`. With an end of 100, PE 3's
        dispatches in cycles 10 and 20 are 310 and 320, and its issue in cycle 15, 315, is of the
        first; one in cycle 5, 305, comes after a dispatch of another PE: it is older.
        """
        dispatched = own.pe * end + own.cycle
        issued = issue.pe * end + issue.cycle
        before = np.searchsorted(dispatched, issued, side="right") - 1
        # Where all dispatches are later, `before` is -1 and reads the NONE that is appended.
        pe_before = np.append(own.pe, NONE)[before]
        older = len(own) + issue.pe
        return np.where(pe_before == issue.pe, before, older)

    def _times(self, code: Codes) -> Counts:
        """How often each instruction is among `code`."""
        return np.bincount(code, minlength=len(self.times))

    def _close(self, code: Codes, begun: CycleArray, latest: CycleArray) -> None:
        done = (code != NONE) & (latest != NONE)
        code = code[done]
        ends = latest[done] + 1 + self.after[code]
        self.complete(code, begun[done], ends)

    def complete(self, code: Codes, begun: CycleArray, ends: CycleArray) -> None:
        """Counts operations: instructions, cycles of dispatch and of completion."""
        self.times += self._times(code)
        np.add.at(self.spent, code, ends - begun)
        np.minimum.at(self.first, code, begun)
        np.maximum.at(self.last, code, ends)

    def done(self) -> tuple[Phase, ...]:
        """The phases that happened, in the order of their first dispatches."""
        for running in self.running.values():
            self._close(running.code, running.begun, running.latest)
            running.code[:] = NONE
        tasks = tasks_of(self.encoded)
        found: list[Phase] = []
        for number, instruction in enumerate(self.encoded.instructions):
            if not self.times[number]:
                continue
            phase = Phase(
                task=tasks[number],
                what=in_words(instruction.op),
                where=instruction.where,
                thread=instruction.thread,
                times=int(self.times[number]),
                first_cycle=int(self.first[number]),
                last_cycle=int(self.last[number]),
                datapath_cycles=int(self.datapath[number]),
                spent_cycles=int(self.spent[number]),
            )
            found.append(phase)
        found.sort(key=lambda phase: (phase.first_cycle, phase.last_cycle))
        return tuple(found)


def by_trains(encoded: Encoded, operations: Operations) -> tuple[Phase, ...]:
    """The phases of a program worked out as trains, of the operations of all PEs."""
    tally = Tally(encoded)
    code = operations.code
    on_datapath = tally.vector[code]
    issued = operations.last + 1
    done = np.where(on_datapath, issued, operations.dispatched)
    tally.complete(code, operations.dispatched, done + tally.after[code])
    for number, instruction in enumerate(encoded.instructions):
        time = instruction.time
        issues = -(-time.issues // time.words)
        tally.datapath[number] += tally.times[number] * issues
    return tally.done()


__all__ = ["Phase", "Tally", "by_trains"]
