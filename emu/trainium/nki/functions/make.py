"""Tensors that a kernel declares, and constants that it brings."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from emu.annotations import DType

if TYPE_CHECKING:
    from emu.trainium.nki.handles import Handle  # pyright: ignore[reportMissingImports]


def ndarray(
    shape: tuple[int, ...], dtype: DType, buffer: object = None, *, name: str = ""
) -> Handle:
    """An uninitialised tensor; dimensions before `par_dim` are blocks."""
    raise NotImplementedError


def full(
    shape: tuple[int, ...],
    value: float,
    dtype: DType,
    buffer: object = None,
    *,
    name: str = "",
) -> Handle:
    """A tensor of one value; zeros in PSUM cost nothing where a matmul writes first."""
    raise NotImplementedError


def shared_constant(value: np.ndarray, dtype: DType | None = None) -> Handle:
    """An array that the kernel brings, in HBM."""
    raise NotImplementedError
