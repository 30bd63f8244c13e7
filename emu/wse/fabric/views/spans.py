"""What each thread of the traced PEs of a stepped run did, as spans of cycles."""

import dataclasses

import numpy as np

from emu.wse.fabric.cycles import states as cycle_states
from emu.wse.fabric.cycles.run import Cycles
from emu.wse.fabric.cycles.states import THREAD_STATES
from emu.wse.fabric.encoding.encode import Encoded
from emu.wse.fabric.encoding.instructions import NONE, VECTOR
from emu.wse.fabric.wording import in_words


@dataclasses.dataclass(frozen=True)
class Span:
    """Cycles in which one thread did one thing.

    Attributes:
      pe: flat index.
      thread: 0 is the main thread.
      state: index of `cycle_states.THREAD_STATES`, never idle.
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
        if self.instruction == NONE:
            return (
                "task switch"
                if self.state == cycle_states.CODE
                else THREAD_STATES[self.state]
            )
        made = encoded.instructions[self.instruction]
        if self.state == cycle_states.ISSUING:
            return in_words(made.op)
        if self.state == cycle_states.CODE:
            if made.kind == VECTOR:
                return f"start of microthread {made.thread}" if made.thread else "drain"
            return in_words(made.op)
        return THREAD_STATES[self.state]


def spans(encoded: Encoded, stepped: Cycles) -> list[Span]:
    """By PE and thread, in the order of time; those of one thread never overlap."""
    out = []
    vector = np.array([i.kind == VECTOR for i in encoded.instructions])
    thread = np.array([i.thread for i in encoded.instructions])
    rows = stepped.order[stepped.order[:, 2] >= 0]
    for column, pe in enumerate(stepped.traced.tolist()):
        own = rows[rows[:, 1] == pe]
        code = own[:, 2]
        for u in range(stepped.states.shape[1]):
            mine = own[vector[code] & (thread[code] == u)] if u else own
            out += _thread(pe, u, stepped.states[:, u, column], mine)
    return out


def _thread(pe: int, u: int, states: np.ndarray, dispatches: np.ndarray) -> list[Span]:
    """Stretches of one state and one operation, without those of no work."""
    at = np.searchsorted(dispatches[:, 0], np.arange(len(states)), side="right") - 1
    changes = (np.diff(states) != 0) | (np.diff(at) != 0)
    starts = np.concatenate([[0], np.flatnonzero(changes) + 1])
    ends = np.append(starts[1:], len(states))
    code = np.append(dispatches[:, 2], NONE)[at[starts]]
    kept = states[starts] != cycle_states.IDLE
    found = zip(
        *(x[kept].tolist() for x in (states[starts], code, starts, ends)), strict=True
    )
    return [Span(pe, u, *row) for row in found]


__all__ = ["Span", "spans"]
