"""Reductions over free axes, running sums, statistics."""

import math
import operator
from collections.abc import Sequence
from typing import Any, SupportsIndex

from emu.annotations import DType
from emu.trainium import isa
from emu.trainium.nki.functions import operands, psum
from emu.trainium.nki.functions.activation import activation
from emu.trainium.nki.functions.checks import refuse
from emu.trainium.nki.functions.engines import offer, way
from emu.trainium.nki.functions.operators import binary, reduction
from emu.trainium.nki.functions.produce import produce, promoted
from emu.trainium.nki.handles import Handle
from emu.trainium.nki.tree import Access

STATISTICS = 6


def free_axes(axis: object, ndim: int, name: str) -> list[int]:
    """The axes to reduce, sorted; the partition axis is none of them."""
    given = list(axis) if isinstance(axis, Sequence) else [axis]
    axes: list[int] = []
    for each in given:
        if not isinstance(each, SupportsIndex):
            refuse(name, f"axis is {axis!r}, must be free axes")
        place = operator.index(each)
        place = place + ndim if place < 0 else place
        if not 0 < place < ndim:
            refuse(name, f"axis is {axis}, must be free axes, 1 to {ndim - 1}")
        axes.append(place)
    return sorted(set(axes))


def _reduced_last(
    source: Access, axes: list[int], name: str
) -> tuple[Access, tuple[int, ...]]:
    """The tile with its reduced axes last and as one, and the sizes of those that are kept."""
    kept = [pair for i, pair in enumerate(source.axes) if i + 1 not in axes]
    gone = tuple(pair for i, pair in enumerate(source.axes) if i + 1 in axes)
    one = operands.joined(gone) or ((1, 1),)
    turned = operands.with_axes(source, (*kept, *one))
    sizes = tuple(count for _, count in kept)
    if len(one) > 1:
        # Two strides, such as rows and columns of a window: one axis in form, not in memory.
        form = (source.shape[0], *sizes, math.prod(count for _, count in one))
        turned = operands.formed(turned, form)
    return turned, sizes


def tensor_reduce(
    dst: Handle | None,
    op: object,
    data: object,
    axis: object,
    *,
    negate: bool = False,
    keepdims: bool = False,
    dtype: DType | None = None,
    mask: object = None,
    engine: object = None,
    name: str = "nki.isa.tensor_reduce",
) -> Handle:
    """`dst = op` over free axes of `data`; a fresh tile has at least two dimensions."""
    source = operands.on_chip(data, name, "data", mask)
    whole = operands.full(data, name, "data")
    axes = free_axes(axis, len(whole), name)
    ours = reduction(op, name)
    turned, sizes = _reduced_last(source, axes, name)
    kept = [size for i, size in enumerate(whole) if i not in axes]
    full = [1 if i in axes else size for i, size in enumerate(whole)]
    if not keepdims:
        full = [*kept, 1] if len(kept) == 1 else kept
    ways = [way("vector", isa.tensor_reduce, op=ours, negate=bool(negate))]
    choices = offer(engine, name, *ways)
    shape = (source.shape[0], *sizes, 1)
    kind = dtype or source.dtype
    return produce(
        name,
        choices,
        dst,
        full,
        shape,
        kind,
        (turned,),
        clip=_clip(source, whole, full),
    )


def _clip(
    source: Access, whole: Sequence[int], full: Sequence[int]
) -> tuple[int, ...] | None:
    """The part of a result that a mask on its source leaves; None for all."""
    if source.shape == tuple(whole):
        return None
    left = [n for n, size in zip(source.shape, whole, strict=True) if size in full]
    sizes = [min(a, b) for a, b in zip(left, full, strict=False)]
    return (*sizes, *full[len(sizes) :])


def activation_reduce(
    dst: Handle | None,
    op: object,
    data: object,
    *,
    reduce_op: object,
    reduce_res: Handle | None,
    bias: object = None,
    scale: object = 1.0,
    dtype: DType | None = None,
    mask: object = None,
    name: str = "nki.isa.activation_reduce",
) -> Handle:
    """`dst = op(data · scale + bias)` and `reduce_res` `[p, 1]` its sum."""
    if reduce_res is None:
        refuse(name, "reduce_res is None, must be a tile [p, 1]")
    return activation(
        dst,
        op,
        data,
        bias,
        scale,
        reduce_op=reduce_op,
        reduce_res=reduce_res,
        dtype=dtype,
        mask=mask,
        name=name,
    )


