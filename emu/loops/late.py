"""Keys that arrive later than all else a core has to do: one reading holds whenever they come.

On a ring a chip that is done early waits for its neighbour's keys. Nothing but these makes it wait,
hop by hop for another time, and the hop then goes as it went before. So the loop that attends to
them is read with `LATE` in place of the arrival, far above all times. A time that comes out as 812
does not depend on the arrival; one that comes out as `LATE + 300` is 300 ticks after it, whenever
that is. An engine last free at 100 waited `LATE + 20 - 100` ticks: 20 and, where the keys come at
900, 800 more.

This holds for every arrival after all that does not depend on it, since an instruction starts at
the latest of some times: of 812 and `LATE` it is `LATE`, and of 812 and 900 it is 900. So the
latest time that does not follow from the arrival is kept (`ClockState.latest`), and nothing is
taken over where keys come no later. An engine that throttles must also have lost its charge by
then, as that makes its next instructions depend on how long it was idle.

Several operands may be late: that keys come 50 ticks before values is a part of the state.
"""

import dataclasses
from collections.abc import Sequence

from emu.clock.resources import Row
from emu.clock.state import ClockState
from emu.clock.ticks import LATE


@dataclasses.dataclass(frozen=True)
class Arrival:
    """What a core waits for, after all else.

    Attributes:
      time: of the first of the late clocks.
      rows: the late clocks.
      before: the latest of all others.
    """

    time: int
    rows: list[Row]
    before: int

    def in_place_of(self, time: int) -> int:
        """What stands for the time of a late clock."""
        return LATE + time - self.time


def times_late(ticks: int) -> tuple[int, int]:
    """How many times the arrival is counted in a sum of waits, and the rest of the sum."""
    count = (ticks + LATE // 2) // LATE
    return count, ticks - count * LATE


def settling_ticks(state: ClockState, engines: Sequence[str]) -> int:
    """How long before an arrival all else must be done, so that it alone decides."""
    longest = 0
    for name in engines:
        law = state.engines[name].law
        if law is not None and law.share:
            longest = max(longest, -(-law.full // law.share))
    return longest + state.prices.lead


__all__ = ["Arrival", "settling_ticks", "times_late"]
