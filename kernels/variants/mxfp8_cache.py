"""MXFP8 KV cache: 8-bit floats in blocks of 32 features, each with a power of two.

Rouhani et al., *Microscaling Data Formats for Deep Learning* (2023, arXiv 2310.10537).
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
