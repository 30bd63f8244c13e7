"""MXFP8 KV cache: 8-bit floats in blocks of 32 features, each with a power of two.

Rouhani et al., *Microscaling Data Formats for Deep Learning* (2023, arXiv 2310.10537).

Prefill rounds keys and values to what their codes stand for and takes the time of bfloat16.
Trainium3's `nc_matmul_mx` is not used: it wants scales for blocks of what is contracted. Keys'
blocks of features are that; but values are contracted along keys, and their blocks are of features
as well. Quantised anew, values along keys, prefill is `ContextAttention(dtype="mxfp8")`.
"""

from kernels.attention.microscaled import MicroscaledVariant
from kernels.attention.variant import Variant


def mxfp8_cache(variant: Variant, block: int = 32) -> MicroscaledVariant:
    """Any variant over such a cache.

    Args:
      variant: of the numbers that the codes stand for.
      block: features of a key or value that share a power of two.
    """
    return MicroscaledVariant(variant, block)


__all__ = ["mxfp8_cache"]