def tensor_scalar_reduce(
    dst: Handle | None,
    data: object,
    op0: object,
    operand0: object,
    reduce_op: object,
    reduce_res: object,
    reverse0: bool = False,
    *,
    dtype: DType | None = None,
    mask: object = None,
    engine: object = None,
    name: str = "nki.isa.tensor_scalar_reduce",
) -> Handle:
    """`dst = data op0 operand0`, and `reduce_res` `[p, 1]` gets `reduce_op` of it."""
    source = operands.on_chip(data, name, "data", mask)
    parameters: dict[str, Any] = {
        "op": binary(op0, name, "op0"),
        "reduce": reduction(reduce_op, name, "reduce_op"),
    }
    reads = [source]
    if operands.is_tile(operand0):
        if reverse0:
            refuse(name, "reverse0 is True, must be False for a tile operand0")
        reads.append(operands.column(operand0, source, name, "operand0"))
        instruction = isa.tensor_scalar_reduce
    else:
        parameters["value"] = operands.number(operand0, name, "operand0")
        parameters["reverse"] = bool(reverse0)
        instruction = isa.tensor_immediate_reduce
    total = operands.column(reduce_res, source, name, "reduce_res", written=True)
    choices = offer(engine, name, way("vector", instruction, **parameters))
    full = operands.full(data, name, "data")
    kind = dtype or source.dtype
    return produce(
        name, choices, dst, full, source.shape, kind, reads, mask=mask, more=(total,)
    )


def tensor_tensor_scan(
    dst: Handle | None,
    data0: object,
    data1: object,
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
    from emu.trainium.nki.functions.copy import out_of_psum

    left = operands.on_chip(data0, name, "data0", mask)
    right = operands.on_chip(data1, name, "data1", mask)
    flat = (left.shape[0], operands.elements(left))
    first, second = operands.shaped(left, flat), operands.shaped(right, flat)
    if first is None or second is None:
        refuse(
            name,
            f"data0 is {operands.told(left)} and data1 {operands.told(right)}, "
            "must be alike",
        )
    if first.space == second.space == "psum":
        second = out_of_psum(second, name)
    sides: dict[str, Any] = {
        "op0": binary(op0, name, "op0"),
        "op1": binary(op1, name, "op1"),
        "reverse0": bool(reverse0),
        "reverse1": bool(reverse1),
    }
    reads = [first, second]
    if operands.is_tile(initial):
        reads.append(operands.column(initial, first, name, "initial"))
        choice = way("vector", isa.tensor_tensor_scan, **sides)
    else:
        value = operands.number(initial, name, "initial")
        choice = way(
            "vector",
            isa.tensor_tensor_scan_immediate,
            initial=value,
            **sides,
        )
    full = operands.full(data0, name, "data0")
    kind = dtype or promoted(left.dtype, right.dtype)
    choices = offer(engine, name, choice)
    return produce(name, choices, dst, full, flat, kind, reads, mask=mask)


def bn_stats(
    dst: Handle | None,
    data: object,
    *,
    dtype: DType | None = None,
    mask: object = None,
    engine: object = None,
    name: str = "nki.isa.bn_stats",
) -> Handle:
    """`dst[p, 6]`: counts, means and squares of even and odd elements."""
    source = operands.on_chip(data, name, "data", mask)
    return _statistics(dst, source, isa.bn_stats, STATISTICS, dtype, engine, name)


def bn_aggr(
    dst: Handle | None,
    data: object,
    *,
    dtype: DType | None = None,
    mask: object = None,
    engine: object = None,
    name: str = "nki.isa.bn_aggr",
) -> Handle:
    """`dst[p, 2]`: mean and variance of what `bn_stats` wrote."""
    source = operands.on_chip(data, name, "data", mask)
    return _statistics(dst, source, isa.bn_aggr, 2, dtype, engine, name)


def _statistics(
    dst: Handle | None,
    source: Access,
    instruction: Any,
    columns: int,
    dtype: DType | None,
    engine: object,
    name: str,
) -> Handle:
    choices = offer(engine, name, way("vector", instruction))
    shape = (source.shape[0], columns)
    kind = dtype or source.dtype
    return produce(name, choices, dst, shape, shape, kind, (source,))


def loop_reduce(
    dst: Handle | None,
    data: object,
    op: object,
    loop_indices: Sequence[object],
    *,
    dtype: DType | None = None,
    mask: object = None,
    name: str = "nki.language.loop_reduce",
) -> Handle:
    """`op` over the turns of loops: the first turn's tile, then each further one's combined.

    Which turn is the first the indices say: their turns' numbers add up to 0. So the same
    instruction stands for every turn, with a register that is 0 in the first.
    """
    source = operands.on_chip(data, name, "data", mask)
    ours = binary(op, name)
    number = 0
    for index in loop_indices:
        if not isinstance(index, SupportsIndex):
            refuse(name, f"loop_indices has {index!r}, must be indices of loops")
        number += getattr(index, "number", operator.index(index))
    choices = offer(None, name, way("vector", isa.tensor_combine, op=ours))
    full = operands.full(data, name, "data")
    kind = dtype or source.dtype

    def flag(access: Access) -> bool:
        psum.overwrite(access)
        return number > 0

    return produce(
        name, choices, dst, full, source.shape, kind, (source,), mask=mask, flag=flag
    )
