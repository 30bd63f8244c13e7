"""A variant over packed sequences: several, one behind the other, that do not see each other.

The variant's functions are called with positions within a sequence, as if it stood alone. Of
sequences of 3 and 2 tokens, `cu_seqlens` 0, 3, 5:

    token                   0  1  2  3  4
    position in a sequence  0  1  2  0  1

A score that only asks how far a key is behind its query is the same with and without; one that asks
where they are, such as a bias by position, is not.
"""

import dataclasses
from collections.abc import Sequence

import jax.numpy as jnp
import numpy as np

from kernels import masks
from kernels.attention.reindexed import Indices, reindexed
from kernels.attention.variant import Variant
from kernels.masks.catalogue import Positions, bounds_of, sequence_of


def packed(variant: Variant, cu_seqlens: Sequence[int] | np.ndarray) -> Variant:
    """A variant within each of several sequences.

    Args:
      variant: of positions in a sequence.
      cu_seqlens: where each sequence begins, and where the last one ends, as FlashAttention has it.
        Tokens after the last one attend to nothing.

    Raises:
      LimitExceeded: `cu_seqlens` is no such list.
    """
    bounds = bounds_of(cu_seqlens)

    def within(position: Positions) -> Positions:
        return position - jnp.asarray(bounds)[sequence_of(bounds, position)]

    def to_users(b: Positions, h: Positions, q: Positions, k: Positions) -> Indices:
        return b, h, within(q), within(k)

    own = masks.full if variant.mask is None else variant.mask
    # A mask of all keeps what is known of packed sequences: which tiles are live, and which whole.
    functions = dataclasses.replace(variant, mask=None)
    return dataclasses.replace(
        reindexed(functions, to_users),
        name=f"packed {variant.name}",
        mask=masks.packed(cu_seqlens, own),
    )


__all__ = ["packed"]
