"""From what queries have attended to, to attention's output and log-sum-exp."""

from typing import Literal, overload

import jax.numpy as jnp
import numpy as np

from emu.annotations import KnownInt
from emu.tracing.loop import loop
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
from emu.trainium.spaces import Hbm, Sbuf
from kernels.trainium.context.sizes import ContextTiling
from kernels.trainium.context.state import (
    MAXIMUM,
    STORES,
    SUM,
    State,
    Unit,
    load,
    unit_tiles,
)
from kernels.trainium.flash.step import TileRing
from kernels.trainium.tiles import BANKS, divide

# Below any sum of weights, which is 1 at least, and above 0: its inverse squared is finite.
LEAST_SUM = 2.0**-40

Finished = tuple[Hbm, Hbm]  # output and log-sum-exp


@overload
def finish(
    state: State, tiling: ContextTiling, *, transposed: bool, logsumexp: Literal[True]
) -> Finished: ...


@overload
def finish(
    state: State, tiling: ContextTiling, *, transposed: bool, logsumexp: Literal[False]
) -> Hbm: ...


def finish(
    state: State, tiling: ContextTiling, *, transposed: bool, logsumexp: bool
) -> Hbm | Finished:
    """Divides by the row sums; rows that attended to nothing become 0.

    Args:
      state: after every source.
      tiling: sizes.
      transposed: puts features on partitions, as a projection wants them.
      logsumexp: whether it is wanted.

    Returns:
      HBM `[heads, tiles, rows, value_dim]`, transposed `[..., value_dim, rows]`, in the dtype of
      the queries (16 bits for 8-bit floats); and, if wanted, the log-sum-exp of the scores, float32
      `[groups, blocks, rows, lanes]`, -inf where a row attended to nothing.
    """
    rows, features = tiling.rows, tiling.value_dim
    shape = (features, rows) if transposed else (rows, features)
    out = hbm(tiling.items, *shape, dtype=tiling.output)
    lse = [hbm(tiling.units, rows, tiling.block_lanes)] if logsumexp else []

    def finish_unit(
        carry: tuple[Hbm, list[Hbm]], unit: KnownInt
    ) -> tuple[Hbm, list[Hbm]]:
        out, lse = carry
        own = load(unit_tiles(tiling, buffers=tiling.buffers), state, unit)
        total = own.statistics[:, :, SUM]
        # A row that attended to nothing has sum 0 and output 0, which any divisor leaves.
        least = tensor_immediate(_columns(tiling), total, op="max", value=LEAST_SUM)
        inverse = reciprocal(_columns(tiling), least)
        dtype = tiling.turned or tiling.output
        # Four banks, so that transposes and the copies out of them overlap.
        banks = TileRing(*(psum(*shape, dtype=dtype) for _ in range(BANKS // 2)))
        for lane, place in enumerate(places(unit, tiling)):
            y = _normalised(own, lane, inverse, tiling)
            if transposed:
                y = _transposed(y, banks, tiling)
            out = dma_store_at(out, y, place, queue=STORES[lane % 2])
        if lse:
            maximum = own.statistics[:, :, MAXIMUM]
            y = _logsumexp(maximum, total, least, tiling)
            lse = [dma_store_at(lse[0], y, unit, queue=STORES[1])]
        return out, lse

    out, lse = loop(finish_unit, (out, lse), tiling.units)
    out = out.reshape(tiling.heads, tiling.tiles, *shape)
    if not lse:
        return out
    by_group = tiling.groups, tiling.blocks, rows, tiling.block_lanes
    return out, lse[0].reshape(by_group)


def places(unit: KnownInt, tiling: ContextTiling) -> list[KnownInt]:
    """Where a unit's lanes stand among `[heads, tiles]`, head by head.

    With 4 heads of 8 query tiles in blocks of 2 heads by 4 tiles, unit 3 is the second group's
    second block: tiles 4-7 of heads 2 and 3, at 20, 21, 22, 23, 28, 29, 30, 31.
    """
    group, block = divide(unit, tiling.blocks)
    heads = [group * tiling.block_heads + head for head in range(tiling.block_heads)]
    return [
        head * tiling.tiles + block * tiling.block_tiles + tile
        for head in heads
        for tile in range(tiling.block_tiles)
    ]


def _columns(tiling: ContextTiling) -> Sbuf:
    return sbuf(tiling.rows, tiling.block_lanes, buffers=tiling.buffers)


def _normalised(own: Unit, lane: int, inverse: Sbuf, tiling: ContextTiling) -> Sbuf:
    """A lane's output over the sum of its weights, `[rows, value_dim]`."""
    shape = tiling.rows, tiling.value_dim
    y = sbuf(*shape, dtype=tiling.output, buffers=tiling.buffers)
    output = own.output[:, lane]
    factor = inverse[:, lane : lane + 1]
    return tensor_scalar(y, output, factor, op="multiply")


def _transposed(y: Sbuf, banks: TileRing, tiling: ContextTiling) -> Sbuf:
    turned = banks.give(nc_transpose(banks.take(), y))
    shape = tiling.value_dim, tiling.rows
    tile = sbuf(*shape, dtype=tiling.output, buffers=tiling.buffers)
    return tensor_copy(tile, turned)


def _logsumexp(maximum: Sbuf, total: Sbuf, least: Sbuf, tiling: ContextTiling) -> Sbuf:
    """`scale · maximum + log(sum)`, and -inf by a predicated copy where the sum is 0."""
    scale = tiling.step.scale
    log = activation(_columns(tiling), least, op="log")
    high = tensor_immediate(_columns(tiling), maximum, op="multiply", value=scale)
    lse = tensor_tensor(_columns(tiling), high, log, op="add")
    lanes = tiling.rows, tiling.block_lanes
    empty = sbuf(*lanes, dtype=jnp.uint8, buffers=tiling.buffers)
    empty = tensor_immediate(empty, total, op="equal", value=0.0)
    lowest = memset(_columns(tiling), value=-np.inf, engine="gpsimd")
    return tensor_copy_predicated(lse, lowest, empty)


__all__ = ["Finished", "finish", "places"]
