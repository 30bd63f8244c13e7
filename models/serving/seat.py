"""A user's seat in a pipeline: the cache of one model there, and the tokens that pass through it.

Tokens of one user may follow each other through the pipeline before the first has left, as those
of a draft do. Token i + 1 needs token i's key in every layer: it enters a region only when token i
has left it, and there token i has put its key down. So the cache in each region is what it would be
had token i left the pipeline first. What a wrong token left behind lies at its position or further
on, where nobody looks before the right token of that position has overwritten it.
"""

from collections.abc import Callable
from typing import Protocol

from models.serving.pipeline import Pass, Pipeline
from models.serving.stage_times import StageTimes


class Walk(Protocol):
    """One token on its way: what each region computes of it."""

    def compute(self, stage: str) -> None:
        """Computes a stage, which comes behind all that were computed so far."""
        ...

    @property
    def token(self) -> int:
        """The next token, once the last stage is computed."""
        ...


class Model(Protocol):
    """A model with one user's cache."""

    def start(self, position: int, token: int) -> Walk:
        """A walk of the token at that position."""
        ...


class Seat:
    """Where one user's tokens enter a pipeline.

    Attributes:
      user: whose.
      in_flight: tokens that have not left.
      passes: tokens that have left, in order.
    """

    def __init__(
        self,
        user: int,
        pipeline: Pipeline,
        times: StageTimes,
        model: Model,
        rested: Callable[[], None] = lambda: None,
    ):
        """A seat that nobody has used.

        Args:
          user: whose.
          pipeline: of which model.
          times: cycles by position.
          model: with the user's cache.
          rested: called whenever a token has left, behind all that follows from it.
        """
        self.user = user
        self.in_flight = 0
        self.passes: list[Pass] = []
        self.rested = rested
        self._pipeline = pipeline
        self._times = times
        self._model = model

    def submit(
        self, position: int, token: int, made: Callable[[int, int], None]
    ) -> None:
        """Sends a token through.

        Args:
          position: of the token.
          token: its id.
          made: called with the position and the next token's id when the token has left.
        """
        walk = self._model.start(position, token)

        def left(done: Pass) -> None:
            self.in_flight -= 1
            self.passes.append(done)
            made(position, walk.token)
            self.rested()

        self.in_flight += 1
        cycles = self._times.at(position)
        self._pipeline.submit(Pass(self.user, position, cycles, left, walk.compute))


__all__ = ["Model", "Seat", "Walk"]
