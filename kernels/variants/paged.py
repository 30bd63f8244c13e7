"""Paged KV cache: keys and values in pages of one memory that all sequences share.

Kwon et al., *Efficient Memory Management for Large Language Model Serving with PagedAttention*
(SOSP 2023, arXiv 2309.06180), section 4. A mask or a score is called with logical positions, as in
FlexAttention's `PagedAttention` (PyTorch, `torch.nn.attention.experimental._paged_attention`).
"""

from collections.abc import Sequence

from jax.typing import ArrayLike

from kernels.attention.page_table import PageTable
from kernels.attention.paged import PagedVariant
from kernels.attention.variant import Variant


def paged(
    variant: Variant,
    block_table: ArrayLike | Sequence[Sequence[int]],
    page_size: int,
    keys: int | Sequence[int],
    pages: int | None = None,
) -> PagedVariant:
    """Any variant over pages.

    Args:
      variant: of logical positions.
      block_table: `[batch, pages of a sequence]`, which page of the memory holds each part of a
        sequence; -1 where it has no more. Sequences may share pages, such as those of a prompt.
      page_size: keys of a page.
      keys: of all sequences, or of each.
      pages: of the memory; None: up to the last that the table names.

    Raises:
      LimitExceeded: a page that is not there, that a sequence has twice, or that is missing.
    """
    return PagedVariant(variant, PageTable.of(block_table, page_size, keys, pages))
