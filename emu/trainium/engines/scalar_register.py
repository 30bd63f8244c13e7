"""The Scalar Engine's accumulate register: sums of what activations give, over several of them.

The engine has a float32 register for each partition, to which an activation may add the sum of its
results on the way (NKI: `reduce_cmd`). That is free; reading the register out is an instruction of
its own, the minimum interval MIN (NKI ISA reference, SDK 2.26.1). So an activation of N elements a
partition takes max(MIN, N), and max(MIN, N) + MIN with the sums read out.

Here the register is a tile `[p, 1]` of float32 that the instructions are given. It takes 4 bytes of
each partition of SBUF, which the machine does not spend, and no traffic. Activations that add to it
do not wait for each other, as matmuls that add to a bank do not.

`command` is what NKI calls so: `reset_reduce` begins a sum with this activation's, `reduce` adds it
to the sum so far, `reset` sets the sum to 0 and leaves this activation's out, `idle` leaves the
register alone.
"""

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp

from emu import given, numerics
from emu.datasheet import Device
from emu.instruction import Cost, Operand, instruction
from emu.trainium.engines.cost import compute
from emu.trainium.engines.memory import EITHER
from emu.trainium.engines.operators import activate, column, combine, reduce_free
from emu.trainium.engines.scalar import check_bias, scaled, shifted
from emu.trainium.spaces import OnChip, Sbuf

COMMANDS = ("reset_reduce", "reduce", "reset", "idle")
_WRITES = (EITHER, "sbuf")
_WRITES_AND_READ_OUT = (EITHER, "sbuf", EITHER)


def _price(name: str, *, bias_is_tile: bool, read_out: bool) -> Callable[..., Cost]:
    """The cost rule of instruction `name`."""

    def cost(
        device: Device, *operands: Operand, op: str, bias: float = 0.0, **_: Any
    ) -> Cost:
        if bias or bias_is_tile:
            check_bias(name, device, op, is_immediate=not bias_is_tile)
        dst, _register, *others = operands
        writes = (dst, others.pop(0)) if read_out else (dst,)
        src = others[0]
        least = device.min_interval_cycles
        # 512 elements take 512 cycles, and 512 + 64 where the sums are read out.
        cycles = max(least, src.free) + (least if read_out else 0)
        flops = 3 * src.size
        return compute(device, name, "scalar", cycles, writes, others, flops=flops)

    return cost


def _activated(
    name: str, dst: OnChip, register: Sbuf, x: OnChip, op: str, command: str
) -> tuple[OnChip, Sbuf]:
    """What `op` makes of `x`, and the register after it."""
    given.one_of(f"{name}: command", command, COMMANDS)
    activated = activate(name, op, x)
    result = numerics.cast(activated, dst.dtype)
    if command == "idle":
        return result, register
    if command == "reset":
        return result, jnp.zeros_like(register)
    # Before the cast of the results, as in `activation_reduce`.
    total = reduce_free(name, "add", activated)
    if command == "reduce":
        total = combine(name, "add", register, total)
    return result, numerics.cast(total, register.dtype)


def _read_out(both: tuple[OnChip, Sbuf], total: OnChip) -> tuple[OnChip, Sbuf, OnChip]:
    result, register = both
    return result, register, numerics.cast(register, total.dtype)


# --- without reading the register out ---


@instruction(
    "trn.activation_accumulate",
    cost=_price("trn.activation_accumulate", bias_is_tile=False, read_out=False),
    reads=(EITHER,),
    writes=_WRITES,
    partial=True,
)
def activation_accumulate(
    dst: OnChip,
    register: Sbuf,
    src: OnChip,
    *,
    op: str,
    command: str,
    scale: float = 1.0,
    bias: float = 0.0,
) -> tuple[OnChip, Sbuf]:
    """`dst = op(src · scale + bias)`, and its sums into the register.

    Args:
      dst: `[p, ...]`.
      register: float32 `[p, 1]`, see the module.
      src: `[p, ...]`.
      op: an activation function, one of `operators.UNARY`.
      command: reset_reduce, reduce, reset or idle.
      scale: an immediate.
      bias: an immediate; on NeuronCore-v2 0 only.
    """
    name = "trn.activation_accumulate"
    x = shifted(name, scaled(name, src, op, scale), bias)
    return _activated(name, dst, register, x, op, command)


@instruction(
    "trn.activation_bias_accumulate",
    cost=_price("trn.activation_bias_accumulate", bias_is_tile=True, read_out=False),
    reads=(EITHER, EITHER),
    writes=_WRITES,
    partial=True,
)
def activation_bias_accumulate(
    dst: OnChip,
    register: Sbuf,
    src: OnChip,
    bias: OnChip,
    *,
    op: str,
    command: str,
    scale: float = 1.0,
) -> tuple[OnChip, Sbuf]:
    """`activation_accumulate` with a bias `[p, 1]`."""
    name = "trn.activation_bias_accumulate"
    x = combine(name, "add", scaled(name, src, op, scale), column(bias, src))
    return _activated(name, dst, register, x, op, command)


