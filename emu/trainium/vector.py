"""The Vector Engine: elementwise operations, reductions, copies and their perf modes.

`N` is elements per partition; costs are AWS's published initiation intervals (NKI ISA reference,
SDK 2.26.1), the fixed access latency apart.
"""

from typing import Any

import jax.numpy as jnp
from jax import lax

from emu.datasheet import Device
from emu.instruction import Cost, Operand, instruction, limit
from emu.trainium.memory import EITHER, at, f32, moved_to_range

BINARY = {
    "add": jnp.add,
    "subtract": jnp.subtract,
    "multiply": jnp.multiply,
    "max": jnp.maximum,
}
REDUCE = {"add": jnp.sum, "max": jnp.max}


def _is_16_bit(*operands: Operand) -> bool:
    return all(x.dtype.itemsize == 2 for x in operands)


def _vector(device: Device, cycles: float, flops: int, moved: Any = None) -> Cost:
    busy = max(device.min_interval_cycles, cycles)
    return Cost(
        engine="vector",
        busy_cycles=busy,
        latency_cycles=busy + device.vector_latency_cycles,
        flops=flops,
        moved_bytes=moved,
    )


def _copy_cycles(src: Operand, dst: Operand) -> float:
    """Perf modes: 4x for 16-bit SBUF to SBUF, 2x where one side is in PSUM."""
    if not _is_16_bit(src, dst):
        return src.free
    return src.free / (4 if src.space == dst.space == "sbuf" else 2)


def _copy_cost(device: Device, dst: Operand, src: Operand) -> Cost:
    return _vector(device, _copy_cycles(src, dst), 0)


def _copy_at_cost(device: Device, dst: Operand, src: Operand, *_: Operand) -> Cost:
    return _vector(device, _copy_cycles(src, dst), 0, moved_to_range(dst, src))


@instruction("trn.tensor_copy", cost=_copy_cost, reads=(EITHER,), writes="sbuf")
def tensor_copy(dst: Any, src: Any) -> Any:
    """`dst = src`, cast to the destination's dtype."""
    return src.astype(dst.dtype)


@instruction(
    "trn.tensor_copy_at",
    cost=_copy_at_cost,
    reads=(EITHER, "register", "register"),
    writes="sbuf",
    partial=True,
)
def tensor_copy_at(dst: Any, src: Any, i: Any, j: Any) -> Any:
    """`dst[:, i, j:j+n] = src`, cast to the destination's dtype."""
    return at(dst, src, i, j)


def _memset_cost(device: Device, dst: Operand, *, value: float) -> Cost:
    return _vector(device, dst.free / 2 if _is_16_bit(dst) and value == 0 else dst.free, 0)


@instruction("trn.memset", cost=_memset_cost, reads=(), writes="sbuf")
def memset(dst: Any, *, value: float) -> Any:
    """`dst = value`."""
    return jnp.full_like(dst, value)


def _tensor_tensor_cycles(name: str, a: Operand, b: Operand, dst: Operand, op: str) -> float:
    """Twice the elements, or once if one side is in PSUM or both are 16-bit in SBUF."""
    in_psum = [a.space, b.space].count("psum")
    limit(name, "number of operands in PSUM", in_psum, 1)
    fast = _is_16_bit(a, b, dst) and op != "max"
    return a.free if in_psum or fast else 2 * a.free


def _tensor_tensor_cost(device: Device, dst: Operand, a: Operand, b: Operand, *, op: str) -> Cost:
    return _vector(device, _tensor_tensor_cycles("trn.tensor_tensor", a, b, dst, op), a.size)


@instruction("trn.tensor_tensor", cost=_tensor_tensor_cost, reads=(EITHER, EITHER), writes="sbuf")
def tensor_tensor(dst: Any, a: Any, b: Any, *, op: str) -> Any:
    """`dst = a op b` elementwise, computed in float32."""
    return BINARY[op](f32(a), f32(b)).astype(dst.dtype)


def _tensor_tensor_at_cost(
    device: Device, dst: Operand, a: Operand, b: Operand, *_: Operand, op: str
) -> Cost:
    cycles = _tensor_tensor_cycles("trn.tensor_tensor_at", a, b, dst, op)
    return _vector(device, cycles, a.size, moved_to_range(dst, a, b))


@instruction(
    "trn.tensor_tensor_at",
    cost=_tensor_tensor_at_cost,
    reads=(EITHER, EITHER, "register", "register"),
    writes="sbuf",
    partial=True,
)
def tensor_tensor_at(dst: Any, a: Any, b: Any, i: Any, j: Any, *, op: str) -> Any:
    """`dst[:, i, j:j+n] = a op b` elementwise, computed in float32."""
    return at(dst, BINARY[op](f32(a), f32(b)), i, j)


