"""Tiles combined element by element: with each other, with values, with constants."""

from __future__ import annotations

from typing import TYPE_CHECKING

from emu.annotations import DType

if TYPE_CHECKING:
    from emu.trainium.nki.handles import Handle  # pyright: ignore[reportMissingImports]


def tensor_tensor(
    dst: Handle | None,
    data1: Handle,
    data2: Handle,
    op: object,
    *,
    dtype: DType | None = None,
    mask: object = None,
    engine: object = None,
    name: str = "nki.isa.tensor_tensor",
) -> Handle:
    """`dst = data1 op data2`."""
    raise NotImplementedError


def tensor_scalar(
    dst: Handle | None,
    data: Handle,
    op0: object,
    operand0: object,
    reverse0: bool = False,
    op1: object = None,
    operand1: object = None,
    reverse1: bool = False,
    *,
    dtype: DType | None = None,
    mask: object = None,
    engine: object = None,
    name: str = "nki.isa.tensor_scalar",
) -> Handle:
    """`dst = (data op0 operand0) op1 operand1`; an operand is a number or `[p, 1]`."""
    raise NotImplementedError


def scalar_tensor_tensor(
    dst: Handle | None,
    data: Handle,
    op0: object,
    operand0: object,
    op1: object,
    operand1: Handle,
    reverse0: bool = False,
    reverse1: bool = False,
    *,
    dtype: DType | None = None,
    mask: object = None,
    engine: object = None,
    name: str = "nki.isa.scalar_tensor_tensor",
) -> Handle:
    """`dst = (data op0 operand0) op1 operand1`, operand0 a number or `[p, 1]`, operand1 a tile."""
    raise NotImplementedError


def memset(
    dst: Handle | None,
    value: float,
    *,
    shape: tuple[int, ...] | None = None,
    dtype: DType | None = None,
    mask: object = None,
    engine: object = None,
    name: str = "nki.isa.memset",
) -> Handle:
    """`dst = value`; `shape` is of a fresh tile."""
    raise NotImplementedError


def reciprocal(
    dst: Handle | None,
    data: Handle,
    *,
    dtype: DType | None = None,
    mask: object = None,
    engine: object = None,
    name: str = "nki.isa.reciprocal",
) -> Handle:
    """`dst = 1 / data`."""
    raise NotImplementedError
