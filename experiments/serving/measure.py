"""What users get at every number of them, one token at a time and with draft tokens."""

import dataclasses
import itertools
from collections.abc import Iterator, Mapping, Sequence

from emu.datasheet import BANDS
from experiments.serving.pipelines import Piped
from models.serving.speed import Drafting, Speed, user_speed


@dataclasses.dataclass(frozen=True)
class Served:
    """So many users under one way of drafting.

    Attributes:
      users: at once.
      ahead: draft tokens a round; 0: none.
      rate: the probability that one is right; None: none.
      speeds: by band.
      hz: of the wafer's clock, by band.
    """

    users: int
    ahead: int
    rate: float | None
    speeds: Mapping[str, Speed]
    hz: Mapping[str, float]

    def user_tokens_per_s(self, band: str) -> float:
        """Of one user."""
        return self.speeds[band].user_tokens_per_s(self.hz[band])

    def tokens_per_s(self, band: str) -> float:
        """Of all users."""
        return self.speeds[band].tokens_per_s(self.hz[band])

    @property
    def seconds(self) -> dict[str, float]:
        """From one token of a user to the next, by band."""
        return {band: 1 / self.user_tokens_per_s(band) for band in BANDS}


def served(
    target: Piped,
    draft: Piped,
    users: Sequence[int],
    ahead: Sequence[int],
    rates: Sequence[float],
) -> Iterator[Served]:
    """Every number of users without drafts, then with each number of draft tokens and each rate."""
    for count in users:
        yield _served(target, draft, count, 0, None)
    for tokens, rate, count in itertools.product(ahead, rates, users):
        yield _served(target, draft, count, tokens, rate)


def _served(
    target: Piped, draft: Piped, users: int, ahead: int, rate: float | None
) -> Served:
    speeds = {}
    for band in BANDS:
        drafting = None
        if rate is not None:
            drafting = Drafting(ahead, rate, draft.stages, draft.cycles[band])
        cycles = target.cycles[band]
        speeds[band] = user_speed(target.stages, cycles, users, drafting)
    return Served(users, ahead, rate, speeds, target.hz)


__all__ = ["Served", "served"]
