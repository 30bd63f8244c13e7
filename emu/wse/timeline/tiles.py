"""Values of collectives: a step of a reduce, and tiles that only one PE of a group holds."""

import jax.numpy as jnp
from jax import lax

from emu.wse.pe.isa import single, unset
from emu.wse.spaces import Sram

OPS = {"add": jnp.add, "max": jnp.maximum}
"""What a reduce may do with two tiles."""


def join(op: str, own: Sram, came: Sram) -> Sram:
    """One step of a reduce, `"add"` or `"max"`, rounded to the tiles' dtype."""
    joined = OPS[op](single(own), single(came))
    return joined.astype(own.dtype)


def at_place(tiles: Sram, group: int, place: int) -> Sram:
    """`[groups, ...]` as `[groups * group, ...]`: on one PE of each group, nothing on the others.

    Padded in a shape that a multicast slices, so XLA drops what nobody reads and works out each
    sum once instead of once per PE.
    """
    one_pe = tiles[None, :, None]  # 1, groups, PEs, ...
    before = place
    behind = group - 1 - place
    widths = [(0, 0, 0)] * one_pe.ndim
    widths[2] = (before, behind, 0)
    nothing = jnp.array(unset(tiles.dtype), tiles.dtype)
    everywhere = lax.pad(one_pe, nothing, widths)
    return everywhere.reshape(-1, *tiles.shape[1:])


__all__ = ["OPS", "at_place", "join"]
