"""From what queries have attended to, to attention's output and log-sum-exp."""

from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import lax

from emu.trainium.engines.memory import dma_store_at, hbm, psum, sbuf
from emu.trainium.isa import (
    activation,
    memset,
    nc_transpose,
    reciprocal,
    tensor_copy,
    tensor_copy_predicated,
    tensor_immediate,
    tensor_scalar,
    tensor_tensor,
)
from kernels.trainium.context.sizes import ContextTiling
from kernels.trainium.context.state import (
    MAXIMUM,
    STORES,
    SUM,
    Packed,
    State,
    load,
    packed_tiles,
)
from kernels.trainium.flash.step import TileRing
from kernels.trainium.tiles import BANKS, divide

# Below any sum of weights, which is 1 at least, and above 0: its inverse squared is finite.
LEAST_SUM = 2.0**-40


def finish(state: State, s: ContextTiling, *, transposed: bool, logsumexp: bool) -> Any:
    """Divides by the row sums; rows that attended to nothing become 0.

    Args:
      state: after every source.
      s: sizes.
      transposed: puts features on partitions, as a projection wants them.
      logsumexp: whether it is wanted.

    Returns:
      HBM `[heads, tiles, rows, value_dim]`, transposed `[..., value_dim, rows]`, in the dtype of
      the queries (16 bits for 8-bit floats); and, if wanted, the log-sum-exp of the scores, float32
      `[groups, blocks, rows, lanes]`, -inf where a row attended to nothing.
    """
    shape = (s.value_dim, s.rows) if transposed else (s.rows, s.value_dim)
    out = hbm(s.items, *shape, dtype=s.output)
    lse = (hbm(s.units, s.rows, s.block_lanes),) if logsumexp else ()

    def some(carry: Any, unit: Any) -> tuple[Any, None]:
        out, lse = carry
        own = load(packed_tiles(s, buffers=s.buffers), state, unit)
        total = own[1][:, :, SUM]
        least = tensor_immediate(_columns(s), total, op="max", value=LEAST_SUM)
        inverse = reciprocal(_columns(s), least)
        banks = TileRing(
            *(psum(*shape, dtype=s.turned or s.output) for _ in range(BANKS // 2))
        )
        for n, place in enumerate(places(unit, s)):
            y = _normalised(own, n, inverse, banks if transposed else None, s)
            out = dma_store_at(out, y, place, queue=STORES[n % 2])
        if lse:
            y = _logsumexp(own[1][:, :, MAXIMUM], total, least, s)
            lse = (dma_store_at(lse[0], y, unit, queue=STORES[1]),)
        return (out, lse), None

    units = jnp.arange(s.units, dtype=jnp.int32)
    (out, lse), _ = lax.scan(some, (out, lse), units)
    out = out.reshape(s.heads, s.tiles, *shape)
    if not lse:
        return out
    return out, lse[0].reshape(s.groups, s.blocks, s.rows, s.block_lanes)


def places(unit: Any, s: ContextTiling) -> list[Any]:
    """Where a unit's lanes stand among `[heads, tiles]`, head by head."""
    g, b = divide(unit, s.blocks)
    heads = [g * s.block_heads + h for h in range(s.block_heads)]
    return [
        h * s.tiles + b * s.block_tiles + n for h in heads for n in range(s.block_tiles)
    ]


def _columns(s: ContextTiling) -> Any:
    return sbuf(s.rows, s.block_lanes, buffers=s.buffers)


def _normalised(
    own: Packed, lane: int, inverse: Any, banks: TileRing | None, s: ContextTiling
) -> Any:
    y = sbuf(s.rows, s.value_dim, dtype=s.output, buffers=s.buffers)
    y = tensor_scalar(y, own[0][:, lane], inverse[:, lane : lane + 1], op="multiply")
    if banks is None:
        return y
    turned = banks.give(nc_transpose(banks.take(), y))
    return tensor_copy(
        sbuf(s.value_dim, s.rows, dtype=s.output, buffers=s.buffers), turned
    )


def _logsumexp(highest: Any, total: Any, least: Any, s: ContextTiling) -> Any:
    """`scale · maximum + log(sum)`, and -inf by a predicated copy where the sum is 0."""
    log = activation(_columns(s), least, op="log")
    high = tensor_immediate(_columns(s), highest, op="multiply", value=s.step.scale)
    lse = tensor_tensor(_columns(s), high, log, op="add")
    empty = sbuf(s.rows, s.block_lanes, dtype=jnp.uint8, buffers=s.buffers)
    empty = tensor_immediate(empty, total, op="equal", value=0.0)
    lowest = memset(_columns(s), value=-np.inf, engine="gpsimd")
    return tensor_copy_predicated(lse, lowest, empty)


__all__ = ["finish", "places"]
