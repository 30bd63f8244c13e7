"""Packed documents: sequences one behind the other that do not see each other.

Krell et al., *Efficient Sequence Packing without Cross-contamination* (2021, arXiv 2107.02027).
"""

from collections.abc import Sequence

from kernels import masks
from kernels.attention.decorator import attention
from kernels.attention.variant import Variant


def packed_documents(cu_seqlens: Sequence[int]) -> Variant:
    """Causal within each; `cu_seqlens` says where each begins and where the last one ends."""
    return attention(masks.packed(cu_seqlens, masks.causal), name="packed_documents")
