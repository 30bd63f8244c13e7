"""Pages of a cache, and the operations that they are coalesced into.

A page is a layer's cache of some tokens: of DeepSeek-V3 in FP8, 64 tokens of 576 numbers, 36,864
bytes. A NIC begins some 92,000 operations a second, so that pages of that size, one an operation,
go at 3.4 GB/s where the line has 22.8. From 248 KB on bytes are what takes time: such pages are
sent seven or more at once. Larger operations are never slower, by that law, so as many pages are
coalesced as the link's `operation_bytes` hold.
"""

import dataclasses
import math

from emu.datasheet import Device


@dataclasses.dataclass(frozen=True)
class Paging:
    """How a chip's part of a layer's cache is cut.

    Attributes:
      tokens: of a page.
      is_coalesced: whether an operation has as many pages as the link takes; else each has one.
    """

    tokens: int = 64
    is_coalesced: bool = True

    def __post_init__(self) -> None:
        if self.tokens < 1:
            raise ValueError(f"pages of {self.tokens} tokens, must be at least 1")

    def operation_tokens(self, token_bytes: int, link: Device) -> int:
        """Tokens of an operation: whole pages, or a part of one that is larger than it may be."""
        most = max(1, int(link.operation_bytes) // token_bytes)
        if not self.is_coalesced or most < self.tokens:
            return min(self.tokens, most)
        return most // self.tokens * self.tokens

    def operations(self, tokens: int, token_bytes: int, link: Device) -> int:
        """Of so many tokens' caches in a layer."""
        return math.ceil(tokens / self.operation_tokens(token_bytes, link))


def least_operation_bytes(link: Device) -> float:
    """From which size on the line's bytes take longer than its operations."""
    return link.nic_bytes_per_s / link.nic_operations_per_s


__all__ = ["Paging", "least_operation_bytes"]
