"""A layer's cache in codes: a token's key and value of a head have a scale each.

Every column of a group finds its part's largest magnitude, one exchange of two numbers makes that
the head's, and all know the scale then: the largest over the largest code. Codes are written where
numbers would be, and the scales beside them, float32, on every column of the group.
"""

import jax.numpy as jnp
from jax import lax

from emu.annotations import KnownInt
from emu.datasheet import Device
from emu.wse import (
    copy_into,
    fill,
    fold,
    narrow,
    reciprocal,
    scalar_of_two_live,
    sram_tile,
    vector_live,
    vector_of_one_live,
    vector_scale,
)
from emu.wse.pe.elementwise import SCALAR_CYCLES
from emu.wse.pe.laws import SINGLE, vector_cycles
from emu.wse.pe.narrow import narrow_cycles
from emu.wse.spaces import Sram
from kernels.formats.formats import Format
from kernels.wse.decode.cache_format import SCALES
from kernels.wse.decode.sums import all_reduce, unchanged

LEAST = 2.0**-120
"""Scale of a head of zeros, whose inverse is a float32; its codes are zeros."""


def append_coded(
    cache: dict[str, Sram],
    entry: Sram,
    pos: KnownInt,
    held: Format,
    *,
    rows: int,
    parts: int,
) -> dict[str, Sram]:
    """Writes the new token's key and value, in codes, on the row that owns position `pos`.

    Args:
      cache: `k` `[dims, slots]`, `v` `[slots, dims]`, and the scales of each, `[1, slots]`.
      entry: key and value, float32 `[2, dims]`.
      pos: known position.
      held: the format.
      rows: over which positions are dealt.
      parts: columns that hold a head together.
    """
    dims = jnp.int32(entry.shape[1])
    size = sram_tile(shape=entry.shape, dtype="float32")
    size = vector_of_one_live(size, entry, dims, op="abs")
    greatest = fold(sram_tile(shape=(2,), dtype="float32"), size, dims, op="max")
    greatest = all_reduce(greatest, "col", op="max", group=parts)
    two = jnp.int32(2)
    most = fill(sram_tile(shape=(1, 1), dtype="float32"), value=held.greatest)
    scales = sram_tile(shape=(1, 2), dtype="float32")
    scales = scalar_of_two_live(
        *(scales, greatest.reshape(1, 2), most, two),
        op="div",
        arithmetic="float32",
        opens=True,
    )
    least = fill(sram_tile(shape=(1, 1), dtype="float32"), value=LEAST)
    scales = vector_live(scales, scales, least, two, op="max").reshape(2)
    inverse = reciprocal(sram_tile(shape=(2,), dtype="float32"), scales)
    quotients = sram_tile(shape=entry.shape, dtype="float32")
    quotients = vector_scale(quotients, entry, inverse)
    codes = sram_tile(shape=entry.shape, dtype=held.element)
    codes = narrow(codes, quotients)

    slot = lax.div(pos, jnp.int32(rows))
    is_mine = lax.rem(pos, jnp.int32(rows)) == lax.axis_index("row")

    def write(
        old: dict[str, Sram], codes: Sram, scales: Sram, slot: KnownInt
    ) -> dict[str, Sram]:
        written = {}
        for place, (name, of_name) in enumerate(SCALES.items()):
            own = lax.slice_in_dim(codes, place, place + 1)
            # Keys lie a dimension over all slots, values a slot over all dimensions.
            axis = 1 if name == "k" else 0
            own = own.reshape(-1, 1) if name == "k" else own
            written[name] = copy_into(old[name], own, slot, axis=axis)
            scale = lax.slice_in_dim(scales, place, place + 1).reshape(1, 1)
            written[of_name] = copy_into(old[of_name], scale, slot, axis=1)
        return written

    return lax.cond(is_mine, write, unchanged, cache, codes, scales, slot)


def append_cycles(dims: int, held: Format, device: Device) -> float:
    """Rough cycles of bringing a token's key and value into codes, but for the exchange."""
    whole = float(vector_cycles(device, 2 * dims, SINGLE))
    divisions = 4 * SCALAR_CYCLES["div"](device)
    folded = 2 * dims * device.fold_cycles
    return (
        2 * whole + folded + divisions + narrow_cycles(device, held.element, 2 * dims)
    )


__all__ = ["append_coded", "append_cycles"]
