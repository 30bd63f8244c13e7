"""The newer generation: `nki.isa`, whose functions take their destination and return nothing.

Signatures are the vendor's (NKI 0.4); what the functions mean is in `functions`.
"""

import enum
from collections.abc import Mapping, Sequence

from emu.trainium.nki import machine
from emu.trainium.nki.functions import (
    activation as activations,
)
from emu.trainium.nki.functions import (
    compute_on_the_way,
    copy,
    cores,
    elementwise,
    find,
    generate,
    matmul,
    mx,
    predicated,
    reduce,
    registers,
    shuffle,
    transfer,
    transpose,
)
from emu.trainium.nki.functions.checks import refuse
from emu.trainium.nki.functions.engines import Engine
from emu.trainium.nki.handles import Handle
from emu.trainium.nki.old_isa import ReduceCommand

UNKNOWN = Engine.unknown


class DgeMode(enum.Enum):
    """`nki.isa.dge_mode`: who writes a DMA's descriptors."""

    unknown = 0
    swdge = 1
    hwdge = 2
    none = 3


class OutOfBounds(enum.Enum):
    """`nki.isa.oob_mode`: what a DMA does at an index that does not exist."""

    error = 0
    skip = 1


class PerformanceMode(enum.Enum):
    """`nki.isa.matmul_perf_mode`."""

    none = 0
    double_row = 1


class DmaEngine(enum.Enum):
    """`nki.isa.dma_engine`: what moves tiles between two cores."""

    dma = 0
    gpsimd_dma = 1


# --- DMA ---


def dma_copy(
    dst: Handle,
    src: Handle,
    priority: int | None = None,
    oob_mode: object = OutOfBounds.error,
    dge_mode: object = DgeMode.unknown,
    engine: object = UNKNOWN,
    name: str | None = None,
    dst_rmw_op: object = None,
    unique_indices: bool = True,
) -> None:
    skip = oob_mode is OutOfBounds.skip
    if dst_rmw_op is not None:
        compute_on_the_way.dma_compute(dst, [dst, src], dst_rmw_op, skip=skip)
        return
    transfer.indirect_copy(dst, src, skip=skip)


def dma_transpose(
    dst: Handle,
    src: Handle,
    axes: Sequence[int] | None = None,
    priority: int | None = None,
    dge_mode: object = DgeMode.unknown,
    oob_mode: object = OutOfBounds.error,
    name: str | None = None,
    dtype: object = None,
) -> None:
    transpose.dma_transpose(dst, src, axes, skip=oob_mode is OutOfBounds.skip)


def dma_compute(
    dst: Handle,
    srcs: Sequence[Handle],
    reduce_op: object = "add",
    scales: Sequence[float] | None = None,
    unique_indices: bool = True,
    oob_mode: object = OutOfBounds.error,
    name: str | None = None,
) -> None:
    skip = oob_mode is OutOfBounds.skip
    compute_on_the_way.dma_compute(dst, srcs, reduce_op, scales, skip=skip)


# --- Tensor Engine ---


def _tiling(function: str, position: Sequence[int], size: Sequence[int]) -> None:
    """A part of the array: the values are the same; that two may run at once is not modelled."""
    if bool(position) != bool(size):
        refuse(function, "tile_position and tile_size must be given together")


def nc_matmul(
    dst: Handle,
    stationary: Handle,
    moving: Handle,
    is_stationary_onezero: bool = False,
    is_moving_onezero: bool = False,
    is_transpose: bool = False,
    accumulate: bool | None = None,
    tile_position: Sequence[int] = (),
    tile_size: Sequence[int] = (),
    perf_mode: object = PerformanceMode.none,
    name: str | None = None,
) -> None:
    _tiling("nki.isa.nc_matmul", tile_position, tile_size)
    matmul.nc_matmul(
        dst,
        stationary,
        moving,
        accumulate=None if accumulate is None else bool(accumulate),
        is_stationary_onezero=is_stationary_onezero,
        is_moving_onezero=is_moving_onezero,
        is_transpose=is_transpose,
        perf_mode=perf_mode,
    )


def nc_matmul_mx(
    dst: Handle,
    stationary: Handle,
    moving: Handle,
    stationary_scale: Handle,
    moving_scale: Handle,
    tile_position: Sequence[int] | None = None,
    tile_size: Sequence[int] | None = None,
    accumulate: bool | None = None,
    name: str | None = None,
) -> None:
    _tiling("nki.isa.nc_matmul_mx", tile_position or (), tile_size or ())
    mx.nc_matmul_mx(
        dst,
        stationary,
        moving,
        stationary_scale,
        moving_scale,
        accumulate=accumulate,
    )


def nc_transpose(
    dst: Handle, data: Handle, engine: object = UNKNOWN, name: str | None = None
) -> None:
    matmul.nc_transpose(dst, data, engine=engine)


# --- Scalar Engine ---


