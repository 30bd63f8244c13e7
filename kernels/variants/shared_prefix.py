"""A shared prefix: several continuations of one prompt in one sequence.

Juravsky et al., *Hydragen* (ICML 2024, arXiv 2402.05099): what sequences have in common is kept
and attended once.
"""

from collections.abc import Sequence

from kernels import masks
from kernels.attention.decorator import attention
from kernels.attention.variant import Variant


def shared_prefix(prefix: int, lengths: Sequence[int]) -> Variant:
    """Causal, from each continuation to the prefix and within itself.

    Args:
      prefix: tokens of the prompt.
      lengths: tokens of each continuation, in order behind it.
    """
    own = masks.documents([prefix, *lengths])

    @attention.mask
    def to_prefix(b, h, q, k):
        return (k <= q) & (k < prefix) & (q < prefix + sum(lengths))

    return attention(own | to_prefix, name="shared_prefix")
