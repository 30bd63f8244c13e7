"""The older generation's instructions on patterns, searches and shuffles.

An expression or a condition of indices, such as `i >= j` of `nl.mgrid`, is here what the newer
generation calls a pattern: a step for each axis.
"""

from collections.abc import Mapping, Sequence

import numpy as np

from emu.annotations import DType
from emu.trainium.nki.functions import find, generate, operands, shuffle
from emu.trainium.nki.functions.checks import refuse
from emu.trainium.nki.handles import Handle
from emu.trainium.nki.index import Index, Mask


def _pattern(
    index: Index, shape: Sequence[int], name: str
) -> tuple[int, list[list[int]]]:
    """An index as the step from one partition to the next, and [step, count] of free axes."""
    steps = [0] * len(shape)
    for position, _, step in index.axes:
        place = position + len(shape) - index.ndim
        if place < 0:
            refuse(name, f"an index has {index.ndim} axes, the tile {len(shape)}")
        steps[place] += step
    pairs = zip(steps[1:], shape[1:], strict=True)
    return steps[0], [[step, count] for step, count in pairs]


def iota(
    expr: object, dtype: DType, *, mask: object = None, name: str | None = None
) -> Handle:
    title = "nki.isa.iota"
    if not isinstance(expr, Index):
        refuse(title, f"expr is {expr!r}, must be an expression of nl.arange")
    shape = operands.two_dimensional(expr.shape)
    multiplier, pattern = _pattern(expr, shape, title)
    return generate.iota(
        None,
        pattern,
        expr.constant,
        multiplier,
        partitions=shape[0],
        dtype=dtype,
        mask=mask,
    )


def affine_select(
    pred: object,
    on_true_tile: Handle,
    on_false_value: float,
    *,
    mask: object = None,
    dtype: DType | None = None,
    name: str | None = None,
) -> Handle:
    title = "nki.isa.affine_select"
    if not isinstance(pred, Mask) or len(pred.bounds) != 1:
        refuse(title, "pred must be one comparison of indices, such as i >= j")
    (bound,) = pred.bounds
    shape = operands.full(on_true_tile, title, "on_true_tile")
    multiplier, pattern = _pattern(bound, shape, title)
    return generate.affine_select(
        None,
        pattern,
        multiplier,
        on_true_tile,
        on_false_value,
        "greater_equal",
        bound.constant,
        dtype=dtype,
        mask=mask,
    )


def range_select(
    *,
    on_true_tile: Handle,
    comp_op0: object,
    comp_op1: object,
    bound0: Handle,
    bound1: Handle,
    reduce_cmd: object = None,
    reduce_res: Handle | None = None,
    reduce_op: object = np.amax,
    range_start: int = 0,
    on_false_value: float = generate.LOWEST,
    mask: object = None,
    dtype: DType | None = None,
    name: str | None = None,
) -> Handle:
    return generate.range_select(
        None,
        on_true_tile,
        comp_op0,
        comp_op1,
        bound0,
        bound1,
        reduce_res=reduce_res,
        reduce_op=reduce_op,
        range_start=range_start,
        on_false_value=on_false_value,
        dtype=dtype,
        mask=mask,
    )


def max8(
    *,
    src: Handle,
    mask: object = None,
    dtype: DType | None = None,
    name: str | None = None,
) -> Handle:
    return find.max8(None, src, dtype=dtype, mask=mask)


def nc_find_index8(
    *,
    data: Handle,
    vals: Handle,
    mask: object = None,
    dtype: DType | None = None,
    name: str | None = None,
) -> Handle:
    kind = np.uint32 if dtype is None else dtype
    return find.nc_find_index8(None, data, vals, dtype=kind, mask=mask)


def nc_match_replace8(
    *,
    data: Handle,
    vals: Handle,
    imm: float,
    dst_idx: Handle | None = None,
    mask: object = None,
    dtype: DType | None = None,
    name: str | None = None,
) -> Handle:
    return find.nc_match_replace8(
        None, data, vals, imm, dst_idx, dtype=dtype, mask=mask
    )


def local_gather(
    src_buffer: Handle,
    index: Handle,
    num_elem_per_idx: int = 1,
    num_valid_indices: int | None = None,
    *,
    mask: object = None,
    name: str | None = None,
) -> Handle:
    return find.local_gather(
        None, src_buffer, index, num_elem_per_idx, num_valid_indices, mask=mask
    )


def nc_stream_shuffle(
    src: Handle,
    dst: Handle,
    shuffle_mask: Sequence[int],
    *,
    dtype: DType | None = None,
    mask: object = None,
    name: str | None = None,
) -> None:
    if dtype is not None or mask is not None:
        refuse("nki.isa.nc_stream_shuffle", "dtype and mask are not supported")
    shuffle.nc_stream_shuffle(dst, src, shuffle_mask)


PATTERNS: Mapping[str, object] = {
    "iota": iota,
    "affine_select": affine_select,
    "range_select": range_select,
    "max8": max8,
    "nc_find_index8": nc_find_index8,
    "nc_match_replace8": nc_match_replace8,
    "local_gather": local_gather,
    "nc_stream_shuffle": nc_stream_shuffle,
}
"""By their names in `nki.isa`."""