@instruction(
    "trn.activation_multiplied_accumulate",
    cost=_price(
        "trn.activation_multiplied_accumulate", bias_is_tile=False, read_out=False
    ),
    reads=(EITHER, EITHER),
    writes=_WRITES,
    partial=True,
)
def activation_multiplied_accumulate(
    dst: OnChip,
    register: Sbuf,
    src: OnChip,
    scale: OnChip,
    *,
    op: str,
    command: str,
    bias: float = 0.0,
) -> tuple[OnChip, Sbuf]:
    """`activation_accumulate` into `dst` and `register` with a scale `[p, 1]`."""
    name = "trn.activation_multiplied_accumulate"
    product = combine(name, "multiply", src, column(scale, src))
    return _activated(name, dst, register, shifted(name, product, bias), op, command)


@instruction(
    "trn.activation_scaled_accumulate",
    cost=_price("trn.activation_scaled_accumulate", bias_is_tile=True, read_out=False),
    reads=(EITHER, EITHER, EITHER),
    writes=_WRITES,
    partial=True,
)
def activation_scaled_accumulate(
    dst: OnChip,
    register: Sbuf,
    src: OnChip,
    scale: OnChip,
    bias: OnChip,
    *,
    op: str,
    command: str,
) -> tuple[OnChip, Sbuf]:
    """`activation_accumulate` into `dst` and `register`, a scale and a bias `[p, 1]` each."""
    name = "trn.activation_scaled_accumulate"
    product = combine(name, "multiply", src, column(scale, src))
    x = combine(name, "add", product, column(bias, src))
    return _activated(name, dst, register, x, op, command)


# --- with the register read out ---


@instruction(
    "trn.activation_total",
    cost=_price("trn.activation_total", bias_is_tile=False, read_out=True),
    reads=(EITHER,),
    writes=_WRITES_AND_READ_OUT,
    partial=True,
)
def activation_total(
    dst: OnChip,
    register: Sbuf,
    total: OnChip,
    src: OnChip,
    *,
    op: str,
    command: str,
    scale: float = 1.0,
    bias: float = 0.0,
) -> tuple[OnChip, Sbuf, OnChip]:
    """`activation_accumulate`, then `total[p, 1]` from the register."""
    name = "trn.activation_total"
    x = shifted(name, scaled(name, src, op, scale), bias)
    return _read_out(_activated(name, dst, register, x, op, command), total)


@instruction(
    "trn.activation_bias_total",
    cost=_price("trn.activation_bias_total", bias_is_tile=True, read_out=True),
    reads=(EITHER, EITHER),
    writes=_WRITES_AND_READ_OUT,
    partial=True,
)
def activation_bias_total(
    dst: OnChip,
    register: Sbuf,
    total: OnChip,
    src: OnChip,
    bias: OnChip,
    *,
    op: str,
    command: str,
    scale: float = 1.0,
) -> tuple[OnChip, Sbuf, OnChip]:
    """`activation_bias_accumulate`, then `total[p, 1]` from the register."""
    name = "trn.activation_bias_total"
    x = combine(name, "add", scaled(name, src, op, scale), column(bias, src))
    return _read_out(_activated(name, dst, register, x, op, command), total)


@instruction(
    "trn.activation_multiplied_total",
    cost=_price("trn.activation_multiplied_total", bias_is_tile=False, read_out=True),
    reads=(EITHER, EITHER),
    writes=_WRITES_AND_READ_OUT,
    partial=True,
)
def activation_multiplied_total(
    dst: OnChip,
    register: Sbuf,
    total: OnChip,
    src: OnChip,
    scale: OnChip,
    *,
    op: str,
    command: str,
    bias: float = 0.0,
) -> tuple[OnChip, Sbuf, OnChip]:
    """`activation_multiplied_accumulate`, then `total[p, 1]` from the register."""
    name = "trn.activation_multiplied_total"
    product = combine(name, "multiply", src, column(scale, src))
    x = shifted(name, product, bias)
    return _read_out(_activated(name, dst, register, x, op, command), total)


@instruction(
    "trn.activation_scaled_total",
    cost=_price("trn.activation_scaled_total", bias_is_tile=True, read_out=True),
    reads=(EITHER, EITHER, EITHER),
    writes=_WRITES_AND_READ_OUT,
    partial=True,
)
def activation_scaled_total(
    dst: OnChip,
    register: Sbuf,
    total: OnChip,
    src: OnChip,
    scale: OnChip,
    bias: OnChip,
    *,
    op: str,
    command: str,
) -> tuple[OnChip, Sbuf, OnChip]:
    """`activation_scaled_accumulate`, then `total[p, 1]` from the register."""
    name = "trn.activation_scaled_total"
    product = combine(name, "multiply", src, column(scale, src))
    x = combine(name, "add", product, column(bias, src))
    return _read_out(_activated(name, dst, register, x, op, command), total)
