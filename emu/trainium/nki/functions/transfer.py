"""DMA: between HBM and SBUF, and within each."""

from __future__ import annotations

from typing import TYPE_CHECKING

from emu.annotations import DType

if TYPE_CHECKING:
    from emu.trainium.nki.handles import Handle  # pyright: ignore[reportMissingImports]


def dma_copy(
    dst: Handle | None,
    src: Handle,
    *,
    dtype: DType | None = None,
    mask: object = None,
    name: str = "nki.isa.dma_copy",
) -> Handle:
    """`dst = src`, HBM or SBUF each, any access pattern."""
    raise NotImplementedError