def _add_at_cost(device: Device, dst: Operand, src: Operand, *_: Operand) -> Cost:
    cycles = src.free if src.space == "psum" or _is_16_bit(src, dst) else 2 * src.free
    moved = moved_to_range(dst, src)
    old = {"sbuf_read": moved.get("sbuf_read", 0) + moved["sbuf_write"]}
    return _vector(device, cycles, src.size, moved | old)


@instruction(
    "trn.tensor_add_at",
    cost=_add_at_cost,
    reads=(EITHER, "register", "register"),
    writes="sbuf",
    partial=True,
)
def tensor_add_at(dst: Any, src: Any, i: Any, j: Any) -> Any:
    """`dst[:, i, j:j+n] += src[p, n]`: a `tensor_tensor` whose output is one of its inputs."""
    zero = jnp.zeros((), jnp.int32)
    old = lax.dynamic_slice(dst, (zero, i, j), (src.shape[0], 1, src.shape[1]))
    return at(dst, f32(old[:, 0]) + f32(src), i, j)


def _tensor_scalar_cost(device: Device, dst: Operand, src: Operand, *_: Operand, **__: Any) -> Cost:
    return _vector(device, _copy_cycles(src, dst), src.size)


@instruction("trn.tensor_scalar", cost=_tensor_scalar_cost, reads=(EITHER, "sbuf"), writes="sbuf")
def tensor_scalar(dst: Any, src: Any, scalar: Any, *, op: str) -> Any:
    """`dst = src op scalar`, one scalar `[p, 1]` per partition."""
    return BINARY[op](f32(src), f32(scalar)).astype(dst.dtype)


@instruction("trn.tensor_immediate", cost=_tensor_scalar_cost, reads=(EITHER,), writes="sbuf")
def tensor_immediate(dst: Any, src: Any, *, op: str, value: float) -> Any:
    """`dst = src op value`: `tensor_scalar` with an immediate."""
    return BINARY[op](f32(src), jnp.float32(value)).astype(dst.dtype)


def _fused_cost(
    device: Device, dst: Operand, src: Operand, scalar: Operand, other: Operand,
    *, op0: str, op1: str,
) -> Cost:  # fmt: skip
    fast = _is_16_bit(src, other) and (op0, op1) == ("subtract", "multiply") and not src.free % 2
    return _vector(device, src.free if fast else 2 * src.free, 2 * src.size)


@instruction(
    "trn.scalar_tensor_tensor", cost=_fused_cost, reads=(EITHER, "sbuf", EITHER), writes="sbuf"
)
def scalar_tensor_tensor(dst: Any, src: Any, scalar: Any, other: Any, *, op0: str, op1: str) -> Any:
    """`dst = (src op0 scalar) op1 other`, one scalar `[p, 1]` per partition, in float32."""
    return BINARY[op1](BINARY[op0](f32(src), f32(scalar)), f32(other)).astype(dst.dtype)


def _reduce_cost(device: Device, dst: Operand, src: Operand, **_: Any) -> Cost:
    return _vector(device, src.free / 2 if _is_16_bit(src, dst) else src.free, src.size)


@instruction("trn.tensor_reduce", cost=_reduce_cost, reads=(EITHER,), writes="sbuf")
def tensor_reduce(dst: Any, src: Any, *, op: str) -> Any:
    """`dst[p, ..., 1] = op` over the last dimension, in float32."""
    return REDUCE[op](f32(src), axis=-1, keepdims=True).astype(dst.dtype)


def _reciprocal_cost(device: Device, dst: Operand, src: Operand) -> Cost:
    return _vector(device, 8 * src.free, src.size)


@instruction("trn.reciprocal", cost=_reciprocal_cost, reads=(EITHER,), writes="sbuf")
def reciprocal(dst: Any, src: Any) -> Any:
    """`dst = 1 / src` on the Vector Engine, in float32."""
    return (jnp.float32(1) / f32(src)).astype(dst.dtype)


def _scan8_cost(device: Device, dst: Operand, src: Operand, *_: Operand) -> Cost:
    return _vector(device, src.free, src.size)


@instruction("trn.nc_max8", cost=_scan8_cost, reads=(EITHER,), writes="sbuf")
def nc_max8(dst: Any, src: Any) -> Any:
    """`dst[p, 8]`: the eight largest of each partition, descending."""
    return lax.top_k(src, 8)[0]


@instruction("trn.nc_find_index8", cost=_scan8_cost, reads=(EITHER, "sbuf"), writes="sbuf")
def nc_find_index8(dst: Any, src: Any, values: Any) -> Any:
    """`dst[p, 8] int32`: where each of `values[p, 8]` first stands in `src[p, n]`."""
    return jnp.argmax(src[:, None, :] == values[:, :, None], axis=-1).astype(dst.dtype)
