"""Microscaled tiles: quantised, and multiplied."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

from emu.trainium import isa
from emu.trainium.nki.functions import psum
from emu.trainium.nki.functions.checks import refuse
from emu.trainium.nki.functions.engines import offer, way
from emu.trainium.nki.functions.operands import handle, on_chip
from emu.trainium.nki.record import current
from emu.trainium.nki.tree import Access

QUAD = 4


def _packed(value: object, function: str, argument: str, *, written: bool) -> Access:
    """A tile of packed elements, as `[p, n, elements of one]`."""
    held = handle(value, function, argument)
    if not held.dtype.fields:
        refuse(
            function,
            f"{argument} is {held.dtype}, must be a packed format such as "
            "nl.float8_e4m3fn_x4",
        )
    access = on_chip(held, function, argument, written=written)
    _, count = access.axes[-1]
    return _three(access, count)


def _three(access: Access, last: int) -> Access:
    """The tile as `[p, n, last]`."""
    free = math.prod(access.shape[1:])
    form = (access.shape[0], free // last, last)
    return access if access.shape == form else dataclasses.replace(access, form=form)


def _scales(
    value: object, function: str, argument: str, *, written: bool = False
) -> Access:
    """A tile of scales, as `[p, n]`."""
    access = on_chip(value, function, argument, written=written)
    form = (access.shape[0], math.prod(access.shape[1:]))
    return access if access.shape == form else dataclasses.replace(access, form=form)


def quantize_mx(
    dst: object, src: object, dst_scale: object, *, name: str = "nki.isa.quantize_mx"
) -> None:
    """Elements and shared scales of a 16-bit tile `[p, 4 n]`, four neighbours to one of `dst`."""
    elements = _packed(dst, name, "dst", written=True)
    scale = _scales(dst_scale, name, "dst_scale", written=True)
    source = _three(on_chip(src, name, "src"), QUAD)
    if source.shape[:2] != elements.shape[:2]:
        refuse(
            name,
            f"src has {source.shape[1]} groups of 4 a partition on {source.shape[0]}, dst "
            f"{elements.shape[1]} on {elements.shape[0]}: must be as many",
        )
    choices = offer(None, name, way("vector", isa.quantize_mx))
    current().emit(name, choices, (elements, scale), (source,))


def nc_matmul_mx(
    dst: object,
    stationary: object,
    moving: object,
    stationary_scale: object,
    moving_scale: object,
    *,
    accumulate: bool | None = None,
    tile_position: Sequence[int] = (),
    tile_size: Sequence[int] = (),
    name: str = "nki.isa.nc_matmul_mx",
) -> None:
    """`dst (+)= stationaryᵀ · moving` of packed tiles `[k, m]` and `[k, n]`, scales applied."""
    operands = (
        _packed(stationary, name, "stationary", written=False),
        _packed(moving, name, "moving", written=False),
        _scales(stationary_scale, name, "stationary_scale"),
        _scales(moving_scale, name, "moving_scale"),
    )
    write = on_chip(dst, name, "dst", written=True)
    if write.space != "psum":
        refuse(name, f"dst is in {write.space.upper()}, must be in PSUM")
    shape = operands[0].shape[1], operands[1].shape[1]
    if write.shape[0] != shape[0] or math.prod(write.shape[1:]) != shape[1]:
        refuse(name, f"dst is {list(write.shape)}, must be {list(shape)}")
    flag = psum.flag(accumulate, write)
    formed = write if write.shape == shape else dataclasses.replace(write, form=shape)
    choices = offer(None, name, way("tensor", isa.nc_matmul_mx))
    current().emit(name, choices, (formed,), (*operands, flag))
