"""The Scalar Engine: activation functions, with scale, bias and a running sum.

`N` is elements per partition; costs are AWS's published initiation intervals (NKI ISA reference,
SDK 2.26.1), the fixed access latency apart.
"""

from typing import Any

import jax.numpy as jnp

from emu.datasheet import Device
from emu.instruction import Cost, Operand, instruction
from emu.trainium.memory import EITHER, f32

UNARY = {
    "copy": lambda x: x,
    "exp": jnp.exp,
    "silu": lambda x: x / (jnp.float32(1) + jnp.exp(-x)),
    "square": jnp.square,
    "rsqrt": lambda x: jnp.float32(1) / jnp.sqrt(x),
}


def _scalar_cost(device: Device, extra: int, x: Operand, flops: int) -> Cost:
    busy = max(device.min_interval_cycles, x.free) + extra
    return Cost(
        engine="scalar",
        busy_cycles=busy,
        latency_cycles=busy + device.scalar_latency_cycles,
        flops=flops,
    )


def _activation_cost(device: Device, dst: Operand, src: Operand, *_: Operand, **__: Any) -> Cost:
    return _scalar_cost(device, 0, src, 2 * src.size)


def _activation_reduce_cost(
    device: Device, dst: Operand, total: Operand, src: Operand, *_: Operand, **__: Any
) -> Cost:
    return _scalar_cost(device, device.min_interval_cycles, src, 3 * src.size)


@instruction("trn.activation", cost=_activation_cost, reads=(EITHER,), writes="sbuf")
def activation(dst: Any, src: Any, *, op: str, scale: float = 1.0) -> Any:
    """`dst = op(src · scale)`, computed in float32."""
    return UNARY[op](f32(src) * jnp.float32(scale)).astype(dst.dtype)


@instruction("trn.activation_bias", cost=_activation_cost, reads=(EITHER, "sbuf"), writes="sbuf")
def activation_bias(dst: Any, src: Any, bias: Any, *, op: str, scale: float = 1.0) -> Any:
    """`dst = op(src · scale + bias)`, bias `[p, 1]`, computed in float32."""
    return UNARY[op](f32(src) * jnp.float32(scale) + f32(bias)).astype(dst.dtype)


@instruction(
    "trn.activation_reduce",
    cost=_activation_reduce_cost,
    reads=(EITHER, "sbuf"),
    writes=("sbuf", "sbuf"),
)
def activation_reduce(
    dst: Any, total: Any, src: Any, bias: Any, *, op: str, scale: float = 1.0
) -> tuple[Any, Any]:
    """`dst = op(src · scale + bias)` and `total[p, 1] = Σ dst` over the free dimension."""
    y = UNARY[op](f32(src) * jnp.float32(scale) + f32(bias))
    return y.astype(dst.dtype), jnp.sum(y, axis=1, keepdims=True).astype(total.dtype)
