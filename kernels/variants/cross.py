"""Cross-attention: to the tokens of another sequence, padded in the batch.

Vaswani et al., *Attention Is All You Need* (NeurIPS 2017, arXiv 1706.03762), section 3.2.3.
"""

from collections.abc import Sequence

import jax.numpy as jnp
import numpy as np

from kernels.attention.decorator import attention
from kernels.attention.variant import Variant


def cross(lengths: Sequence[int]) -> Variant:
    """To the first `lengths[b]` keys of each sequence of the batch."""
    table = np.asarray(lengths, np.int32)

    @attention
    def cross(b, h, q, k):
        return k < jnp.asarray(table)[b]

    return cross