def activation(
    dst: Handle,
    op: object,
    data: Handle,
    bias: object = None,
    scale: object = 1.0,
    reduce_op: object = None,
    reduce_res: Handle | None = None,
    reduce_cmd: object = ReduceCommand.idle,
    name: str | None = None,
) -> None:
    activations.activation(
        dst,
        op,
        data,
        bias,
        scale,
        reduce_op=reduce_op,
        reduce_res=reduce_res,
        reduce_cmd=reduce_cmd,
    )


def activation_reduce(
    dst: Handle,
    op: object,
    data: Handle,
    reduce_op: object,
    reduce_res: Handle,
    bias: object = None,
    scale: object = 1.0,
    name: str | None = None,
) -> None:
    reduce.activation_reduce(
        dst,
        op,
        data,
        reduce_op=reduce_op,
        reduce_res=reduce_res,
        bias=bias,
        scale=scale,
    )


# --- Vector and GpSimd Engines ---


def tensor_copy(
    dst: Handle,
    src: Handle,
    engine: object = UNKNOWN,
    name: str | None = None,
    dtype: object = None,
) -> None:
    # The dtype is the destination's; earlier versions let it be said once more.
    copy.tensor_copy(dst, src, engine=engine)


def tensor_copy_predicated(
    dst: Handle,
    src: object,
    predicate: Handle,
    reverse_pred: bool = False,
    name: str | None = None,
) -> None:
    predicated.tensor_copy_predicated(dst, src, predicate, reverse_pred=reverse_pred)


def memset(
    dst: Handle, value: float, engine: object = UNKNOWN, name: str | None = None
) -> None:
    elementwise.memset(dst, value, engine=engine)


def tensor_tensor(
    dst: Handle,
    data1: Handle,
    data2: Handle,
    op: object,
    engine: object = UNKNOWN,
    name: str | None = None,
) -> None:
    elementwise.tensor_tensor(dst, data1, data2, op, engine=engine)


def tensor_scalar(
    dst: Handle,
    data: Handle,
    op0: object,
    operand0: object,
    reverse0: bool = False,
    op1: object = None,
    operand1: object = None,
    reverse1: bool = False,
    engine: object = UNKNOWN,
    name: str | None = None,
) -> None:
    elementwise.tensor_scalar(
        dst, data, op0, operand0, reverse0, op1, operand1, reverse1, engine=engine
    )


def scalar_tensor_tensor(
    dst: Handle,
    data: Handle,
    op0: object,
    operand0: object,
    op1: object,
    operand1: Handle,
    reverse0: bool = False,
    reverse1: bool = False,
    name: str | None = None,
    dtype: object = None,
) -> None:
    elementwise.scalar_tensor_tensor(
        dst, data, op0, operand0, op1, operand1, reverse0, reverse1
    )


def reciprocal(dst: Handle, data: Handle, name: str | None = None) -> None:
    elementwise.reciprocal(dst, data)


def tensor_reduce(
    dst: Handle,
    op: object,
    data: Handle,
    axis: int | Sequence[int],
    negate: bool = False,
    keepdims: bool = False,
    name: str | None = None,
) -> None:
    reduce.tensor_reduce(dst, op, data, axis, negate=negate, keepdims=keepdims)


def tensor_partition_reduce(
    dst: Handle, op: object, data: Handle, name: str | None = None
) -> None:
    shuffle.tensor_partition_reduce(dst, op, data)


def tensor_scalar_reduce(
    dst: Handle,
    data: Handle,
    op0: object,
    operand0: object,
    reduce_op: object,
    reduce_res: Handle,
    reverse0: bool = False,
    reduce_cmd: object = ReduceCommand.reset_reduce,
    reduce_init: object = None,
    name: str | None = None,
) -> None:
    if getattr(reduce_cmd, "name", None) != "reset_reduce" or reduce_init is not None:
        refuse(
            "nki.isa.tensor_scalar_reduce",
            f"reduce_cmd is {reduce_cmd}, must be reset_reduce",
        )
    reduce.tensor_scalar_reduce(
        dst, data, op0, operand0, reduce_op, reduce_res, reverse0
    )


def tensor_tensor_scan(
    dst: Handle,
    data0: Handle,
    data1: Handle,
    initial: object,
    op0: object,
    op1: object,
    reverse0: bool = False,
    reverse1: bool = False,
    name: str | None = None,
) -> None:
    reduce.tensor_tensor_scan(dst, data0, data1, initial, op0, op1, reverse0, reverse1)


def bn_stats(dst: Handle, data: Handle, name: str | None = None) -> None:
    reduce.bn_stats(dst, data)


def bn_aggr(dst: Handle, data: Handle, name: str | None = None) -> None:
    reduce.bn_aggr(dst, data)


def iota(
    dst: Handle,
    pattern: generate.Pattern | None = None,
    offset: int = 0,
    channel_multiplier: int = 0,
    name: str | None = None,
) -> None:
    if pattern is None:
        refuse("nki.isa.iota", "pattern is missing, must be [[step, count], ...]")
    generate.iota(dst, pattern, offset, channel_multiplier)


