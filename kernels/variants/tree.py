"""Tree verification: drafted continuations that share their beginnings, checked in one pass.

Miao et al., *SpecInfer* (ASPLOS 2024, arXiv 2305.09781): behind what is known already
stand the tree's tokens, of which each sees its ancestors.
"""

from collections.abc import Sequence

import jax.numpy as jnp
import numpy as np

from kernels.attention.decorator import attention
from kernels.attention.variant import Variant
from kernels.refusal import refuse


def tree(parents: Sequence[int], known: int) -> Variant:
    """Causal up to `known` tokens, which every token of the tree sees.

    Args:
      parents: of each token of the tree, the number of one before it; -1 where it follows the known
        tokens.
      known: tokens before the tree.
    """
    table = ancestors(parents)
    last = len(table) - 1

    @attention
    def tree(b, h, q, k):
        of_q = jnp.clip(q - known, 0, last)
        of_k = jnp.clip(k - known, 0, last)
        is_ancestor = (k >= known) & jnp.asarray(table)[of_q, of_k]
        return jnp.where(q < known, k <= q, (k < known) | is_ancestor)

    return tree


def ancestors(parents: Sequence[int]) -> np.ndarray:
    """Whether a token is another or comes before it on its branch, bool `[token, ancestor]`."""
    table = np.eye(len(parents), dtype=bool)
    for token, parent in enumerate(parents):
        if not -1 <= parent < token:
            refuse(
                f"tree: token {token} has the parent {parent}, must be a token before it or -1"
            )
        if parent >= 0:
            table[token] |= table[parent]
    return table
