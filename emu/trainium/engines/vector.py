"""The Vector Engine's arithmetic: two tiles, or a tile and a value a partition, elementwise.

N is elements per partition, MIN the minimum interval. Published intervals (NKI ISA reference, SDK
2.26.1; they state NeuronCore-v2's):

| | cycles |
|---|---|
| tensor_tensor | 2N; N with one source in PSUM |
| | N if all are bfloat16 in SBUF and the operator is add, subtract or multiply |
| tensor_scalar | N: two operators cost no more than one |
| scalar_tensor_tensor | 2N; N if both tiles are bfloat16, subtract then multiply, N even |
| reciprocal | 8N |
| tensor_scalar with rsqrt on the GpSimd Engine | 4N |

Measured kernels show the reciprocal at N cycles (the datasheet's `vector_reciprocal_cycles`).

From NeuronCore-v3 on the engine takes 256 elements a cycle where v2 takes 128, so two tiles in SBUF
cost N. The guides of v3 and v4 add fast modes. tensor_scalar: as tensor_copy. tensor_tensor: 512
elements a cycle, N/2, with sources in SBUF and 16-bit floats throughout (8-bit ones too on v4),
whichever the operator. On the GpSimd Engine tensor_tensor reads its two tiles at 128 elements a
cycle: 2N, from its published width. Power runs there in software: `gpsimd_power_cycles`, assumed.

tensor_scalar and scalar_tensor_tensor take each operand as a tile `[p, 1]` or as an immediate. Here
each combination is an instruction, as its tiles are its operands and its immediates parameters.
"""

from typing import Any

import jax.numpy as jnp

from emu import numerics
from emu.annotations import KnownInt, Tile
from emu.datasheet import Device
from emu.errors import LimitExceeded
from emu.instruction import Cost, Operand, instruction
from emu.trainium.engines.cost import (
    ON_CHIP,
    are_apart,
    check_engine,
    compute,
    copy_cycles,
    is_bfloat16,
    is_fast,
    one_in_psum,
)
from emu.trainium.engines.memory import EITHER, f32
from emu.trainium.engines.operators import alike, check, column, combine, immediate
from emu.trainium.spaces import OnChip

_SCALAR_ENGINE_CHAINS = {("multiply", "add"), ("multiply", None), ("add", None)}


# --- two tiles ---


def _pair_cycles(
    device: Device,
    name: str,
    engine: str,
    dst: Operand,
    a: Operand,
    b: Operand,
    op: str,
) -> float:
    check_engine(name, device, engine, "vector", "gpsimd")
    # Each memory then gives one of the two tiles.
    if one_in_psum(name, a, b):
        return a.free
    if engine == "gpsimd":
        return (device.gpsimd_power_cycles if op == "power" else 2) * a.free
    # 512 columns of float32 take 512/0.5 = 1,024 cycles of Trainium1's and 512 of Trainium2's
    # engine; in bfloat16 512/2 = 256 of Trainium2's, on Trainium1 512 for these operators.
    any_format, fast = device.vector_pair_elements
    if is_fast(device, dst, a, b):
        return a.free / fast
    linear = op in ("add", "subtract", "multiply")
    if linear and is_bfloat16(dst, a, b) and not are_apart(dst, a, b):
        return a.free
    return a.free / any_format


def _tensor_tensor_cost(
    device: Device,
    dst: Operand,
    a: Operand,
    b: Operand,
    *,
    op: str,
    engine: str = "vector",
) -> Cost:
    name = "trn.tensor_tensor"
    cycles = _pair_cycles(device, name, engine, dst, a, b, op)
    return compute(device, name, engine, cycles, (dst,), (a, b), flops=a.size)


