"""The wafer simulated wavelet by wavelet in plain Python: slow, and written to be read.

An event loop over cycles on dictionaries and queues, with nothing in common with what it checks but
the encoded program.
"""

import collections
import dataclasses
from typing import Any

import numpy as np

from emu.wse.fabric.encoding import instructions as enc
from emu.wse.fabric.encoding.encode import Encoded
from emu.wse.fabric.encoding.instructions import NONE, VECTOR, Instruction
from tests.emu.wse.fabric.wavelet_routers import NEVER, Routers, Simulated


@dataclasses.dataclass
class Thread:
    """An operation in flight on a microthread, or on the main thread (0).

    Attributes:
      at, instruction: which one.
      record: index of its entry in `Simulated.operations`.
      first: cycle in which it may issue first.
      left: wavelets, or datapath cycles of a local operation, that are left.
    """

    at: int
    instruction: Instruction
    record: int
    first: int
    left: int


@dataclasses.dataclass
class Main:
    """A PE's main thread: in `pc` at `due`, or idle since `due` if `pc` is NONE."""

    pc: int = NONE
    due: int = 0
    waits: bool = False  # for its synchronous operation


class Wafer(Routers):
    """Fabric and PEs; `simulate` runs it."""

    def __init__(self, e: Encoded):
        super().__init__(e)
        self.main = [Main() for _ in self.pes]
        self.threads: list[dict[int, Thread]] = [{} for _ in self.pes]
        self.last_issue: dict = collections.defaultdict(lambda: NEVER)  # (PE, thread)
        self.active = [self._bits(e.started, n) for n in self.pes]
        self.blocked = [self._bits(e.blocked, n) for n in self.pes]
        self.pushed: collections.Counter = collections.Counter()  # (color, PE)
        self.data_task = self._data_tasks()
        self.task = [0] * len(self.pes)  # that each PE runs, or ran last
        self.resume: dict = {}  # (task, PE): where it goes on

    def _bits(self, mask: np.ndarray, n: int) -> set[int]:
        bits = int(mask.reshape(-1)[n])
        return {k for k in range(32) if bits >> k & 1}

    def _data_tasks(self) -> dict[tuple[int, int], int]:
        """Color of each (task, PE) that a wavelet starts."""
        program = self.e.program
        return {
            (k, int(n)): program.colors[task.color].index
            for k, declared in enumerate(program.tasks.values())
            for task in declared
            if task.color is not None
            for n in np.flatnonzero(task.place)
        }

    # --- main thread ---

    def run_main(self, n: int) -> None:
        """Dispatches what is due; with no cycles between, more than one instruction."""
        m = self.main[n]
        while not m.waits and m.due <= self.t:
            if m.pc == NONE and not self.pick(n):
                return
            if m.due > self.t or not self.dispatch(n):
                return

    def pick(self, n: int) -> bool:
        """Takes the lowest task that is ready."""
        for task in range(len(self.e.entry)):
            color = self.data_task.get((task, n))
            ready = (
                task in self.active[n]
                if color is None
                else self.there(self.into[color, n])
            )
            if not ready or task in self.blocked[n]:
                continue
            if color is None:
                self.active[n].discard(task)
            else:
                self.take(color, n)
                self.did.order.append((self.t, n, -2 - task))
            self.task[n] = task
            first = int(self.e.entry[task].reshape(-1)[n])
            self.main[n].pc = self.resume.pop((task, n), first)
            self.main[n].due = self.t + int(self.d.task_switch_cycles)
            self.busy = True
            return True
        return False

    def dispatch(self, n: int) -> bool:
        """Dispatches the main thread's next instruction, unless its microthread is busy."""
        m = self.main[n]
        at, i = m.pc, self.e.instructions[m.pc]
        if i.kind == VECTOR and i.thread in self.threads[n]:
            return False
        self.did.order.append((self.t, n, at))
        self.busy = True
        m.pc = NONE if i.last else at + 1
        if i.kind == enc.PAUSE:
            self.resume[self.task[n], n] = at + 1
        if i.kind == VECTOR:
            self.did.operations.append([at, n, self.t, NEVER, NEVER])
            ready, record = self.t + i.time.setup_cycles, len(self.did.operations) - 1
            self.threads[n][i.thread] = Thread(at, i, record, ready, i.time.issues)
            m.waits = i.thread == 0
            m.due = self.t + int(self.d.async_cycles)
        else:
            m.due = self.t + i.time.setup_cycles
            self.scalar(i, n)
        if not m.waits:
            self.did.ends[n] = max(self.did.ends.get(n, 0), m.due)
        return True

    def scalar(self, i: Instruction, n: int) -> None:
        flags = {
            enc.ACTIVATE: (self.active, set.add),
            enc.BLOCK: (self.blocked, set.add),
            enc.UNBLOCK: (self.blocked, set.discard),
        }
        if i.kind == enc.STAMP:
            self.did.stamps[self.e.stamps[i.target], n] = self.t
        elif i.kind == enc.SWITCH:
            to: Any = i.op
            self.later.append(
                lambda: self.position.update({(i.target, n): to.position})
            )
        elif i.kind in flags:
            bits, change = flags[i.kind]
            self.later.append(lambda: change(bits[n], i.target))
        else:
            assert i.kind in (enc.CODE, enc.PAUSE)

    # --- datapath ---

    def take(self, color: int, n: int) -> None:
        """A wavelet is read from an input queue."""
        self.did.read[color, n].append(self.into[color, n].popleft()[2])

    def issue(self, n: int) -> None:
        """The datapath serves the thread that is ready and was served longest ago."""
        ready = [
            u
            for u, x in self.threads[n].items()
            if x.first <= self.t and self.can(n, x)
        ]
        if not ready:
            return
        u = min(ready, key=lambda u: (self.last_issue[n, u], u))
        x = self.threads[n][u]
        i, words = x.instruction, min(x.instruction.time.words, x.left)
        if i.inward != NONE:
            words = min(words, sum(at <= self.t for at, *_ in self.into[i.inward, n]))
            for _ in range(words):
                self.take(i.inward, n)
        for _ in range(words if i.outward != NONE else 0):
            tag = (n, i.outward, NEVER if i.control else self.pushed[i.outward, n])
            self.pushed[i.outward, n] += not i.control
            self.out[i.outward, n].append((self.t + 1, i.control, tag))
        record = self.did.operations[x.record]
        record[3] = self.t if record[3] == NEVER else record[3]
        record[4] = self.last_issue[n, u] = self.t
        x.left -= words
        x.first = self.t + i.time.interval_cycles
        self.busy = True
        if x.left == 0:
            self.later.append(lambda: self.complete(n, u, x))

    def can(self, n: int, x: Thread) -> bool:
        """Whether an operation has its wavelet and room for what it sends."""
        i = x.instruction
        if i.inward != NONE and not self.there(self.into[i.inward, n]):
            return False
        if i.outward == NONE:
            return True
        depth = self.d.output_queue_words[self.colors[i.outward].output_queue]
        return (
            self.held[self.key(self.out, i.outward, n)] + min(i.time.words, x.left)
            <= depth + 1
        )

    def complete(self, n: int, u: int, x: Thread) -> None:
        """At the start of the cycle after an operation's last issue."""
        i, m = x.instruction, self.main[n]
        del self.threads[n][u]
        if u == 0:
            m.waits, m.due = False, self.t + i.time.drain_cycles
        end = m.due if u == 0 else self.t
        self.did.ends[n] = max(self.did.ends.get(n, 0), end)
        if i.activate != NONE:
            self.active[n].add(i.activate)
        if i.unblock != NONE:
            self.blocked[n].discard(i.unblock)

    # --- a cycle ---

    def step(self) -> bool:
        """One cycle; whether anything happened or is still to come."""
        changes, self.later, self.busy = self.later, [], False
        for change in changes:
            change()
        self.see()
        for n in self.pes:
            self.run_main(n)
            self.issue(n)
            self.up(n)
            self.go(n)
        queues = (q for qs in (self.out, self.fifo, self.into) for q in qs.values())
        coming = any(x[0] > self.t for q in queues for x in q)
        coming |= any(m.due > self.t for m in self.main)
        coming |= any(x.first > self.t for xs in self.threads for x in xs.values())
        self.t += 1
        return self.busy or bool(changes) or coming


def simulate(e: Encoded, limit_cycles: int = 100_000) -> Simulated:
    """Runs a program until nothing can happen any more.

    Raises:
      RuntimeError: it goes on for longer than `limit_cycles`.
    """
    wafer = Wafer(e)
    while wafer.step():
        if wafer.t > limit_cycles:
            raise RuntimeError(f"still running after {limit_cycles} cycles")
    did = wafer.did
    did.unread = {at: len(q) for at, q in wafer.into.items() if q}
    did.stranded = sum(len(q) for qs in (wafer.out, wafer.fifo) for q in qs.values())
    for n in wafer.pes:
        for u, x in wafer.threads[n].items():
            did.stuck[n] = f"thread {u}: instruction {x.at}, {x.left} left"
        if n not in did.stuck and (wafer.main[n].pc != NONE or wafer.active[n]):
            did.stuck[n] = "a task that never ran"
    return did
