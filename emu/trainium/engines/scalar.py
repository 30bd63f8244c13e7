"""The Scalar Engine: activation functions, with scale, bias and a reduction.

N is elements per partition, MIN the minimum interval. Published intervals (NKI ISA reference, SDK
2.26.1): activation max(MIN, N), whatever the scale and bias; with a reduction read out MIN more.
Its tensor_copy and tensor_scalar are in `vector_copy` and `vector`, by `engine="scalar"`.

Functions are computed in float32; the hardware's are piecewise polynomials, whose error is not
published (AWS calls the reciprocal less precise than the Vector Engine's). Inputs outside a
function's valid range give NaN here. The compiler inserts the loading of another function's table;
a kernel here writes it itself, `control.activation_table_load`.
"""

from typing import Any

import jax.numpy as jnp

from emu import numerics
from emu.datasheet import Device
from emu.errors import LimitExceeded
from emu.instruction import Cost, Operand, instruction
from emu.trainium.engines.cost import ON_CHIP, TWO_ON_CHIP, compute, needs
from emu.trainium.engines.memory import EITHER, f32
from emu.trainium.engines.operators import (
    activate,
    column,
    combine,
    immediate,
    reduce_free,
)
from emu.trainium.spaces import OnChip

# --- activation, alone ---


def scaled(name: str, src: OnChip, op: str, scale: float) -> OnChip:
    """`src · scale` in float32, rounded."""
    factor = immediate(name, scale, op, src)
    if scale == 1:  # there is nothing to round
        return f32(src)
    return combine(name, "multiply", src, factor)


def shifted(name: str, x: OnChip, bias: float) -> OnChip:
    """`x + bias` in float32, rounded; 0 leaves it as it is, -0.0 too."""
    return combine(name, "add", x, f32(jnp.asarray(bias))) if bias else x


def check_bias(name: str, device: Device, op: str, *, is_immediate: bool) -> None:
    """Raises `LimitExceeded` for a bias that this generation does not add."""
    if op == "reciprocal" and not device.reciprocal_takes_bias:
        raise LimitExceeded(
            f"{name}: reciprocal takes no bias on {device.name}: add it before"
        )
    # From NeuronCore-v3 on, as are the other elementwise instructions with immediates.
    if is_immediate and not device.scalar_elementwise:
        raise LimitExceeded(
            f"{name}: bias is a number, must be a tile [p, 1] on {device.name}"
        )


def _cost(device: Device, name: str, dst: Operand, *sources: Operand) -> Cost:
    src = sources[0]
    return compute(
        device, name, "scalar", src.free, (dst,), sources, flops=2 * src.size
    )


def _activation_cost(
    device: Device, *operands: Operand, op: str, bias: float = 0.0, **_: Any
) -> Cost:
    name = "trn.activation"
    if bias:
        check_bias(name, device, op, is_immediate=True)
    return _cost(device, name, *operands)


@instruction("trn.activation", cost=_activation_cost, reads=(EITHER,), writes=ON_CHIP)
def activation(
    dst: OnChip, src: OnChip, *, op: str, scale: float = 1.0, bias: float = 0.0
) -> OnChip:
    """`dst = op(src · scale + bias)`, computed in float32.

    Args:
      dst: `[p, ...]`.
      src: `[p, ...]`.
      op: an activation function, one of `operators.UNARY`.
      scale: an immediate.
      bias: an immediate; on NeuronCore-v2 0 only.
    """
    name = "trn.activation"
    x = shifted(name, scaled(name, src, op, scale), bias)
    return numerics.cast(activate(name, op, x), dst.dtype)


def _multiplied_cost(
    device: Device, *operands: Operand, op: str, bias: float = 0.0
) -> Cost:
    name = "trn.activation_multiplied"
    if bias:
        check_bias(name, device, op, is_immediate=True)
    return _cost(device, name, *operands)


@instruction(
    "trn.activation_multiplied",
    cost=_multiplied_cost,
    reads=(EITHER, EITHER),
    writes=ON_CHIP,
)
def activation_multiplied(
    dst: OnChip, src: OnChip, scale: OnChip, *, op: str, bias: float = 0.0
) -> OnChip:
    """`dst = op(src · scale + bias)`, scale `[p, 1]`, bias an immediate as of `activation`."""
    name = "trn.activation_multiplied"
    product = combine(name, "multiply", src, column(scale, src))
    x = shifted(name, product, bias)
    return numerics.cast(activate(name, op, x), dst.dtype)


def _bias_cost(device: Device, *operands: Operand, op: str, **_: Any) -> Cost:
    name = "trn.activation_bias"
    check_bias(name, device, op, is_immediate=False)
    return _cost(device, name, *operands)


@instruction(
    "trn.activation_bias", cost=_bias_cost, reads=(EITHER, EITHER), writes=ON_CHIP
)
def activation_bias(
    dst: OnChip, src: OnChip, bias: OnChip, *, op: str, scale: float = 1.0
) -> OnChip:
    """`dst = op(src · scale + bias)`, bias `[p, 1]`, computed in float32."""
    name = "trn.activation_bias"
    x = combine(name, "add", scaled(name, src, op, scale), column(bias, src))
    return numerics.cast(activate(name, op, x), dst.dtype)


