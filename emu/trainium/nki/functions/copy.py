"""Copies on chip, with a change of dtype."""

from __future__ import annotations

from typing import TYPE_CHECKING

from emu.annotations import DType

if TYPE_CHECKING:
    from emu.trainium.nki.handles import Handle  # pyright: ignore[reportMissingImports]


def tensor_copy(
    dst: Handle | None,
    src: Handle,
    *,
    dtype: DType | None = None,
    mask: object = None,
    engine: object = None,
    implicit: bool = False,
    name: str = "nki.isa.tensor_copy",
) -> Handle:
    """`dst = src`, cast."""
    raise NotImplementedError
