"""Packed documents: sequences one behind the other that do not see each other.

Krell et al., *Efficient Sequence Packing without Cross-contamination* (2021, arXiv 2107.02027).
"""

from collections.abc import Sequence

from kernels import masks
from kernels.attention.decorator import attention
from kernels.attention.variant import Variant


def packed_documents(
    cu_seqlens: Sequence[int], within: Variant | None = None
) -> Variant:
    """A variant within each document.

    Args:
      cu_seqlens: where each begins, and where the last one ends.
      within: of positions in a document; None: causal attention.
    """
    own = attention(masks.causal) if within is None else within
    return attention(attention.packed(own, cu_seqlens), name="packed_documents")
