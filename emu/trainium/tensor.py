"""The Tensor Engine: matmul accumulated in PSUM, and transpose.

`N` is elements per partition; costs are AWS's published initiation intervals (NKI ISA reference,
SDK 2.26.1), the fixed access latency apart.
"""

from typing import Any

import jax.numpy as jnp
import numpy as np

from emu.datasheet import Device
from emu.instruction import Cost, Operand, instruction, limit


def _passes(device: Device, *operands: Operand) -> int:
    return device.fp32_passes if any(x.dtype == np.float32 for x in operands) else 1


def _matmul_cost(
    device: Device, dst: Operand, stationary: Operand, moving: Operand, accumulate: Operand
) -> Cost:
    name = "trn.nc_matmul"
    (k, m), n = stationary.shape, moving.free
    limit(name, "stationary rows", k, device.partitions)
    limit(name, "stationary columns", m, device.partitions)
    limit(name, "moving columns", n, device.moving_free_limit)
    interval = max(min(device.min_interval_cycles, m), n) * _passes(device, stationary, moving)
    busy = interval + device.weight_load_exposed_cycles
    latency = busy + m + device.tensor_latency_cycles
    return Cost(engine="tensor", busy_cycles=busy, latency_cycles=latency, flops=2 * k * m * n)


@instruction(
    "trn.nc_matmul",
    cost=_matmul_cost,
    reads=("sbuf", "sbuf", "register"),
    writes="psum",
    partial=True,  # accumulation into a bank pipelines: it waits for readers, not for itself
)
def nc_matmul(dst: Any, stationary: Any, moving: Any, accumulate: Any) -> Any:
    """`dst[m, n] (+)= stationary[k, m]ᵀ · moving[k, n]`, accumulated in float32 in PSUM.

    `accumulate` is a known integer: 0 overwrites `dst`, 1 adds to it.
    """
    product = jnp.einsum(
        "km,kn->mn", stationary, moving, preferred_element_type=jnp.float32, precision="highest"
    )
    return jnp.where(accumulate != 0, dst + product, product)


def _transpose_cost(device: Device, dst: Operand, src: Operand) -> Cost:
    rows, free = src.shape[0], src.free
    limit("trn.nc_transpose", "free size", free, device.partitions)
    busy = max(rows, min(device.min_interval_cycles, free)) * (_passes(device, src) // 2 or 1)
    latency = busy + free + device.tensor_latency_cycles
    return Cost(engine="tensor", busy_cycles=busy, latency_cycles=latency)


@instruction("trn.nc_transpose", cost=_transpose_cost, reads=("sbuf",), writes="psum")
def nc_transpose(dst: Any, src: Any) -> Any:
    """`dst[n, p] = src[p, n]ᵀ` on the Tensor Engine, in transpose mode: fp32 in two passes."""
    return src.T
