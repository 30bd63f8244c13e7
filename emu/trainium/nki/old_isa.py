"""The older generation's `nki.isa`: instructions that return their tiles.

Signatures are the vendor's (SDK 2.26.1); what the functions mean is in `functions`.
"""

import enum
from collections.abc import Mapping, Sequence

from emu.annotations import DType
from emu.trainium.nki import machine, old_patterns
from emu.trainium.nki.functions import (
    activation as activations,
)
from emu.trainium.nki.functions import (
    copy,
    elementwise,
    matmul,
    reduce,
    transfer,
)
from emu.trainium.nki.functions.checks import refuse
from emu.trainium.nki.functions.engines import Engine
from emu.trainium.nki.handles import Handle

UNKNOWN = Engine.unknown


class ReduceCommand(enum.Enum):
    """`nki.isa.reduce_cmd`: what an activation does with the engine's register of sums."""

    idle = 0
    reset = 1
    reduce = 2
    reset_reduce = 3


def nc_matmul(
    stationary: Handle,
    moving: Handle,
    is_stationary_onezero: bool = False,
    is_moving_onezero: bool = False,
    is_transpose: bool = False,
    tile_position: tuple[int, ...] = (),
    tile_size: tuple[int, ...] = (),
    *,
    perf_mode: object = None,
    mask: object = None,
    dtype: DType | None = None,
    name: str | None = None,
) -> Handle:
    if tile_position or tile_size:
        refuse("nki.isa.nc_matmul", "tile_position and tile_size are not supported")
    return matmul.nc_matmul(
        None,
        stationary,
        moving,
        is_stationary_onezero=is_stationary_onezero,
        is_moving_onezero=is_moving_onezero,
        is_transpose=is_transpose,
        perf_mode=perf_mode,
        mask=mask,
        dtype=dtype,
    )


def nc_transpose(
    data: Handle,
    *,
    mask: object = None,
    dtype: DType | None = None,
    engine: object = UNKNOWN,
    name: str | None = None,
) -> Handle:
    return matmul.nc_transpose(None, data, dtype=dtype, mask=mask, engine=engine)


def activation(
    op: object,
    data: Handle,
    *,
    bias: object = None,
    scale: object = 1.0,
    reduce_op: object = None,
    reduce_res: Handle | None = None,
    reduce_cmd: object = ReduceCommand.idle,
    mask: object = None,
    dtype: DType | None = None,
    name: str | None = None,
) -> Handle:
    return activations.activation(
        None,
        op,
        data,
        bias,
        scale,
        reduce_op=reduce_op,
        reduce_res=reduce_res,
        reduce_cmd=reduce_cmd,
        dtype=dtype,
        mask=mask,
    )


def activation_reduce(
    op: object,
    data: Handle,
    *,
    reduce_op: object,
    reduce_res: Handle,
    bias: object = None,
    scale: object = 1.0,
    mask: object = None,
    dtype: DType | None = None,
    name: str | None = None,
) -> Handle:
    return reduce.activation_reduce(
        None,
        op,
        data,
        reduce_op=reduce_op,
        reduce_res=reduce_res,
        bias=bias,
        scale=scale,
        dtype=dtype,
        mask=mask,
    )


def tensor_reduce(
    op: object,
    data: Handle,
    axis: object,
    *,
    mask: object = None,
    dtype: DType | None = None,
    negate: bool = False,
    keepdims: bool = False,
    name: str | None = None,
) -> Handle:
    return reduce.tensor_reduce(
        None, op, data, axis, negate=negate, keepdims=keepdims, dtype=dtype, mask=mask
    )


def tensor_tensor(
    data1: Handle,
    data2: Handle,
    op: object,
    *,
    dtype: DType | None = None,
    mask: object = None,
    engine: object = UNKNOWN,
    name: str | None = None,
) -> Handle:
    return elementwise.tensor_tensor(
        None, data1, data2, op, dtype=dtype, mask=mask, engine=engine
    )


def tensor_tensor_scan(
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
    name: str | None = None,
) -> Handle:
    return reduce.tensor_tensor_scan(
        None,
        data0,
        data1,
        initial,
        op0,
        op1,
        reverse0,
        reverse1,
        dtype=dtype,
        mask=mask,
    )


