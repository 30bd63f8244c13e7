"""Block-causal attention: causal between blocks, full within one.

Han, Kumar and Tsvetkov, *SSD-LM* (ACL 2023, arXiv 2210.17432): text block by block, of which each
is denoised as a whole.
"""

from kernels import masks
from kernels.attention.decorator import attention
from kernels.attention.variant import Variant


def block_causal(size: int) -> Variant:
    """Blocks of `size` tokens."""
    return attention(masks.block_causal(size), name="block_causal")
