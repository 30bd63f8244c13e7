"""Block diffusion: blocks in order, each denoised as a whole.

Arriola et al., *Block Diffusion* (ICLR 2025, arXiv 2503.09573): the sequence holds the
noised tokens and behind them the same tokens clean.
"""

from kernels.attention.decorator import attention
from kernels.attention.variant import Variant


def block_diffusion(tokens: int, size: int) -> Variant:
    """Of `tokens` noised and as many clean ones, in blocks of `size`."""

    @attention
    def block_diffusion(b, h, q, k):
        is_clean_q, is_clean_k = q >= tokens, k >= tokens
        of_q, of_k = (q % tokens) // size, (k % tokens) // size
        # Noised tokens see their own block; and of the clean ones the blocks before it.
        within = (of_q == of_k) & ~is_clean_q & ~is_clean_k
        before = (of_q > of_k) & ~is_clean_q & is_clean_k
        clean = (of_q >= of_k) & is_clean_q & is_clean_k
        return within | before | clean

    return block_diffusion