@instruction(
    "trn.tensor_tensor",
    cost=_tensor_tensor_cost,
    reads=(EITHER, EITHER),
    writes=ON_CHIP,
)
def tensor_tensor(
    dst: OnChip, a: OnChip, b: OnChip, *, op: str, engine: str = "vector"
) -> OnChip:
    """`dst = a op b` elementwise, in float32; bit operators on integers.

    Args:
      dst: `[p, ...]`.
      a: of the shape of `dst`; at most one of `a` and `b` is in PSUM.
      b: likewise.
      op: of `operators.BINARY` and `operators.BITWISE`.
      engine: vector, or gpsimd, where integers stay exact.
    """
    name = "trn.tensor_tensor"
    check(name, [op], dst, a, b)
    alike(name, a, b)
    result = combine(name, op, a, b, exact=engine == "gpsimd")
    return numerics.cast(result, dst.dtype)


def _combine_cost(
    device: Device,
    dst: Operand,
    src: Operand,
    first: Operand,
    *,
    op: str,
    engine: str = "vector",
) -> Cost:
    name = "trn.tensor_combine"
    cycles = _pair_cycles(device, name, engine, dst, src, dst, op)
    return compute(device, name, engine, cycles, (dst,), (src, dst), flops=src.size)


@instruction(
    "trn.tensor_combine",
    cost=_combine_cost,
    reads=(EITHER, "register"),
    writes=ON_CHIP,
    partial=True,
    adds_if=1,
)
def tensor_combine(
    dst: OnChip, src: OnChip, first: KnownInt, *, op: str, engine: str = "vector"
) -> OnChip:
    """`dst = dst op src`, a reduction over the turns of a loop; the first turn only copies.

    Args:
      dst: `[p, ...]`.
      src: of the shape of `dst`.
      first: a known integer: 0 in the turn that overwrites `dst`.
      op: of `operators.BINARY` and `operators.BITWISE`.
      engine: vector or gpsimd.
    """
    name = "trn.tensor_combine"
    check(name, [op], dst, src)
    alike(name, dst, src)
    combined = numerics.cast(combine(name, op, dst, src), dst.dtype)
    return jnp.where(first == 0, numerics.cast(src, dst.dtype), combined)


def _fused(
    device: Device,
    name: str,
    dst: Operand,
    src: Operand,
    other: Operand,
    scalars: tuple[Operand, ...],
    op0: str,
    op1: str,
) -> Cost:
    one_in_psum(name, src, other)
    # The one chain that the reference gives in half the cycles.
    fast_chain = (op0, op1) == ("subtract", "multiply") and src.free % 2 == 0
    fast = fast_chain and is_bfloat16(src, other)
    cycles = src.free if fast else src.free / device.vector_pair_elements[0]
    reads = src, *scalars, other
    return compute(device, name, "vector", cycles, (dst,), reads, flops=2 * src.size)


def _fused_cost(
    device: Device,
    dst: Operand,
    src: Operand,
    scalar: Operand,
    other: Operand,
    *,
    op0: str,
    op1: str,
    **_: bool,
) -> Cost:
    name = "trn.scalar_tensor_tensor"
    return _fused(device, name, dst, src, other, (scalar,), op0, op1)


@instruction(
    "trn.scalar_tensor_tensor",
    cost=_fused_cost,
    reads=(EITHER, EITHER, EITHER),
    writes=ON_CHIP,
)
def scalar_tensor_tensor(
    dst: OnChip,
    src: OnChip,
    scalar: OnChip,
    other: OnChip,
    *,
    op0: str,
    op1: str,
    reverse0: bool = False,
    reverse1: bool = False,
) -> OnChip:
    """`dst = (src op0 scalar) op1 other`, one scalar `[p, 1]` per partition, in float32.

    At most one of `src` and `other` is in PSUM; `reverse0` and `reverse1` swap an operator's sides.
    """
    name = "trn.scalar_tensor_tensor"
    check(name, [op0, op1], dst, src, scalar, other)
    alike(name, src, other)
    first = combine(name, op0, src, column(scalar, src), reverse=reverse0)
    second = combine(name, op1, first, other, reverse=reverse1)
    return numerics.cast(second, dst.dtype)


def _immediate_fused_cost(
    device: Device,
    dst: Operand,
    src: Operand,
    other: Operand,
    *,
    op0: str,
    op1: str,
    **_: float,
) -> Cost:
    name = "trn.immediate_tensor_tensor"
    return _fused(device, name, dst, src, other, (), op0, op1)


