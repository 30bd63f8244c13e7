"""Attention sinks: a sliding window and the first tokens of the sequence.

Xiao et al., *Efficient Streaming Language Models with Attention Sinks* (ICLR 2024, arXiv
2309.17453), section 3.
"""

from kernels import masks
from kernels.attention.decorator import attention
from kernels.attention.variant import Variant


def sinks_window(sinks: int, size: int) -> Variant:
    """The last `size` tokens and the first `sinks` of the sequence."""
    return attention(masks.sinks(sinks, size), name="sinks_window")
