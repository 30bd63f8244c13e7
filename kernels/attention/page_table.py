"""Which page of memory holds which part of which sequence, and what attention makes of it.

A page table of two sequences, with pages of 4 keys:

    block_table   [[2, 0], [3, -1]]     sequence 0 is in the pages 2 and 0, sequence 1 in page 3
    logical       [[1, -1, 0, -1], [-1, -1, -1, 0]]

`logical` is what a physical key is asked with: key 9 is in page 2, of sequence 0 its first part, so
there it is at position 1; sequence 1 has no such page, and does not attend to it.
"""

import dataclasses
import functools
from collections.abc import Sequence

import numpy as np
from jax.typing import ArrayLike

from kernels.refusal import refuse

ABSENT = -1
"""In a block table: no page. In `PageTable.logical`: a page of other sequences, or of none."""


@dataclasses.dataclass(frozen=True, eq=False)
class PageTable:
    """Pages of keys that several sequences have in one memory.

    Attributes:
      block_table: int32 `[batch, logical pages]`, which page holds each part of a sequence;
        `ABSENT` behind its end.
      page_size: keys of a page.
      keys: int32 `[batch]`, of each sequence.
      pages: of the memory.
    """

    block_table: np.ndarray
    page_size: int
    keys: np.ndarray
    pages: int

    @classmethod
    def of(
        cls,
        block_table: ArrayLike | Sequence[Sequence[int]],
        page_size: int,
        keys: int | Sequence[int],
        pages: int | None = None,
    ) -> "PageTable":
        """A table that has been checked.

        Raises:
          LimitExceeded: a page that is not there, that a sequence has twice, or that is missing.
        """
        table = np.asarray(block_table)
        if table.ndim != 2 or not np.issubdtype(table.dtype, np.integer):
            refuse(
                f"block_table is {table.dtype}{list(table.shape)}, must be whole numbers "
                "[batch, pages of a sequence]"
            )
        if page_size < 1:
            refuse(f"page_size is {page_size}, must be 1 or more keys")
        count = int(table.max(initial=0)) + 1 if pages is None else pages
        lengths = np.broadcast_to(np.asarray(keys, np.int32), table.shape[:1])
        for number, (row, length) in enumerate(zip(table, lengths, strict=True)):
            _check_sequence(number, row, int(length), page_size, count)
        return cls(table.astype(np.int32), page_size, lengths, count)

    @property
    def batch(self) -> int:
        """Sequences."""
        return len(self.block_table)

    @property
    def slots(self) -> int:
        """Keys that the memory has room for."""
        return self.pages * self.page_size

    @functools.cached_property
    def logical(self) -> np.ndarray:
        """Which part of a sequence a page holds, int32 `[batch, pages]`; `ABSENT`: none."""
        found = np.full((self.batch, self.pages), ABSENT, np.int32)
        for row, parts in zip(found, self.block_table, strict=True):
            present = np.flatnonzero(parts != ABSENT)
            row[parts[present]] = present
        return found

    @functools.cached_property
    def physical(self) -> np.ndarray:
        """Where every key of a sequence stands, int32 `[batch, most keys of a sequence]`.

        Behind the end of a sequence it is 0, which is some key.
        """
        position = np.arange(int(self.keys.max()))
        page = self.block_table[:, position // self.page_size]
        slot = page * self.page_size + position % self.page_size
        return np.where(position < self.keys[:, None], slot, 0)


def _check_sequence(
    number: int, row: np.ndarray, length: int, page_size: int, pages: int
) -> None:
    """Refuses a row of a block table that does not say where each key is."""
    needed = -(-length // page_size)
    if length < 0 or needed > len(row):
        refuse(
            f"sequence {number} has {length} keys, must be 0 to {len(row) * page_size}, which "
            f"{len(row)} pages of {page_size} hold"
        )
    if not ((row >= ABSENT) & (row < pages)).all():
        refuse(
            f"block_table[{number}] is {row.tolist()}, must be pages 0 to {pages - 1}, or "
            f"{ABSENT} for none"
        )
    if (row[:needed] == ABSENT).any():
        refuse(
            f"block_table[{number}] is {row.tolist()}, must have {needed} pages for {length} keys"
        )
    present = row[row != ABSENT]
    if len(np.unique(present)) < len(present):
        # A key would be at two positions at once.
        refuse(
            f"block_table[{number}] is {row.tolist()}, must not have a page more than once"
        )


__all__ = ["ABSENT", "PageTable"]
