"""ALiBi: a penalty that grows with the distance, steeper in some heads than in others.

Press, Smith and Lewis, *Train Short, Test Long* (ICLR 2022, arXiv 2108.12409), section 3.
"""

import jax.numpy as jnp
import numpy as np

from kernels import masks
from kernels.attention.decorator import attention
from kernels.attention.variant import Variant


def alibi(heads: int) -> Variant:
    """Causal, with `slopes(heads)`."""
    table = slopes(heads)

    @attention(mask=masks.causal)
    def alibi(s, b, h, q, k):
        return s - jnp.asarray(table)[h] * (q - k)

    return alibi


def slopes(heads: int) -> np.ndarray:
    """A slope for each head, float32 `[heads]`: of 8 heads 1/2, 1/4, ... 1/256."""
    powers = 2 ** int(np.floor(np.log2(heads)))
    first = 2.0 ** (-8 * np.arange(1, powers + 1) / powers)
    # Where heads are no power of two the rest takes every other slope of twice as many.
    others = 2.0 ** (-8 * np.arange(1, 2 * powers + 1, 2) / (2 * powers))
    return np.concatenate([first, others])[:heads].astype(np.float32)
