"""A sliding window: the last tokens alone.

Jiang et al., *Mistral 7B* (2023, arXiv 2310.06825), section 2.
"""

from kernels import masks
from kernels.attention.decorator import attention
from kernels.attention.variant import Variant


def sliding_window(size: int) -> Variant:
    """The last `size` tokens, itself included."""
    return attention(masks.window(size), name="sliding_window")
