"""Grouped queries: several query heads share the keys and values of one; of all heads, multi-query.

Ainslie et al., *GQA* (EMNLP 2023, arXiv 2305.13245), section 2.2; Shazeer, *Fast Transformer
Decoding: One Write-Head is All You Need* (2019, arXiv 1911.02150), section 3.
"""

from kernels import masks
from kernels.attention.decorator import attention
from kernels.attention.variant import Variant


def grouped() -> Variant:
    """Causal; the shapes of queries and keys say how many heads share."""
    return attention(masks.causal, name="grouped")