def scalar_tensor_tensor(
    *,
    data: Handle,
    op0: object,
    operand0: object,
    op1: object,
    operand1: object,
    reverse0: bool = False,
    reverse1: bool = False,
    dtype: DType | None = None,
    mask: object = None,
    name: str | None = None,
) -> Handle:
    return elementwise.scalar_tensor_tensor(
        None,
        data,
        op0,
        operand0,
        op1,
        operand1,
        reverse0,
        reverse1,
        dtype=dtype,
        mask=mask,
    )


def tensor_scalar(
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
    engine: object = UNKNOWN,
    name: str | None = None,
) -> Handle:
    return elementwise.tensor_scalar(
        None,
        data,
        op0,
        operand0,
        reverse0,
        op1,
        operand1,
        reverse1,
        dtype=dtype,
        mask=mask,
        engine=engine,
    )


def tensor_scalar_reduce(
    *,
    data: Handle,
    op0: object,
    operand0: object,
    reduce_op: object,
    reduce_res: Handle,
    reverse0: bool = False,
    dtype: DType | None = None,
    mask: object = None,
    name: str | None = None,
) -> Handle:
    return reduce.tensor_scalar_reduce(
        None,
        data,
        op0,
        operand0,
        reduce_op,
        reduce_res,
        reverse0,
        dtype=dtype,
        mask=mask,
    )


def tensor_copy(
    src: Handle,
    *,
    mask: object = None,
    dtype: DType | None = None,
    engine: object = UNKNOWN,
    name: str | None = None,
) -> Handle:
    return copy.tensor_copy(None, src, dtype=dtype, mask=mask, engine=engine)


def reciprocal(
    data: Handle,
    *,
    dtype: DType | None = None,
    mask: object = None,
    name: str | None = None,
) -> Handle:
    return elementwise.reciprocal(None, data, dtype=dtype, mask=mask)


def memset(
    shape: Sequence[int],
    value: object,
    dtype: DType,
    *,
    mask: object = None,
    engine: object = UNKNOWN,
    name: str | None = None,
) -> Handle:
    return elementwise.memset(
        None, value, shape=tuple(shape), dtype=dtype, mask=mask, engine=engine
    )


def bn_stats(
    data: Handle,
    *,
    mask: object = None,
    dtype: DType | None = None,
    name: str | None = None,
) -> Handle:
    return reduce.bn_stats(None, data, dtype=dtype, mask=mask)


def bn_aggr(
    data: Handle,
    *,
    mask: object = None,
    dtype: DType | None = None,
    name: str | None = None,
) -> Handle:
    return reduce.bn_aggr(None, data, dtype=dtype, mask=mask)


def dma_copy(
    *, dst: Handle, src: Handle, mask: object = None, name: str | None = None
) -> None:
    transfer.dma_copy(dst, src, mask=mask)


def tensor_copy_predicated(
    *,
    src: object,
    dst: Handle,
    predicate: Handle,
    mask: object = None,
    dtype: DType | None = None,
    reverse_pred: bool = False,
    name: str | None = None,
) -> Handle:
    if reverse_pred:
        refuse("nki.isa.tensor_copy_predicated", "reverse_pred is not supported")
    return elementwise.select(
        dst, predicate, src, dst, mask=mask, name="nki.isa.tensor_copy_predicated"
    )


ISA: Mapping[str, object] = {
    "nc_matmul": nc_matmul,
    "nc_transpose": nc_transpose,
    "activation": activation,
    "activation_reduce": activation_reduce,
    "tensor_reduce": tensor_reduce,
    "tensor_tensor": tensor_tensor,
    "tensor_tensor_scan": tensor_tensor_scan,
    "scalar_tensor_tensor": scalar_tensor_tensor,
    "tensor_scalar": tensor_scalar,
    "tensor_scalar_reduce": tensor_scalar_reduce,
    "tensor_copy": tensor_copy,
    "tensor_copy_predicated": tensor_copy_predicated,
    "reciprocal": reciprocal,
    "memset": memset,
    "bn_stats": bn_stats,
    "bn_aggr": bn_aggr,
    "dma_copy": dma_copy,
    **old_patterns.PATTERNS,
    "get_nc_version": machine.get_nc_version,
    "nc_version": machine.Generation,
    "reduce_cmd": ReduceCommand,
    "engine": Engine,
    **{f"{engine.name}_engine": engine for engine in Engine},
}

__all__ = ["ISA"]
