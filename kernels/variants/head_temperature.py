"""A learned temperature for each head.

Henry et al., *Query-Key Normalization for Transformers* (EMNLP Findings 2020, arXiv 2010.04245)
learn the scale of the scores; with one scale a head: Liu et al., *Swin Transformer V2* (CVPR 2022,
arXiv 2111.09883).
"""

import jax
import jax.numpy as jnp
import numpy as np

from kernels import masks
from kernels.attention.decorator import attention
from kernels.attention.variant import Variant


def head_temperature(temperatures: np.ndarray | jax.Array) -> Variant:
    """Causal, with scores divided by their head's temperature.

    Args:
      temperatures: `[heads]`, none of them zero.
    """

    @attention(mask=masks.causal)
    def head_temperature(s, b, h, q, k):
        return s / jnp.asarray(temperatures)[h]

    return head_temperature
