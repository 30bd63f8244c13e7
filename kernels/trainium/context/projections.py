"""What is made of operands that cross links: by default nothing, of latents keys and values.

A scheme moves what a rank has and knows nothing of how it was made. It asks for projections where
they cost least: of queries when they are where they are attended with, of keys and values at every
rank that they come to, of outputs before these go back.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, TypeAlias

from emu.annotations import PyTree
from kernels.trainium.context.sizes import ContextTiling

Projection: TypeAlias = Callable[[Any, ContextTiling], Any]
"""`(operand, sizes of the rank that attends)` to what it becomes there."""


def same(x: PyTree, tiling: ContextTiling) -> PyTree:
    """An operand that is as it is attended with already."""
    return x


@dataclasses.dataclass(frozen=True)
class Projections:
    """What is made of a rank's operands and of its results.

    Attributes:
      queries: HBM buffers by part, `[tiles, heads, part, rows]`, to queries by part.
      block: what stands for keys and values of a source, to these, as `attend_source` takes them.
        Where it is not `same`, all buffers stand as `[tiles, KV heads, ...]`.
      output: output and log-sum-exp, as `finish` gives them, to the same.
    """

    queries: Projection = same
    block: Projection = same
    output: Projection = same

    @property
    def makes_block(self) -> bool:
        """Whether keys and values are made of something else."""
        return self.block is not same


__all__ = ["Projection", "Projections", "same"]
