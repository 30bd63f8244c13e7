"""Blocks of a line's PEs to its first PE: a star that does not add."""

import jax.numpy as jnp
from jax import lax

from emu.annotations import KnownInt
from emu.datasheet import Device
from emu.instruction import Cost, Operand, instruction
from emu.wse.collectives.gather.arrival import arrival
from emu.wse.pe.isa import SPACE
from emu.wse.spaces import Sram
from emu.wse.timeline.blocks import blocks_cost, check_blocks
from emu.wse.timeline.calls import group_size
from emu.wse.timeline.tiles import at_place
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
    block_words = int(words(x.size, x.dtype))
    return blocks_cost(device, x, block_words, index, group, first_sends=False)


@instruction(
    "wse.gather",
    cost=_cost,
    reads=(SPACE, "count"),
    writes=SPACE,
    arrival=arrival,
)
def _gather(
    dst: Sram,
    x: Sram,
    index: KnownInt,
    *,
    axis: str,
    group: int,
    ndim: int,
) -> Sram:
    tiles = x.reshape(-1, group, *x.shape[1:])
    # The group's dimension goes behind what other axes of the mesh carry along.
    blocks = jnp.moveaxis(tiles, 1, tiles.ndim - 1 - ndim)
    return at_place(blocks, group, 0).astype(dst.dtype)


def gather(dst: Sram, x: Sram, *, axis: str, group: int | None = None) -> Sram:
    """The tiles of a group's PEs on its first PE, in their order; the nearest arrives first.

    Args:
      dst: `[pes, *x.shape]`; nothing is written to it but on the first PE.
      x: tile in SRAM.
      axis: mesh axis.
      group: consecutive PEs in a group, a divisor of the axis; default all.

    Raises:
      LimitExceeded: the group does not divide the axis or is a single PE, or `dst` is of another
        shape.
    """
    size = group_size(axis, group)
    check_blocks("wse.gather", dst, x, size)
    return _gather(dst, x, lax.axis_index(axis), axis=axis, group=size, ndim=x.ndim)


__all__ = ["gather"]
