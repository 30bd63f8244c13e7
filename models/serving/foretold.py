"""Models without weights, for schedules alone: the right token is 0, and a wrong one is 1."""

import random
from collections.abc import Sequence

RIGHT, WRONG = 0, 1


class Foretold:
    """A walk, or a model all of whose walks are alike: the next token is known from the start."""

    def __init__(self, token: int = RIGHT):
        self.token = token

    def start(self, position: int, token: int) -> "Foretold":
        """The same for every token."""
        return self

    def compute(self, stage: str) -> None:
        """Nothing."""


class Rated:
    """A draft whose next token is right with some probability, position by position.

    Which ones are is a function of seed, user and position alone: the same at any batch, order of
    arrival and pace.
    """

    def __init__(self, rate: float, user: int, seed: int = 0):
        """A draft.

        Args:
          rate: from 0 to 1.
          user: whose.
          seed: of all users.
        """
        if not 0 <= rate <= 1:
            raise ValueError(f"a rate of acceptance of {rate}, must be from 0 to 1")
        self._rate, self._user, self._seed = rate, user, seed

    def start(self, position: int, token: int) -> Foretold:
        """Right or wrong by the position alone: behind a wrong token no other counts."""
        drawn = random.Random(f"{self._seed} {self._user} {position}").random()
        return Foretold(RIGHT if drawn < self._rate else WRONG)


class Recorded:
    """A draft whose next tokens were measured to be right or wrong, position by position."""

    def __init__(self, right: Sequence[bool]):
        """A draft.

        Args:
          right: of each position, whether the token behind it is the model's own; it is gone
            through again from the start where it ends.
        """
        self._right = tuple(right)

    def start(self, position: int, token: int) -> Foretold:
        """As measured."""
        return Foretold(RIGHT if self._right[position % len(self._right)] else WRONG)


def tokens_a_round(rate: float, ahead: int) -> float:
    """Tokens that a round gives on average, `1 + a + ... + a^k`, if each is right with rate a.

    With a = 0.8 and k = 4 that is (1 - 0.8^5) / 0.2 = 3.36.
    """
    if rate == 1:
        return ahead + 1
    return (1 - rate ** (ahead + 1)) / (1 - rate)


__all__ = ["Foretold", "Rated", "Recorded", "RIGHT", "WRONG", "tokens_a_round"]
