"""The GpSimd Engine: what the others cannot do, such as masks by position.

`N` is elements per partition; costs are AWS's published initiation intervals (NKI ISA reference,
SDK 2.26.1), the fixed access latency apart.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from emu.datasheet import Device
from emu.instruction import Cost, Operand, instruction


def _select_cost(
    device: Device, dst: Operand, src: Operand, offset: Operand, *, fill: float
) -> Cost:
    busy = device.gpsimd_overhead_cycles + src.free
    return Cost(engine="gpsimd", busy_cycles=busy, flops=src.size)


@instruction("trn.affine_select", cost=_select_cost, reads=("sbuf", "register"), writes="sbuf")
def affine_select(dst: Any, src: Any, offset: Any, *, fill: float) -> Any:
    """`dst[p, n] = src[p, n]` where `p + offset ≥ n`, else `fill`; `offset` is a known integer.

    GpSimd cannot access PSUM (SDK: NeuronCore compute engines).
    """
    rows = lax.broadcasted_iota(jnp.int32, src.shape, 0)
    columns = lax.broadcasted_iota(jnp.int32, src.shape, 1)
    keep = rows + jnp.broadcast_to(offset, src.shape) >= columns
    return jnp.where(keep, src, jax.lax.full_like(src, fill)).astype(dst.dtype)