@instruction(
    "trn.immediate_tensor_tensor",
    cost=_immediate_fused_cost,
    reads=(EITHER, EITHER),
    writes=ON_CHIP,
)
def immediate_tensor_tensor(
    dst: OnChip,
    src: OnChip,
    other: OnChip,
    *,
    op0: str,
    value: float,
    op1: str,
    reverse0: bool = False,
    reverse1: bool = False,
) -> OnChip:
    """`dst = (src op0 value) op1 other`: `scalar_tensor_tensor` with an immediate."""
    name = "trn.immediate_tensor_tensor"
    check(name, [op0, op1], dst, src, other)
    alike(name, src, other)
    number = immediate(name, value, op0, src)
    first = combine(name, op0, src, number, reverse=reverse0)
    second = combine(name, op1, first, other, reverse=reverse1)
    return numerics.cast(second, dst.dtype)


# --- a tile and values that its partitions share ---


def _scalar_cost(
    device: Device,
    name: str,
    dst: Operand,
    src: Operand,
    scalars: tuple[Operand, ...],
    op0: str,
    op1: str | None,
    engine: str,
) -> Cost:
    check_engine(name, device, engine, "vector", "scalar", "gpsimd")
    if engine == "scalar" and (op0, op1) not in _SCALAR_ENGINE_CHAINS:
        raise LimitExceeded(
            f"{name}: operators are {op0}, {op1}, must be multiply, add or multiply then add on "
            "the Scalar Engine: choose engine='vector'"
        )
    # Work, not time: the second operator sits in the same pipeline and costs no cycle.
    flops = src.size * (1 if op1 is None else 2)
    cycles = copy_cycles(device, engine, dst, src)
    if engine == "gpsimd" and "rsqrt" in (op0, op1):
        cycles = 4 * src.free
    return compute(device, name, engine, cycles, (dst,), (src, *scalars), flops=flops)


def _tensor_scalar_cost(
    device: Device,
    dst: Operand,
    src: Operand,
    scalar: Operand,
    *,
    op: str,
    op1: str | None = None,
    engine: str = "vector",
    **_: Any,
) -> Cost:
    return _scalar_cost(
        device, "trn.tensor_scalar", dst, src, (scalar,), op, op1, engine
    )


def _second(
    name: str, first: Tile, op1: str | None, value: float, reverse: bool
) -> Tile:
    """The optional second operator, with an immediate."""
    if op1 is None:
        return first
    # Like `first`, which may be an integer still where both operators are bitwise.
    return combine(
        name, op1, first, immediate(name, value, op1, first), reverse=reverse
    )


@instruction(
    "trn.tensor_scalar",
    cost=_tensor_scalar_cost,
    reads=(EITHER, EITHER),
    writes=ON_CHIP,
)
def tensor_scalar(
    dst: OnChip,
    src: OnChip,
    scalar: OnChip,
    *,
    op: str,
    reverse: bool = False,
    op1: str | None = None,
    value1: float = 0.0,
    reverse1: bool = False,
    engine: str = "vector",
) -> OnChip:
    """`dst = (src op scalar) op1 value1`, one scalar `[p, 1]` per partition; `op1` is optional.

    `reverse` and `reverse1` swap an operator's sides. `engine`: vector; gpsimd, which cannot access
    PSUM; or from NeuronCore-v3 on scalar for multiply, add, and multiply then add.
    """
    name = "trn.tensor_scalar"
    check(name, [op, op1], dst, src, scalar)
    first = combine(name, op, src, column(scalar, src), reverse=reverse)
    result = _second(name, first, op1, value1, reverse1)
    return numerics.cast(result, dst.dtype)


def _tensor_scalars_cost(
    device: Device,
    dst: Operand,
    src: Operand,
    scalar0: Operand,
    scalar1: Operand,
    *,
    op0: str,
    op1: str,
    engine: str = "vector",
    **_: Any,
) -> Cost:
    scalars = scalar0, scalar1
    return _scalar_cost(
        device, "trn.tensor_scalars", dst, src, scalars, op0, op1, engine
    )


