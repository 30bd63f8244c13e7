"""A variant of softmax attention: one function, and all that follows from it."""

import dataclasses
import functools
from typing import Any

import jax
from jax.typing import DTypeLike

from kernels.attention.dense import dense
from kernels.attention.reading import Reading, Score, read
from kernels.masks.catalogue import Mask


@dataclasses.dataclass(frozen=True, eq=False)
class Variant:
    """A variant of softmax attention; made by `attention`.

    Attributes:
      name: of the function.
      score: `score(s, b, h, q, k)`, FlexAttention's `score_mod`; None: the score itself.
      mask: `mask(b, h, q, k)`, FlexAttention's `mask_mod`; None: all pairs.
      scale: of the scores before `score`; None: `1 / sqrt(head_dim)`.
    """

    name: str
    score: Score | None = None
    mask: Mask | None = None
    scale: float | None = None

    @functools.cached_property
    def reading(self) -> Reading:
        """What machines take of it.

        Raises:
          CannotLower: see `kernels.attention.reading.read`.
        """
        return read(self.name, self.score, self.mask)

    def dense(
        self,
        q: Any,
        k: Any,
        v: Any,
        *,
        q_offset: int = 0,
        dtype: DTypeLike = "float64",
    ) -> tuple[jax.Array, jax.Array]:
        """The oracle: every pair's score at once, on no machine.

        Args and results are those of `kernels.attention.dense.dense`.

        Raises:
          CannotLower: the functions are none that a machine could carry out.
          LimitExceeded: shapes that do not fit together.
        """
        # What no machine takes is refused by its oracle too, and with the same words.
        self.reading  # noqa: B018
        return dense(
            q,
            k,
            v,
            score=self.score,
            mask=self.mask,
            scale=self.scale,
            q_offset=q_offset,
            dtype=dtype,
        )

    def __repr__(self) -> str:
        return f"<attention {self.name}>"


__all__ = ["Variant"]
