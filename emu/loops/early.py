"""Operands that are there before anything asks for them: one reading holds however early they come.

On a ring keys arrive while a core is still at work on others, hop by hop by a little less early.
Counted from when its first engine is free, a core that has fallen behind by 200 ticks finds them
ready at

    hop       1      2      3      4
    ready     past   5      24     43

and the first instruction that reads them starts at 200 each time, as the engine that carries it out
is not free before. Four starting states, but one course: whatever starts at 200 starts there as
well if its operand was ready at 5, 24, 43, or at any other time *before* 200.

So a walk notes when each operand of its loop is asked for (`ClockState.asked`): the earliest start
of an instruction that waits for it, 200 here, is the operand's *limit* if it was ready before. A
core that has the same state but for operands that are ready before their limits needs no walk of
its own.

This is no guess. Take the instructions in program order, and let all up to one start as on the core
that was walked. It starts at the latest of some times, and on that core the latest was none of the
operands in question: they were ready before its start. On the other core all other times are the
same, and these operands are again before that start; so it starts there too, for the same cause.
What is ready at exactly that time is another matter: of causes that end together the first one
names the wait.

An operand that is itself in what the loop gives back has its own time there, which is another on
each core: it has no limit, unless it is past on the walked core and so marked (`emu.loops.marks`).
"""

import dataclasses
from collections.abc import Mapping

import numpy as np

from emu.clock.resources import Row
from emu.loops.marks import ALWAYS
from emu.loops.outcome import Outcome


@dataclasses.dataclass(frozen=True)
class Met:
    """A state that a loop was met in, for others that differ from it in early operands only.

    Attributes:
      state: the starting state, int64: clocks, their names, and what else there is
        (`StartingStates.states`).
      limits: of each clock, the time before which it decides nothing, after the base; `ALWAYS`
        where any time may.
      outcome: what the loop does then.
    """

    state: np.ndarray
    limits: np.ndarray
    outcome: Outcome

    @classmethod
    def of(cls, state: bytes, rows: list[Row], outcome: Outcome) -> "Met | None":
        """None where no operand has a limit.

        Args:
          state: the starting state.
          rows: its clocks.
          outcome: of a core that was walked from it.
        """
        if not outcome.limits:
            return None
        limits = [_limit(row, outcome.limits) for row in rows]
        return cls(np.frombuffer(state, np.int64), np.array(limits), outcome)

    def holds(self, state: bytes) -> bool:
        """Whether the loop does the same from another state, of the same clocks."""
        other = np.frombuffer(state, np.int64)
        clocks = len(self.limits)
        is_early = other[:clocks] < self.limits
        agree = other == self.state
        agree[:clocks] |= is_early
        # Nobody waits for what is early, so whom it is of tells nothing.
        agree[clocks : 2 * clocks] |= is_early
        return bool(agree.all())


def _limit(row: Row, limits: Mapping[int, int]) -> int:
    kind, place = row
    if kind != "ready" or not isinstance(place, int):
        return ALWAYS
    return limits.get(place, ALWAYS)


__all__ = ["Met"]
