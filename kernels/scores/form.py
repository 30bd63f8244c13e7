"""What a variant's functions come to: which pairs are attended, and the score where they are.

Both machines take a variant in this form. A score's -inf has become part of the mask, so tiles
that it leaves out are skipped however the user wrote it, and what remains of the score is plain
arithmetic.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, TypeAlias

import jax.numpy as jnp

from emu.lower import Elementwise, Input
from kernels.masks.catalogue import Mask
from kernels.scores.fold import Fold

Score: TypeAlias = Callable[..., Any]
"""`score(s, b, h, q, k)`: the score of a query and a key, scaled; batch, head and positions."""

SCORE_INPUTS = (
    Input("s", frozenset({"q", "k"}), jnp.float32),
    Input("b", frozenset(), jnp.int32),
    Input("h", frozenset(), jnp.int32),
    Input("q", frozenset({"q"}), jnp.int32),
    Input("k", frozenset({"k"}), jnp.int32),
)
"""Arguments of a score, by position."""


@dataclasses.dataclass(frozen=True, eq=False)
class Reading:
    """A variant as machines take it.

    Attributes:
      name: of the variant.
      mask: which pairs are attended, by its own mask and by the score's -inf; None: all.
      score: the score where attended, of the arguments `SCORE_INPUTS`; None: `s` itself. What it
        gives for other pairs means nothing, and may be no number.
      fold: what is made of scores and values; None: their softmax.
    """

    name: str
    mask: Mask | None
    score: Elementwise | None
    fold: Fold | None = None

    @property
    def tells_log_sum_exp(self) -> bool:
        """Whether a log-sum-exp of the scores comes with the output."""
        return self.fold is None or self.fold.tells_log_sum_exp


__all__ = ["Reading", "SCORE_INPUTS", "Score"]
