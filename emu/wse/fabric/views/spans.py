"""What each thread of the traced PEs of a stepped run did, as spans of cycles."""

import dataclasses

import numpy as np

from emu.wse.fabric.cycles import states as thread_states
from emu.wse.fabric.cycles.run import Cycles
from emu.wse.fabric.cycles.states import THREAD_STATES
from emu.wse.fabric.encoding.encode import Encoded
from emu.wse.fabric.encoding.instructions import NONE, VECTOR
from emu.wse.fabric.events import Dispatches
from emu.wse.fabric.wording import in_words


@dataclasses.dataclass(frozen=True)
class Span:
    """Cycles in which one thread did one thing.

    Attributes:
      pe: flat index.
      thread: 0 is the main thread.
      state: index of `cycles.states.THREAD_STATES`, never idle.
      instruction: the operation it belongs to; NONE before the first.
      start, end: its first cycle, and the one after its last.
    """

    pe: int
    thread: int
    state: int
    instruction: int
    start: int
    end: int

    def name(self, encoded: Encoded) -> str:
        """The operation if it issues, else what the thread does or waits for."""
        state = THREAD_STATES[self.state]
        if self.instruction == NONE:
            return "task switch" if self.state == thread_states.CODE else state
        instruction = encoded.instructions[self.instruction]
        if self.state == thread_states.ISSUING:
            return in_words(instruction.op)
        if self.state != thread_states.CODE:
            return state
        if instruction.kind != VECTOR:
            return in_words(instruction.op)
        if instruction.thread:
            return f"start of microthread {instruction.thread}"
        return "drain"


def spans(encoded: Encoded, stepped: Cycles) -> list[Span]:
    """By PE and thread, in the order of time; those of one thread never overlap."""
    found: list[Span] = []
    instructions = encoded.instructions
    # A microthread's operations alone are its own; the main thread dispatches them all.
    threads_of_codes = []
    for each in instructions:
        threads_of_codes.append(each.thread if each.kind == VECTOR else 0)
    thread_of = np.array(threads_of_codes)
    order = stepped.order
    events = order[order.code >= 0]
    threads = stepped.states.shape[1]
    for column, pe in enumerate(stepped.traced.tolist()):
        own = events[events.pe == pe]
        for thread in range(threads):
            states = stepped.states[:, thread, column]
            mine = own
            if thread:
                mine = own[thread_of[own.code] == thread]
            found += _of_thread(pe, thread, states, mine)
    return found


def _of_thread(
    pe: int,
    thread: int,
    states: np.ndarray,
    dispatches: Dispatches,
) -> list[Span]:
    """Stretches of one state and one operation, without those of no work."""
    cycles = np.arange(len(states))
    latest = np.searchsorted(dispatches.cycle, cycles, side="right") - 1
    new_state = np.diff(states) != 0
    new_operation = np.diff(latest) != 0
    changes = np.flatnonzero(new_state | new_operation)
    starts = np.append(0, changes + 1)
    ends = np.append(starts[1:], len(states))
    # Before the first dispatch `latest` is -1: the entry put last.
    codes = np.append(dispatches.code, NONE)
    code = codes[latest[starts]]
    found: list[Span] = []
    for start, end, instruction in zip(starts, ends, code, strict=True):
        state = int(states[start])
        if state != thread_states.IDLE:
            span = Span(
                pe=pe,
                thread=thread,
                state=state,
                instruction=int(instruction),
                start=int(start),
                end=int(end),
            )
            found.append(span)
    return found


__all__ = ["Span", "spans"]
