"""The GpSimd Engine: what the others cannot do, such as patterns and masks by position.

It cannot access PSUM (SDK: NeuronCore compute engines). N is elements per partition. Published
intervals (NKI ISA reference, SDK 2.26.1): iota and affine_select 150 + N; local_gather see there;
rsqrt four times the Scalar Engine's, so 4N. Its tensor_copy, memset and tensor_tensor are in
`vector_copy` and `vector`, by `engine="gpsimd"`.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from emu import given, numerics
from emu.annotations import KnownInt, Shape
from emu.datasheet import Device
from emu.errors import LimitExceeded
from emu.instruction import Cost, Operand, instruction, limit
from emu.tracing.jaxpr import caller
from emu.trainium.datasheets.limits import (
    GATHER_ELEMENTS,
    GATHER_INDICES,
    GATHER_PARTITIONS,
)
from emu.trainium.engines.cost import compute
from emu.trainium.engines.memory import f32, integers
from emu.trainium.engines.operators import BINARY, COMPARE, UNARY, named
from emu.trainium.spaces import Sbuf

_COMPARE = (*COMPARE, "not_equal")


def _check_steps(name: str, shape: Shape, steps: tuple[int, ...]) -> None:
    free = len(shape) - 1
    if len(steps) != free:
        raise LimitExceeded(
            f"{name}: steps are {list(steps)} for a tile of {free} free dimensions, must be one "
            "each",
            caller(),
        )
    for step in steps:
        given.whole(f"{name}: a step", step, *given.INT32)


def _affine(
    shape: Shape, offset: KnownInt, steps: tuple[int, ...], multiplier: int
) -> jax.Array:
    """`offset + partition · multiplier + Σ index · step` of every element, int32."""
    # In integers: float32 cannot tell positions apart beyond 2**24, and a step multiplies them.
    total = jnp.broadcast_to(jnp.asarray(offset, jnp.int32), shape)
    for axis, step in enumerate((multiplier, *steps)):
        index = lax.broadcasted_iota(jnp.int32, shape, axis)
        total = total + index * jnp.int32(step)
    return total


def _pattern_cost(
    device: Device,
    name: str,
    dst: Operand,
    sources: tuple[Operand, ...],
    steps: tuple[int, ...],
) -> Cost:
    _check_steps(name, dst.shape, steps)
    # 128 columns take 150 + 128 = 278 cycles: most of a small tile's time is overhead.
    cycles = device.gpsimd_overhead_cycles + dst.free
    return compute(device, name, "gpsimd", cycles, (dst,), sources, flops=dst.size)


def _iota_cost(
    device: Device,
    dst: Operand,
    offset: Operand,
    *,
    steps: tuple[int, ...],
    multiplier: int = 0,
) -> Cost:
    return _pattern_cost(device, "trn.iota", dst, (), steps)


@instruction("trn.iota", cost=_iota_cost, reads=("register",), writes="sbuf")
def iota(
    dst: Sbuf, offset: KnownInt, *, steps: tuple[int, ...], multiplier: int = 0
) -> Sbuf:
    """`dst[p, i, ...] = offset + p · multiplier + i · steps[0] + ...`, in 32-bit integers.

    Args:
      dst: SBUF `[p, ...]`, of any dtype: the integers are cast to it.
      offset: a known integer.
      steps: one for each free dimension.
      multiplier: step from one partition to the next.
    """
    name = "trn.iota"
    _check_steps(name, dst.shape, steps)
    return numerics.cast(_affine(dst.shape, offset, steps, multiplier), dst.dtype)


def _select_cost(
    device: Device,
    dst: Operand,
    src: Operand,
    offset: Operand,
    *,
    fill: float,
    steps: tuple[int, ...] = (-1,),
    **_: Any,
) -> Cost:
    return _pattern_cost(device, "trn.affine_select", dst, (src,), steps)


@instruction(
    "trn.affine_select", cost=_select_cost, reads=("sbuf", "register"), writes="sbuf"
)
def affine_select(
    dst: Sbuf,
    src: Sbuf,
    offset: KnownInt,
    *,
    fill: float,
    steps: tuple[int, ...] = (-1,),
    multiplier: int = 1,
    compare: str = "greater_equal",
) -> Sbuf:
    """`dst = src` where an affine expression of the position compares with 0, else `fill`.

    As it stands a causal mask: `dst[p, n] = src[p, n]` where `p + offset - n ≥ 0`.

    Args:
      dst: SBUF, shape of `src`.
      src: SBUF `[p, ...]`.
      offset: a known integer.
      fill: where the expression fails.
      steps: of the expression, one for each free dimension.
      multiplier: its step from one partition to the next.
      compare: of the expression with 0.
    """
    name = "trn.affine_select"
    _check_steps(name, src.shape, steps)
    value = _affine(src.shape, offset, steps, multiplier)
    tests = {comparison: BINARY[comparison] for comparison in _COMPARE}
    compares = named(tests, name, "compare", compare)
    keep = compares(value, jnp.zeros_like(value))
    kept = jnp.where(keep, src, lax.full_like(src, fill))
    return numerics.cast(kept, dst.dtype)


def _gather_cost(device: Device, dst: Operand, src: Operand, index: Operand) -> Cost:
    name = "trn.local_gather"
    rows, count = index.shape
    indices = count * GATHER_PARTITIONS
    elements = dst.shape[-1]
    limit(name, "indices of a GpSimd core", indices, GATHER_INDICES)
    whole_cores = rows % GATHER_PARTITIONS == 0 and rows == src.shape[0]
    if elements not in GATHER_ELEMENTS or not whole_cores:
        raise LimitExceeded(
            f"{name}: {elements} elements an index on {rows} partitions of {src.shape[0]}, must be "
            f"one of {GATHER_ELEMENTS} on all, a multiple of {GATHER_PARTITIONS}"
        )
    # Example: 16 indices of one float32: at once 1, C = (28 + 4) / 4 / 1 = 8, so 150 + 16 / 8 = 152
    # cycles.
    at_once = min(4 / src.dtype.itemsize, elements)
    published_c = (28 + 4 * elements) / (4 * elements) / at_once
    cycles = device.gpsimd_overhead_cycles + indices * elements / published_c
    return compute(device, name, "gpsimd", cycles, (dst,), (src, index))


@instruction(
    "trn.local_gather", cost=_gather_cost, reads=("sbuf", "sbuf"), writes="sbuf"
)
def local_gather(dst: Sbuf, src: Sbuf, index: Sbuf) -> Sbuf:
    """Each GpSimd core gathers along the free dimension of its 16 partitions, by their indices.

    Its interval is 150 + n·e/C, as published, for n indices of e elements, with
    C = ((28 + 4e) / (4e)) / min(4 / itemsize, e). C reads like an overhead by which one would
    multiply; no measurement decides.

    Args:
      dst: SBUF `[p, 16m, e]`, dtype of `src`.
      src: SBUF `[p, ...]`; its free dimensions count as one.
      index: SBUF, integer `[p, m]`: the 16m offsets of a core are its 16 partitions' first columns,
        then their second ones, and so on.
    """
    integers("trn.local_gather", "index", index.dtype)
    rows, columns = index.shape
    by_core = index.reshape(-1, GATHER_PARTITIONS, columns).astype(jnp.int32)
    # Indices of a core count through its partitions first: [cores, 16 · columns].
    of_core = jnp.swapaxes(by_core, 1, 2).reshape(-1, GATHER_PARTITIONS * columns)
    # All 16 partitions of a core gather by its one list: 32 partitions have two lists, each used 16
    # times.
    first = jnp.repeat(of_core, GATHER_PARTITIONS, axis=0)[..., None]
    # An index names the first of e neighbours.
    within = lax.broadcasted_iota(jnp.int32, (rows, 1, dst.shape[2]), 2)
    offsets = (first + within).reshape(rows, -1)
    gathered = jnp.take_along_axis(src.reshape(rows, -1), offsets, axis=1)
    return gathered.reshape(dst.shape)


def _rsqrt_cost(device: Device, dst: Operand, src: Operand) -> Cost:
    return compute(
        device,
        "trn.rsqrt_gpsimd",
        "gpsimd",
        4 * src.free,
        (dst,),
        (src,),
        flops=2 * src.size,
    )


@instruction("trn.rsqrt_gpsimd", cost=_rsqrt_cost, reads=("sbuf",), writes="sbuf")
def rsqrt_gpsimd(dst: Sbuf, src: Sbuf) -> Sbuf:
    """`dst = 1 / sqrt(src)` in float32: more precise than the Scalar Engine's and slower."""
    return numerics.cast(UNARY["rsqrt"](f32(src)), dst.dtype)