def _scaled_cost(device: Device, *operands: Operand, **_: Any) -> Cost:
    return _cost(device, "trn.activation_scaled", *operands)


@instruction(
    "trn.activation_scaled",
    cost=_scaled_cost,
    reads=(EITHER, EITHER, EITHER),
    writes=ON_CHIP,
)
def activation_scaled(
    dst: OnChip, src: OnChip, scale: OnChip, bias: OnChip, *, op: str
) -> OnChip:
    """`dst = op(src · scale + bias)` with a scale and a bias of each partition, both `[p, 1]`."""
    name = "trn.activation_scaled"
    product = combine(name, "multiply", src, column(scale, src))
    x = combine(name, "add", product, column(bias, src))
    return numerics.cast(activate(name, op, x), dst.dtype)


# --- activation with a reduction ---


def _reducing_cost(
    device: Device, name: str, dst: Operand, total: Operand, *sources: Operand
) -> Cost:
    """The reduction is free while the tile passes; reading its register out takes MIN more."""
    src = sources[0]
    least = device.min_interval_cycles
    # 512 elements take 512 + 64 cycles, 10 of them 64 + 64.
    cycles = max(least, src.free) + least
    writes = dst, total
    return compute(device, name, "scalar", cycles, writes, sources, flops=3 * src.size)


def _activation_reduce_cost(device: Device, *operands: Operand, **_: Any) -> Cost:
    return _reducing_cost(device, "trn.activation_reduce", *operands)


@instruction(
    "trn.activation_reduce",
    cost=_activation_reduce_cost,
    reads=(EITHER, EITHER),
    writes=TWO_ON_CHIP,
)
def activation_reduce(
    dst: OnChip,
    total: OnChip,
    src: OnChip,
    bias: OnChip,
    *,
    op: str,
    scale: float = 1.0,
) -> tuple[OnChip, OnChip]:
    """`dst = op(src · scale + bias)` and `total[p, 1] = Σ dst` over the free dimensions.

    The sum is of the float32 values, before `dst` is cast. `bias` is `[p, 1]`.
    """
    name = "trn.activation_reduce"
    x = combine(name, "add", scaled(name, src, op, scale), column(bias, src))
    activated = activate(name, op, x)
    # Before the cast: each of 512 weights of a softmax in bfloat16 would add its rounding, to 8
    # bits, to the sum that all are divided by.
    sums = reduce_free(name, "add", activated)
    return numerics.cast(activated, dst.dtype), numerics.cast(sums, total.dtype)


# Of activate2: the operators before its activation function.
_CHAINS = (
    ("multiply", "add"),
    ("multiply", "subtract"),
    ("multiply", "bypass"),
    ("add", "bypass"),
    ("subtract", "bypass"),
    ("bypass", "bypass"),
)


def _activate2_cost(
    device: Device, *operands: Operand, op0: str, op1: str, reduce: str, **_: Any
) -> Cost:
    name = "trn.activate2"
    needs(name, device)
    if (op0, op1) not in _CHAINS:
        raise LimitExceeded(
            f"{name}: operators are {op0}, {op1}, must be one of {list(_CHAINS)}"
        )
    if reduce == "multiply":
        raise LimitExceeded(
            f"{name}: reduce is multiply, must be add, max, min, absmax or absmin"
        )
    return _reducing_cost(device, name, *operands)


@instruction(
    "trn.activate2",
    cost=_activate2_cost,
    reads=(EITHER, EITHER, EITHER),
    writes=TWO_ON_CHIP,
)
def activate2(
    dst: OnChip,
    total: OnChip,
    src: OnChip,
    value0: OnChip,
    value1: OnChip,
    *,
    op: str,
    op0: str = "bypass",
    op1: str = "bypass",
    reverse0: bool = False,
    reverse1: bool = False,
    reduce: str = "add",
) -> tuple[OnChip, OnChip]:
    """`dst = op((src op0 value0) op1 value1)` and `total[p, 1]` its reduction; NeuronCore-v4.

    Args:
      dst: `[p, ...]`.
      total: `[p, 1]`: `reduce` over the free dimensions, of the float32 values.
      src: `[p, ...]`.
      value0: `[p, 1]`.
      value1: `[p, 1]`.
      op: an activation function.
      op0: multiply, add, subtract or bypass.
      op1: add or subtract after multiply, else bypass.
      reverse0: swaps the sides of `op0`.
      reverse1: swaps those of `op1`.
      reduce: add, max, min, absmax or absmin.
    """
    name = "trn.activate2"
    x = f32(src)
    if op0 != "bypass":
        x = combine(name, op0, x, column(value0, src), reverse=reverse0)
    if op1 != "bypass":
        x = combine(name, op1, x, column(value1, src), reverse=reverse1)
    activated = activate(name, op, x)
    reduced = reduce_free(name, reduce, activated)
    return numerics.cast(activated, dst.dtype), numerics.cast(reduced, total.dtype)
