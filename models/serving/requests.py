"""Requests of users, and what became of them."""

import dataclasses

from models.serving.pipeline import Pass
from models.serving.session import Counts


@dataclasses.dataclass(frozen=True)
class Request:
    """A prompt and how much is wanted behind it.

    Attributes:
      user: whose; a number of its own.
      arrives: cycle.
      prompt: token ids.
      tokens: to make, the first of which prefill makes.
    """

    user: int
    arrives: int
    prompt: tuple[int, ...]
    tokens: int

    def __post_init__(self) -> None:
        if not self.prompt or self.tokens < 1 or self.arrives < 0:
            raise ValueError(
                f"user {self.user}: a prompt of {len(self.prompt)} tokens, {self.tokens} to make, "
                f"at cycle {self.arrives}; must be at least 1, 1 and 0"
            )


@dataclasses.dataclass(frozen=True)
class Served:
    """A request that is over.

    Attributes:
      request: what was asked for.
      prefilled: cycle at which a prefill machine was done with it.
      admitted: cycle at which a slot for its cache was free.
      decoder, slot: which pipeline of wafers, and which slot of its SRAM.
      tokens: that were made.
      made_at: cycle at which each was known to the user.
      left: cycle at which the slot was free again.
      passes: its tokens' ways through the pipeline, in order.
      counts: of rounds.
    """

    request: Request
    prefilled: int
    admitted: int
    decoder: int
    slot: int
    tokens: tuple[int, ...]
    made_at: tuple[int, ...]
    left: int
    passes: tuple[Pass, ...]
    counts: Counts

    @property
    def first_token_cycles(self) -> int:
        """From arrival to the first token, which is shown when decode can go on from it."""
        return self.made_at[0] - self.request.arrives

    @property
    def token_cycles(self) -> float:
        """From one token to the next, on average; 0: there was one."""
        later = len(self.made_at) - 1
        return (self.made_at[-1] - self.made_at[0]) / later if later else 0.0


__all__ = ["Request", "Served"]
