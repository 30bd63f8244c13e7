"""Soft-capping: scores that saturate smoothly.

Gemma Team, *Gemma 2* (2024, arXiv 2408.00118), section 2: 50 in its attention layers.
"""

import jax.numpy as jnp

from kernels import masks
from kernels.attention.decorator import attention
from kernels.attention.variant import Variant
from kernels.masks import Mask


def soft_cap(cap: float = 50.0, mask: Mask = masks.causal) -> Variant:
    """`cap * tanh(s / cap)`: no score exceeds `cap`."""

    @attention(mask=mask)
    def soft_cap(s, b, h, q, k):
        return cap * jnp.tanh(s / cap)

    return soft_cap
