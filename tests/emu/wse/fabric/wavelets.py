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
from tests.emu.wse.fabric.wavelet_routers import NEVER, Routers, Simulated, Wavelet


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

    def __init__(self, encoded: Encoded):
        super().__init__(encoded)
        self.main = [Main() for _ in self.pes]
        self.threads: list[dict[int, Thread]] = [{} for _ in self.pes]
        self.last_issue: dict = collections.defaultdict(lambda: NEVER)  # (PE, thread)
        self.active = [self._bits(encoded.started, pe) for pe in self.pes]
        self.blocked = [self._bits(encoded.blocked, pe) for pe in self.pes]
        self.pushed: collections.Counter = collections.Counter()  # (color, PE)
        self.data_task = self._data_tasks()
        self.task = [0] * len(self.pes)  # that each PE runs, or ran last
        self.resume: dict = {}  # (task, PE): where it goes on

    def _bits(self, mask: np.ndarray, pe: int) -> set[int]:
        bits = int(mask.reshape(-1)[pe])
        return {k for k in range(32) if bits >> k & 1}

    def _data_tasks(self) -> dict[tuple[int, int], int]:
        """Color of each (task, PE) that a wavelet starts."""
        program = self.encoded.program
        return {
            (k, int(pe)): program.colors[task.color].index
            for k, declared in enumerate(program.tasks.values())
            for task in declared
            if task.color is not None
            for pe in np.flatnonzero(task.place)
        }

    # --- main thread ---

    def run_main(self, pe: int) -> None:
        """Dispatches what is due; with no cycles between, more than one instruction."""
        main = self.main[pe]
        while not main.waits and main.due <= self.now:
            if main.pc == NONE and not self.pick(pe):
                return
            if main.due > self.now or not self.dispatch(pe):
                return

    def pick(self, pe: int) -> bool:
        """Takes the lowest task that is ready."""
        for task in range(len(self.encoded.entry)):
            color = self.data_task.get((task, pe))
            ready = (
                task in self.active[pe]
                if color is None
                else self.there(self.inputs[color, pe])
            )
            if not ready or task in self.blocked[pe]:
                continue
            if color is None:
                self.active[pe].discard(task)
            else:
                self.take(color, pe)
                self.did.order.append((self.now, pe, -2 - task))
            self.task[pe] = task
            first = int(self.encoded.entry[task].reshape(-1)[pe])
            self.main[pe].pc = self.resume.pop((task, pe), first)
            self.main[pe].due = self.now + int(self.device.task_switch_cycles)
            self.busy = True
            return True
        return False

    def dispatch(self, pe: int) -> bool:
        """Dispatches the main thread's next instruction, unless its microthread is busy."""
        main = self.main[pe]
        at, instruction = main.pc, self.encoded.instructions[main.pc]
        if instruction.kind == VECTOR and instruction.thread in self.threads[pe]:
            return False
        self.did.order.append((self.now, pe, at))
        self.busy = True
        main.pc = NONE if instruction.last else at + 1
        if instruction.kind == enc.PAUSE:
            self.resume[self.task[pe], pe] = at + 1
        if instruction.kind == VECTOR:
            self.did.operations.append([at, pe, self.now, NEVER, NEVER])
            ready, record = (
                self.now + instruction.time.setup_cycles,
                len(self.did.operations) - 1,
            )
            self.threads[pe][instruction.thread] = Thread(
                at, instruction, record, ready, instruction.time.issues
            )
            main.waits = instruction.thread == 0
            main.due = self.now + int(self.device.async_cycles)
        else:
            main.due = self.now + instruction.time.setup_cycles
            self.scalar(instruction, pe)
        if not main.waits:
            self.did.ends[pe] = max(self.did.ends.get(pe, 0), main.due)
        return True

    def scalar(self, instruction: Instruction, pe: int) -> None:
        flags = {
            enc.ACTIVATE: (self.active, set.add),
            enc.BLOCK: (self.blocked, set.add),
            enc.UNBLOCK: (self.blocked, set.discard),
        }
        if instruction.kind == enc.STAMP:
            self.did.stamps[self.encoded.stamps[instruction.target], pe] = self.now
        elif instruction.kind == enc.SWITCH:
            to: Any = instruction.op
            self.later.append(
                lambda: self.position.update({(instruction.target, pe): to.position})
            )
        elif instruction.kind in flags:
            bits, change = flags[instruction.kind]
            self.later.append(lambda: change(bits[pe], instruction.target))
        else:
            assert instruction.kind in (enc.CODE, enc.PAUSE)

    # --- datapath ---

    def take(self, color: int, pe: int) -> None:
        """A wavelet is read from an input queue."""
        self.did.read[color, pe].append(self.inputs[color, pe].popleft().tag)

    def issue(self, pe: int) -> None:
        """The datapath serves the thread that is ready and was served longest ago."""
        ready = [
            thread
            for thread, operation in self.threads[pe].items()
            if operation.first <= self.now and self.can(pe, operation)
        ]
        if not ready:
            return
        thread = min(ready, key=lambda thread: (self.last_issue[pe, thread], thread))
        operation = self.threads[pe][thread]
        self.see_shared(pe, thread)
        instruction = operation.instruction
        inward = instruction.inward
        wavelets = min(instruction.time.words, operation.left)
        if inward != NONE:
            there = [each.there <= self.now for each in self.inputs[inward, pe]]
            wavelets = min(wavelets, sum(there))
            for _ in range(wavelets):
                self.take(inward, pe)
        if instruction.outward != NONE:
            for _ in range(wavelets):
                self.push(instruction, pe)
        record = self.did.operations[operation.record]
        record[3] = self.now if record[3] == NEVER else record[3]
        record[4] = self.last_issue[pe, thread] = self.now
        operation.left -= wavelets
        operation.first = self.now + instruction.time.interval_cycles
        self.busy = True
        if operation.left == 0:
            self.later.append(lambda: self.complete(pe, thread, operation))

    def see_shared(self, pe: int, thread: int) -> None:
        """Whether an operation dispatched earlier still moves words of what this one moves."""
        own = self.threads[pe][thread]
        for other in self.threads[pe].values():
            earlier = other.record < own.record
            ins, outs = other.instruction.inward, other.instruction.outward
            takes = ins != NONE and ins == own.instruction.inward
            sends = outs != NONE and outs == own.instruction.outward
            if earlier and (takes or sends):
                self.did.shared.append((self.now, pe))

    def push(self, instruction: Instruction, pe: int) -> None:
        """A wavelet goes into an output queue; control wavelets are not numbered."""
        color = instruction.outward
        number = NEVER
        if not instruction.control:
            number = self.pushed[color, pe]
            self.pushed[color, pe] += 1
        tag = (pe, color, number)
        wavelet = Wavelet(there=self.now + 1, kind=instruction.control, tag=tag)
        self.outputs[color, pe].append(wavelet)

    def can(self, pe: int, operation: Thread) -> bool:
        """Whether an operation has its wavelet and room for what it sends."""
        instruction = operation.instruction
        inward = instruction.inward
        outward = instruction.outward
        if inward != NONE and not self.there(self.inputs[inward, pe]):
            return False
        if outward == NONE:
            return True
        room = int(self.encoded.outputs.flat_words[outward, pe]) + 1
        held = self.held[self.key(self.outputs, outward, pe)]
        return held + min(instruction.time.words, operation.left) <= room

    def complete(self, pe: int, thread: int, operation: Thread) -> None:
        """At the start of the cycle after an operation's last issue."""
        instruction, main = operation.instruction, self.main[pe]
        del self.threads[pe][thread]
        if thread == 0:
            main.waits, main.due = False, self.now + instruction.time.drain_cycles
        end = main.due if thread == 0 else self.now
        self.did.ends[pe] = max(self.did.ends.get(pe, 0), end)
        if instruction.activate != NONE:
            self.active[pe].add(instruction.activate)
        if instruction.unblock != NONE:
            self.blocked[pe].discard(instruction.unblock)

    # --- a cycle ---

    def step(self) -> bool:
        """One cycle; whether anything happened or is still to come."""
        changes, self.later, self.busy = self.later, [], False
        for change in changes:
            change()
        self.see()
        for pe in self.pes:
            self.run_main(pe)
            self.issue(pe)
            self.enter(pe)
            self.forward(pe)
        under_way = [
            wavelet.there > self.now
            for queues in (self.outputs, self.channels, self.inputs)
            for queue in queues.values()
            for wavelet in queue
        ]
        main = [main.due > self.now for main in self.main]
        set_up = [
            operation.first > self.now
            for threads in self.threads
            for operation in threads.values()
        ]
        self.now += 1
        coming = any(under_way) or any(main) or any(set_up)
        return self.busy or bool(changes) or coming


def simulate(encoded: Encoded, limit_cycles: int = 100_000) -> Simulated:
    """Runs a program until nothing can happen any more.

    Raises:
      RuntimeError: it goes on for longer than `limit_cycles`.
    """
    wafer = Wafer(encoded)
    while wafer.step():
        if wafer.now > limit_cycles:
            raise RuntimeError(f"still running after {limit_cycles} cycles")
    did = wafer.did
    for at, queue in wafer.inputs.items():
        if queue:
            did.unread[at] = len(queue)
    for queues in (wafer.outputs, wafer.channels):
        did.stranded += sum(len(queue) for queue in queues.values())
    for pe in wafer.pes:
        for thread, operation in wafer.threads[pe].items():
            did.stuck[pe] = (
                f"thread {thread}: instruction {operation.at}, {operation.left} left"
            )
        waits = wafer.main[pe].pc != NONE or wafer.active[pe]
        if pe not in did.stuck and waits:
            did.stuck[pe] = "a task that never ran"
    return did
