"""A gap among the keys that are attended to, such as that between sinks and a window, left out.

What lies before and behind it is copied side by side; of 9 slots with one ahead and a view of three
from the sixth on

    slot     0 1 2 3 4 5 6 7 8
    copied   0         5 6 7
"""

from collections.abc import Iterable

from jax import lax

from emu.annotations import KnownInt
from emu.wse import copy_into, sram_tile
from emu.wse.lower import Tiles
from emu.wse.spaces import Sram
from kernels.wse.decode.attention import Cache
from kernels.wse.decode.attention_map import AttentionMap


def around_gap(
    layout: AttentionMap,
    cache: Cache,
    tiles: Tiles,
    of_slots: Iterable[str],
    first: KnownInt,
) -> tuple[Cache, Tiles]:
    """Copies of the slots before and behind a gap.

    Args:
      layout: with slots ahead of the gap.
      cache: keys and values.
      tiles: of a variant.
      of_slots: names of those that have a column for each slot.
      first: known, the slot with which what lies behind begins.
    """

    def joined(x: Sram, axis: int) -> Sram:
        ahead = layout.ahead
        shape = [layout.slots if n == axis else x.shape[n] for n in range(2)]
        dst = sram_tile(shape=tuple(shape), dtype=x.dtype.name)
        before = lax.slice_in_dim(x, 0, ahead, axis=axis)
        dst = copy_into(dst, before, 0, axis=axis)
        behind = layout.slots - ahead
        behind = lax.dynamic_slice_in_dim(x, first, behind, axis=axis)
        return copy_into(dst, behind, ahead, axis=axis)

    sides = {key: joined(tiles[key], 1) for key in of_slots}
    cache = {"k": joined(cache["k"], 1), "v": joined(cache["v"], 0)}
    return cache, {**tiles, **sides}


__all__ = ["around_gap"]
