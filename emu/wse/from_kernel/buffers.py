"""Which buffer of a PE's SRAM each tile lies in: tiles that are never there together share one.

A tile is there from the first step that touches it to the last, so of

    step      0  1  2  3  4  5
    a [24]    |-----|
    b [16]          .  |-----|
    c [16]       |--------|

b may lie where a was, and c has a buffer of its own. The largest tiles are placed first, each in
the first buffer of its dtype that is free all the while.
"""

import numpy as np

from emu.wse.fabric.ops import Buffer
from emu.wse.fabric.program import FabricProgram
from emu.wse.from_kernel.tiles import Tile


def place_tiles(program: FabricProgram, tiles: list[Tile], where: np.ndarray) -> None:
    """Gives every tile its buffer.

    Args:
      program: to which the buffers are added.
      tiles: of the kernel; what it was given keeps a buffer of its own.
      where: `bool[height, width]`, the kernel's PEs.
    """
    for tile in tiles:
        if tile.given is not None:
            name = f"given {tile.given}"
            tile.buffer = program.buffer(
                name, tile.stored_elements, tile.stored_dtype, where
            )
    made = [tile for tile in tiles if tile.given is None]
    made.sort(key=lambda tile: -tile.stored_elements)
    shared: list[tuple[Buffer, list[Tile]]] = []
    for tile in made:
        for buffer, others in shared:
            if buffer.dtype == tile.stored_dtype and _is_free(others, tile):
                others.append(tile)
                tile.buffer = buffer
                break
        else:
            buffer = program.buffer(
                f"tile {len(shared)}", tile.stored_elements, tile.stored_dtype, where
            )
            tile.buffer = buffer
            shared.append((buffer, [tile]))


def _is_free(others: list[Tile], tile: Tile) -> bool:
    """Whether none of them is there while a tile is."""
    return all(other.last < tile.first or tile.last < other.first for other in others)


__all__ = ["place_tiles"]
