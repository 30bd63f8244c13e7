"""Operands of a call as accesses: checked, with the axes that an instruction wants.

Kernels are free with dimensions of one element: a column is `[128]` or `[128, 1]`, the result of a
reduction goes into either. Instructions are not, so axes of one element are put in and taken out
here, and neighbouring axes are joined or split, which moves no element.
"""

import dataclasses
import math
import numbers
from collections.abc import Sequence
from typing import TypeAlias

import numpy as np

from emu.trainium.nki.functions import psum
from emu.trainium.nki.functions.checks import refuse
from emu.trainium.nki.handles import Handle
from emu.trainium.nki.index import Index, Mask
from emu.trainium.nki.tree import Access

Axes: TypeAlias = tuple[tuple[int, int], ...]
"""(stride in elements, count) of each."""


def is_tile(value: object) -> bool:
    """Whether a kernel's value is a tensor and no number."""
    return isinstance(value, Handle)


def handle(value: object, function: str, argument: str) -> Handle:
    """A kernel's tensor."""
    if isinstance(value, Handle):
        return value
    refuse(function, f"{argument} is {value!r}, must be a tile in SBUF or PSUM")


def masked(mask: object, function: str) -> Mask | None:
    """A kernel's mask; True masks nothing."""
    if mask is None or isinstance(mask, Mask):
        return mask
    if isinstance(mask, bool | np.bool_):
        return None if mask else Mask((Index(-1, (), 0),))
    refuse(function, f"mask is {mask!r}, must be a comparison of indices")


def full(value: object, function: str, argument: str) -> tuple[int, ...]:
    """The shape of a tile before a mask clips it; `[p]` is `[p, 1]`."""
    return two_dimensional(handle(value, function, argument).shape)


def number(value: object, function: str, argument: str) -> float:
    """A kernel's constant: a Python or NumPy number."""
    if isinstance(value, bool | numbers.Number | np.generic):
        return float(value)  # pyright: ignore[reportArgumentType]
    refuse(function, f"{argument} is {value!r}, must be a number or a tile")


def on_chip(
    value: object,
    function: str,
    argument: str,
    mask: object = None,
    *,
    written: bool = False,
) -> Access:
    """A tile in SBUF or PSUM, `[p, ...]` of at least two dimensions; read unless written."""
    access = handle(value, function, argument).access(masked(mask, function))
    if access.partitions is None:
        refuse(
            function, f"{argument} is in HBM, must be in SBUF or PSUM: load it first"
        )
    if access.space == "psum" and not written:
        psum.settle(access)
    return access if access.axes else dataclasses.replace(access, axes=((1, 1),))


def column(
    value: object, like: Access, function: str, argument: str, *, written: bool = False
) -> Access:
    """A value a partition, `[p, 1]`, beside the tile `like`; read unless it is written."""
    access = on_chip(value, function, argument, written=written)
    elements = math.prod(count for _, count in access.axes)
    if elements != 1:
        refuse(
            function,
            f"{argument} is {list(access.shape)}, must be one value a partition, "
            f"[{like.partitions}, 1]",
        )
    access = narrowed(access, like.partitions)
    if access.partitions != like.partitions:
        refuse(
            function,
            f"{argument} has {access.partitions} partitions, must have {like.partitions} as "
            "the tile beside it",
        )
    return access if access.axes == ((1, 1),) else with_axes(access, ((1, 1),))


def narrowed(access: Access, partitions: int | None) -> Access:
    """Its first partitions, where a mask has left only as many of the tile beside it."""
    if (
        partitions is None
        or access.partitions is None
        or access.partitions <= partitions
    ):
        return access
    return dataclasses.replace(access, partitions=partitions)


def with_axes(access: Access, axes: Axes) -> Access:
    return dataclasses.replace(access, axes=axes)


def joined(axes: Axes) -> Axes:
    """As few axes as possible: those of one element dropped, neighbours that go on joined.

    Example: ((1024, 8), (1, 1024)) is ((1, 8192),).
    """
    result: list[tuple[int, int]] = []
    for stride, count in axes:
        if count == 1:
            continue
        if result and result[-1][0] == stride * count:
            result[-1] = (stride, result[-1][1] * count)
        else:
            result.append((stride, count))
    return tuple(result)


def split(axes: Axes, sizes: Sequence[int]) -> Axes | None:
    """The same elements in the same order, with axes of the given sizes; None if strides forbid.

    Example: ((1, 8192),) of sizes (8, 1024) is ((1024, 8), (1, 1024)).
    """
    left = list(joined(axes))
    result: list[tuple[int, int]] = []
    for size in reversed(sizes):
        if size == 1:
            result.append((1, 1))
            continue
        if not left:
            return None
        stride, count = left.pop()
        if count % size:
            return None
        result.append((stride, size))
        if count > size:
            left.append((stride * size, count // size))
    return None if left else tuple(reversed(result))


def shaped(access: Access, shape: Sequence[int]) -> Access | None:
    """The access with the given shape; None if it has not these elements in this order.

    Partitions stay: of `[128, 8, 64]` `[128, 512]` can be made, not `[1024, 64]`.
    """
    if access.shape == tuple(shape):
        return access
    free = tuple(shape)
    if access.partitions is not None:
        if not shape or shape[0] != access.partitions:
            return None
        free = tuple(shape[1:])
    axes = split(access.axes, free)
    return None if axes is None else with_axes(access, axes)


def formed(access: Access, form: tuple[int, ...]) -> Access:
    """The access as an instruction sees it in a shape that its axes do not have."""
    return dataclasses.replace(access, form=form)


def streamed(access: Access, shape: Sequence[int]) -> Access | None:
    """The access with the given shape, whose elements an engine takes one after the other.

    An engine counts elements and no dimensions: a tile of `[128, 2, 4]` whose axes cannot be made
    one serves beside one of `[128, 8]`. None if partitions or elements are not as many.
    """
    found = shaped(access, shape)
    if found is not None:
        return found
    if access.partitions != shape[0] or math.prod(access.shape) != math.prod(shape):
        return None
    return formed(access, tuple(shape))


def repeated(access: Access, shape: Sequence[int]) -> Access | None:
    """The access with axes of one element repeated to those of `shape`; None if others differ."""
    if access.shape == tuple(shape):
        return access
    assert access.partitions is not None
    axes = access.axes
    wanted = tuple(shape[1:])
    if access.partitions != shape[0] or len(axes) > len(wanted):
        return None
    axes = ((1, 1),) * (len(wanted) - len(axes)) + axes
    result: list[tuple[int, int]] = []
    for (stride, count), size in zip(axes, wanted, strict=True):
        if count not in (1, size):
            return None
        result.append((stride, count) if count == size else (0, size))
    return with_axes(access, tuple(result))


def two_dimensional(shape: Sequence[int]) -> tuple[int, ...]:
    """A handle's shape as a tile has it: `[p]` is `[p, 1]`."""
    return (*shape, 1) if len(shape) == 1 else tuple(shape)


def told(access: Access) -> str:
    return f"{access.dtype}{list(access.shape)}"


def elements(access: Access) -> int:
    """Of one partition."""
    return math.prod(count for _, count in access.axes)
