"""Chunks on their way through stages: a stage takes the next one when it is done with the last.

With 3 chunks that take 2 in each of 2 stages the last is through after 2 · (3 + 2 - 1) = 8:

    stage 0   0 0 1 1 2 2
    stage 1       0 0 1 1 2 2
"""

import dataclasses
from collections.abc import Sequence

import numpy as np


@dataclasses.dataclass(frozen=True, eq=False)
class Schedule:
    """When each stage has each chunk; what is sent on counts to the stage that sends it.

    Attributes:
      seconds: what each stage takes for each chunk, `[stages, chunks]`.
      ends: when it is done, likewise.
    """

    seconds: np.ndarray
    ends: np.ndarray

    @property
    def starts(self) -> np.ndarray:
        """When a stage begins with a chunk, `[stages, chunks]`."""
        return self.ends - self.seconds

    @property
    def end_s(self) -> float:
        """When the last chunk is through the last stage."""
        return float(self.ends[-1, -1])

    @property
    def period_s(self) -> float:
        """From one prompt to the next where they follow one another: the slowest stage's time."""
        return float(self.seconds.sum(1).max())

    @property
    def slowest(self) -> int:
        """The stage that a stream of prompts waits for."""
        return int(self.seconds.sum(1).argmax())

    @property
    def idle_share(self) -> float:
        """Of all stages' time until the prompt is through, how much they have nothing to do."""
        return 1 - float(self.seconds.sum()) / (len(self.seconds) * self.end_s)


def schedule(seconds: Sequence[Sequence[float]]) -> Schedule:
    """The schedule of stages that take so long for each chunk, `[stages, chunks]`."""
    taken = np.asarray(seconds, np.float64)
    ends = np.zeros_like(taken)
    for stage, of_stage in enumerate(taken):
        free_s = 0.0
        for chunk, own_s in enumerate(of_stage):
            arrived_s = ends[stage - 1, chunk] if stage else 0.0
            free_s = max(free_s, arrived_s) + own_s
            ends[stage, chunk] = free_s
    return Schedule(taken, ends)


__all__ = ["Schedule", "schedule"]
