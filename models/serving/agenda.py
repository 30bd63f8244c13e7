"""What happens next, in integer cycles: acts in order of time, and of two at one time as agreed.

The order is total, so that the same run gives the same schedule: by time, then early acts before
late ones, then as they were put down. Early acts are what happens (a program ends, a request
arrives); late ones decide what follows from all that happened at that time.
"""

import heapq
import itertools
from collections.abc import Callable


class Agenda:
    """Acts to come.

    Attributes:
      now: the time of the act that is under way, or of the last one.
    """

    def __init__(self) -> None:
        self.now = 0
        self._acts: list[tuple[int, bool, int, Callable[[], None]]] = []
        self._numbers = itertools.count()

    def at(self, time: int, act: Callable[[], None], late: bool = False) -> None:
        """Puts an act down.

        Args:
          time: cycles, not before `now`.
          act: what is done then.
          late: whether it comes behind all that are not, at that time.
        """
        if time < self.now:
            raise ValueError(f"an act at {time}, and it is {self.now} already")
        heapq.heappush(self._acts, (time, late, next(self._numbers), act))

    def run(self) -> None:
        """Does what is down, and what is put down meanwhile, until nothing is left."""
        while self._acts:
            self.now, _, _, act = heapq.heappop(self._acts)
            act()


__all__ = ["Agenda"]
