"""A prefix LM: the prompt sees itself both ways, what follows is causal.

Raffel et al., *Exploring the Limits of Transfer Learning* (JMLR 2020, arXiv 1910.10683), section
3.2.1.
"""

from kernels import masks
from kernels.attention.decorator import attention
from kernels.attention.variant import Variant


def prefix_lm(length: int) -> Variant:
    """With a prompt of `length` tokens."""
    return attention(masks.prefix(length), name="prefix_lm")
