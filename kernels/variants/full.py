"""Full attention: every query sees every key.

Vaswani et al., *Attention Is All You Need* (NeurIPS 2017, arXiv 1706.03762), section 3.2.
"""

from kernels import masks
from kernels.attention.decorator import attention
from kernels.attention.variant import Variant


def full() -> Variant:
    """Of an encoder."""
    return attention(masks.full, name="full")
