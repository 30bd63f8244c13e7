"""Values of collectives: a step of a reduce, and tiles that only one PE of a group holds."""

import jax.numpy as jnp
from jax import lax

from emu.annotations import DType
from emu.wse.pe.isa import single
from emu.wse.spaces import Sram

_JOIN = {"add": jnp.add, "max": jnp.maximum}


def join(op: str, a: Sram, b: Sram) -> Sram:
    """One step of a reduce, `"add"` or `"max"`, rounded to the tiles' dtype."""
    return _JOIN[op](single(a), single(b)).astype(a.dtype)


def unset(dtype: DType) -> Sram:
    """What a tile holds that nobody has written: NaN, or the largest integer."""
    if jnp.issubdtype(dtype, jnp.floating):
        return jnp.array(jnp.nan, dtype)
    return jnp.array(jnp.iinfo(dtype).max, dtype)


def at_place(tiles: Sram, group: int, place: int) -> Sram:
    """`[groups, ...]` as `[groups * group, ...]`: on one PE of each group, nothing on the others.

    Padded in a shape that a multicast slices, so XLA drops what nobody reads and works out each
    sum once instead of once per PE.
    """
    padded = tiles[None, :, None]
    widths = [(0, 0, 0)] * padded.ndim
    widths[2] = (place, group - 1 - place, 0)
    return lax.pad(padded, unset(tiles.dtype), widths).reshape(-1, *tiles.shape[1:])


__all__ = ["at_place", "join", "unset"]
