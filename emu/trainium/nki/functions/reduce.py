"""Reductions over free axes, running sums, statistics."""

from __future__ import annotations

from typing import TYPE_CHECKING

from emu.annotations import DType

if TYPE_CHECKING:
    from emu.trainium.nki.handles import Handle  # pyright: ignore[reportMissingImports]


def tensor_reduce(
    dst: Handle | None,
    op: object,
    data: Handle,
    axis: int | tuple[int, ...],
    *,
    negate: bool = False,
    keepdims: bool = False,
    dtype: DType | None = None,
    mask: object = None,
    engine: object = None,
    name: str = "nki.isa.tensor_reduce",
) -> Handle:
    """`dst = op` over free axes of `data`."""
    raise NotImplementedError


def tensor_scalar_reduce(
    dst: Handle | None,
    data: Handle,
    op0: object,
    operand0: object,
    reduce_op: object,
    reduce_res: Handle,
    reverse0: bool = False,
    *,
    dtype: DType | None = None,
    mask: object = None,
    engine: object = None,
    name: str = "nki.isa.tensor_scalar_reduce",
) -> Handle:
    """`dst = data op0 operand0`, and `reduce_res` `[p, 1]` gets `reduce_op` of it."""
    raise NotImplementedError


def tensor_tensor_scan(
    dst: Handle | None,
    data0: Handle,
    data1: Handle,
    initial: object,
    op0: object,
    op1: object,
    reverse0: bool = False,
    reverse1: bool = False,
    *,
    dtype: DType | None = None,
    mask: object = None,
    engine: object = None,
    name: str = "nki.isa.tensor_tensor_scan",
) -> Handle:
    """`dst[:, i] = (data0[:, i] op0 dst[:, i - 1]) op1 data1[:, i]`, from `initial`."""
    raise NotImplementedError


def bn_stats(
    dst: Handle | None,
    data: Handle,
    *,
    dtype: DType | None = None,
    mask: object = None,
    engine: object = None,
    name: str = "nki.isa.bn_stats",
) -> Handle:
    """`dst[p, 6]`: counts, means and squares of even and odd elements."""
    raise NotImplementedError


def bn_aggr(
    dst: Handle | None,
    data: Handle,
    *,
    dtype: DType | None = None,
    mask: object = None,
    engine: object = None,
    name: str = "nki.isa.bn_aggr",
) -> Handle:
    """`dst[p, 2]`: mean and variance of what `bn_stats` wrote."""
    raise NotImplementedError
