"""Pages and operations, by the law of bytes and operations."""

import pytest

from emu.efa import EFA
from models.machines.handoff.pages import Paging, least_operation_bytes

LINK = EFA.at()


def test_pages_of_latents() -> None:
    """DeepSeek-V3 in FP8: 36,864 bytes of 64 tokens; 28 of them in an operation of 1 MiB."""
    paging = Paging(64)
    assert paging.operation_tokens(576, LINK) == 28 * 64
    assert paging.operations(28 * 64, 576, LINK) == 1
    assert paging.operations(28 * 64 + 1, 576, LINK) == 2
    apart = Paging(64, is_coalesced=False)
    assert apart.operations(28 * 64, 576, LINK) == 28


def test_pages_larger_than_an_operation_are_cut() -> None:
    """4,096 bytes a token: 256 in an operation, a quarter of a page of 1,024."""
    for paging in (Paging(1024), Paging(1024, is_coalesced=False)):
        assert paging.operations(1024, 4096, LINK) == 4
    assert Paging(1).operations(3, 2 << 20, LINK) == 3


def test_from_which_size_on_bytes_hold() -> None:
    """22.8 GB/s over 92,000 operations a second."""
    assert least_operation_bytes(LINK) == pytest.approx(247_826, rel=1e-4)


def test_a_page_has_tokens() -> None:
    with pytest.raises(ValueError, match="0 tokens, must be at least 1"):
        Paging(0)