@instruction(
    "trn.tensor_scalars",
    cost=_tensor_scalars_cost,
    reads=(EITHER, EITHER, EITHER),
    writes=ON_CHIP,
)
def tensor_scalars(
    dst: OnChip,
    src: OnChip,
    scalar0: OnChip,
    scalar1: OnChip,
    *,
    op0: str,
    op1: str,
    reverse0: bool = False,
    reverse1: bool = False,
    engine: str = "vector",
) -> OnChip:
    """`dst = (src op0 scalar0) op1 scalar1`: `tensor_scalar` with two scalars `[p, 1]`."""
    name = "trn.tensor_scalars"
    check(name, [op0, op1], dst, src, scalar0, scalar1)
    first = combine(name, op0, src, column(scalar0, src), reverse=reverse0)
    second = combine(name, op1, first, column(scalar1, src), reverse=reverse1)
    return numerics.cast(second, dst.dtype)


def _tensor_immediate_cost(
    device: Device,
    dst: Operand,
    src: Operand,
    *,
    op: str,
    op1: str | None = None,
    engine: str = "vector",
    **_: Any,
) -> Cost:
    return _scalar_cost(device, "trn.tensor_immediate", dst, src, (), op, op1, engine)


@instruction(
    "trn.tensor_immediate", cost=_tensor_immediate_cost, reads=(EITHER,), writes=ON_CHIP
)
def tensor_immediate(
    dst: OnChip,
    src: OnChip,
    *,
    op: str,
    value: float,
    reverse: bool = False,
    op1: str | None = None,
    value1: float = 0.0,
    reverse1: bool = False,
    engine: str = "vector",
) -> OnChip:
    """`dst = (src op value) op1 value1`: `tensor_scalar` with immediates; `op1` is optional."""
    name = "trn.tensor_immediate"
    check(name, [op, op1], dst, src)
    first = combine(name, op, src, immediate(name, value, op, src), reverse=reverse)
    result = _second(name, first, op1, value1, reverse1)
    return numerics.cast(result, dst.dtype)


def _immediate_scalar_cost(
    device: Device,
    dst: Operand,
    src: Operand,
    scalar: Operand,
    *,
    op0: str,
    op1: str,
    engine: str = "vector",
    **_: Any,
) -> Cost:
    name = "trn.tensor_immediate_scalar"
    return _scalar_cost(device, name, dst, src, (scalar,), op0, op1, engine)


@instruction(
    "trn.tensor_immediate_scalar",
    cost=_immediate_scalar_cost,
    reads=(EITHER, EITHER),
    writes=ON_CHIP,
)
def tensor_immediate_scalar(
    dst: OnChip,
    src: OnChip,
    scalar: OnChip,
    *,
    op0: str,
    value: float,
    op1: str,
    reverse0: bool = False,
    reverse1: bool = False,
    engine: str = "vector",
) -> OnChip:
    """`dst = (src op0 value) op1 scalar`: `tensor_scalar`, first an immediate, then `[p, 1]`."""
    name = "trn.tensor_immediate_scalar"
    check(name, [op0, op1], dst, src, scalar)
    number = immediate(name, value, op0, src)
    first = combine(name, op0, src, number, reverse=reverse0)
    second = combine(name, op1, first, column(scalar, src), reverse=reverse1)
    return numerics.cast(second, dst.dtype)


def _reciprocal_cost(device: Device, dst: Operand, src: Operand) -> Cost:
    cycles = device.vector_reciprocal_cycles * src.free
    return compute(
        device, "trn.reciprocal", "vector", cycles, (dst,), (src,), flops=src.size
    )


@instruction("trn.reciprocal", cost=_reciprocal_cost, reads=(EITHER,), writes=ON_CHIP)
def reciprocal(dst: OnChip, src: OnChip) -> OnChip:
    """`dst = 1 / src` in float32; the Scalar Engine's is less precise."""
    return numerics.cast(1 / f32(src), dst.dtype)