def affine_select(
    dst: Handle,
    pattern: generate.Pattern,
    channel_multiplier: int,
    on_true_tile: Handle,
    on_false_value: float,
    cmp_op: object = "equal",
    offset: int = 0,
    name: str | None = None,
) -> None:
    generate.affine_select(
        dst, pattern, channel_multiplier, on_true_tile, on_false_value, cmp_op, offset
    )


def range_select(
    dst: Handle,
    on_true_tile: Handle,
    comp_op0: object,
    comp_op1: object,
    bound0: Handle,
    bound1: Handle,
    reduce_cmd: object = ReduceCommand.reset_reduce,
    reduce_res: Handle | None = None,
    reduce_op: object = "maximum",
    range_start: int = 0,
    on_false_value: float = generate.LOWEST,
    name: str | None = None,
) -> None:
    if getattr(reduce_cmd, "name", None) not in ("reset_reduce", "idle"):
        refuse(
            "nki.isa.range_select", f"reduce_cmd is {reduce_cmd}, must be reset_reduce"
        )
    generate.range_select(
        dst,
        on_true_tile,
        comp_op0,
        comp_op1,
        bound0,
        bound1,
        reduce_res=reduce_res,
        reduce_op=reduce_op,
        range_start=range_start,
        on_false_value=on_false_value,
    )


def max8(dst: Handle, src: Handle, name: str | None = None) -> None:
    find.max8(dst, src)


def nc_find_index8(
    dst: Handle, data: Handle, vals: Handle, name: str | None = None
) -> None:
    find.nc_find_index8(dst, data, vals)


def nc_match_replace8(
    dst: Handle,
    data: Handle,
    vals: Handle,
    imm: float,
    dst_idx: Handle | None = None,
    name: str | None = None,
) -> None:
    find.nc_match_replace8(dst, data, vals, imm, dst_idx)


def nc_n_gather(
    dst: Handle, data: Handle, indices: Handle, name: str | None = None
) -> None:
    find.nc_n_gather(dst, data, indices)


def local_gather(
    dst: Handle,
    src_buffer: Handle,
    index: Handle,
    num_elem_per_idx: int = 1,
    num_valid_indices: int | None = None,
    name: str | None = None,
) -> None:
    find.local_gather(dst, src_buffer, index, num_elem_per_idx, num_valid_indices)


def nonzero_with_count(
    dst: Handle,
    src: Handle,
    index_offset: int = 0,
    padding_val: int = -1,
    name: str | None = None,
) -> None:
    find.nonzero_with_count(dst, src, index_offset, padding_val)


def nc_stream_shuffle(
    dst: Handle, src: Handle, shuffle_mask: Sequence[int], name: str | None = None
) -> None:
    shuffle.nc_stream_shuffle(dst, src, shuffle_mask)


def quantize_mx(
    dst: Handle, src: Handle, dst_scale: Handle, name: str | None = None
) -> None:
    mx.quantize_mx(dst, src, dst_scale)


# --- two cores ---


def sendrecv(
    src: Handle,
    dst: Handle,
    send_to_rank: int,
    recv_from_rank: int,
    pipe_id: int = 0,
    dma_engine: object = DmaEngine.dma,
    name: str | None = None,
) -> None:
    cores.sendrecv(src, dst, send_to_rank, recv_from_rank)


def core_barrier(
    data: Handle,
    cores: int | Sequence[int],
    engine: object = Engine.gpsimd,
    name: str | None = None,
) -> None:
    barrier(data, cores, engine=engine)


barrier = cores.core_barrier

CONSTANTS: Mapping[str, object] = {
    "engine": Engine,
    "reduce_cmd": ReduceCommand,
    "dge_mode": DgeMode,
    "oob_mode": OutOfBounds,
    "matmul_perf_mode": PerformanceMode,
    "nc_version": machine.Generation,
    "dma_engine": DmaEngine,
}
ISA: Mapping[str, object] = {
    **{f"{engine.name}_engine": engine for engine in Engine},
    # `dma_engine` among them, which is no engine but what a transfer may be made by.
    **CONSTANTS,
    "get_nc_version": machine.get_nc_version,
    "register_alloc": registers.register_alloc,
    "register_load": registers.register_load,
    "register_move": registers.register_move,
    "register_store": registers.register_store,
    **{
        function.__name__: function
        for function in (
            *(dma_copy, dma_transpose, dma_compute),
            *(nc_matmul, nc_matmul_mx, nc_transpose),
            *(activation, activation_reduce),
            *(tensor_copy, tensor_copy_predicated, memset, tensor_tensor),
            *(tensor_scalar, scalar_tensor_tensor, reciprocal, tensor_reduce),
            *(tensor_partition_reduce, tensor_scalar_reduce, tensor_tensor_scan),
            *(bn_stats, bn_aggr, iota, affine_select, range_select),
            *(max8, nc_find_index8, nc_match_replace8, nc_n_gather, local_gather),
            *(nonzero_with_count, nc_stream_shuffle, quantize_mx),
            *(sendrecv, core_barrier),
        )
    },
}
