"""Blocks of a line's first PE to all of its PEs."""

import jax.numpy as jnp
from jax import lax

from emu.annotations import KnownInt
from emu.datasheet import Device
from emu.instruction import Cost, Operand, instruction
from emu.wse.collectives.scatter.arrival import arrival
from emu.wse.pe.isa import SPACE
from emu.wse.spaces import Sram
from emu.wse.timeline.blocks import blocks_cost, check_blocks
from emu.wse.timeline.calls import group_size
from emu.wse.wavelets import words


def _cost(
    device: Device,
    dst: Operand,
    x: Operand,
    index: Operand,
    *,
    axis: str,
    group: int,
    ndim: int,
) -> Cost:
    block_words = int(words(dst.size, x.dtype))
    return blocks_cost(device, dst, block_words, index, group, first_sends=True)


@instruction(
    "wse.scatter",
    cost=_cost,
    reads=(SPACE, "count"),
    writes=SPACE,
    arrival=arrival,
)
def _scatter(
    dst: Sram,
    x: Sram,
    index: KnownInt,
    *,
    axis: str,
    group: int,
    ndim: int,
) -> Sram:
    blocks = x[::group]  # the first PE's, [groups, ..., group, *block]
    tiles = jnp.moveaxis(blocks, blocks.ndim - 1 - ndim, 1)
    return tiles.reshape(-1, *tiles.shape[2:]).astype(dst.dtype)


def scatter(dst: Sram, x: Sram, *, axis: str, group: int | None = None) -> Sram:
    """Row i of the first PE's `x` to PE i of its group; the nearest one's leaves first.

    Args:
      dst: tile for one row.
      x: `[pes, *dst.shape]`; only the first PE's is read.
      axis: mesh axis.
      group: consecutive PEs in a group, a divisor of the axis; default all.

    Raises:
      LimitExceeded: the group does not divide the axis or is a single PE, or `x` is of another
        shape.
    """
    size = group_size(axis, group)
    check_blocks("wse.scatter", x, dst, size)
    return _scatter(dst, x, lax.axis_index(axis), axis=axis, group=size, ndim=dst.ndim)


__all__ = ["scatter"]
