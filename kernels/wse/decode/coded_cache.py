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
    vector,
    vector_live,
    vector_of_one_live,
    vector_scale,
    widen_live,
)
from emu.wse.pe.elementwise import SCALAR_CYCLES
from emu.wse.pe.laws import SINGLE, vector_cycles
from emu.wse.pe.narrow import narrow_cycles
from emu.wse.pe.packed import SCALES as POWERS_DTYPE
from emu.wse.spaces import Sram
from kernels.formats.formats import Format
from kernels.wse.decode.cache_format import POWERS, SCALES, Blocks
from kernels.wse.decode.sums import all_reduce, unchanged, zeros

HEADROOM = 7
"""Of a largest magnitude's exponent, how much less that of a block's power of two is: 448, the
largest code of E4M3, has the exponent 8, and one step is left, see `emu.numerics.mx_quantize`."""

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
    scales, inverse = scales_of(greatest, held, parts)
    quotients = sram_tile(shape=entry.shape, dtype="float32")
    quotients = vector_scale(quotients, entry, inverse)
    codes = sram_tile(shape=entry.shape, dtype=held.element)
    codes = narrow(codes, quotients)

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

    slot = lax.div(pos, jnp.int32(rows))
    is_mine = lax.rem(pos, jnp.int32(rows)) == lax.axis_index("row")
    return lax.cond(is_mine, write, unchanged, cache, codes, scales, slot)


def append_microscaled(
    cache: dict[str, Sram],
    entry: Sram,
    pos: KnownInt,
    held: Format,
    blocks: Blocks,
    *,
    rows: int,
    parts: int,
) -> dict[str, Sram]:
    """As `append_coded`, with a power of two for each block of a key's or value's features.

    A column puts the largest magnitudes of its runs of features where their blocks are among the
    head's; an exchange makes them those of whole blocks, and the column takes those of its runs.

    Args:
      cache: `k` `[dims, slots]`, `v` `[slots, dims]`, and of each the powers `[runs, slots]`.
      entry, pos, held, rows, parts: as `append_coded` takes them.
      blocks: which ones a column's features are in.
    """
    count, size = len(blocks.runs), blocks.run
    of_head = -(-parts * entry.shape[1] // blocks.size)
    column = lax.rem(lax.axis_index("col"), jnp.int32(parts))
    places = [
        lax.div(jnp.int32(first) + column * jnp.int32(step), jnp.int32(blocks.size))
        for first, step in blocks.runs
    ]
    by_run = entry.reshape(2 * count, size)
    features = jnp.int32(size)
    sizes = sram_tile(shape=by_run.shape, dtype="float32")
    sizes = vector_of_one_live(sizes, by_run, features, op="abs")
    own = sram_tile(shape=(2 * count,), dtype="float32")
    own = fold(own, sizes, features, op="max").reshape(2, count)
    greatest = zeros((2, of_head))
    for run, place in enumerate(places):
        of_block = zeros((2, of_head))
        of_run = lax.slice_in_dim(own, run, run + 1, axis=1)
        of_block = copy_into(of_block, of_run, place, axis=1)
        greatest = vector(greatest, greatest, of_block, op="max")
    greatest = all_reduce(greatest.reshape(-1), "col", op="max", group=parts)
    greatest = greatest.reshape(2, of_head)
    whole = sram_tile(shape=(2, count), dtype="float32")
    for run, place in enumerate(places):
        of_block = lax.dynamic_slice_in_dim(greatest, place, 1, axis=1)
        whole = copy_into(whole, of_block, run, axis=1)

    below = fill(sram_tile(shape=(1, 1), dtype="float32"), value=2.0**-HEADROOM)
    runs = jnp.int32(count)
    whole = vector_live(whole, whole, below, runs, op="mul")
    powers = narrow(sram_tile(shape=whole.shape, dtype=POWERS_DTYPE), whole)
    wide = sram_tile(shape=whole.shape, dtype="float32")
    wide = widen_live(wide, powers, runs, axis=1)
    least = fill(sram_tile(shape=(1, 1), dtype="float32"), value=LEAST)
    wide = vector_live(wide, wide, least, runs, op="max").reshape(-1)
    inverse = reciprocal(sram_tile(shape=wide.shape, dtype="float32"), wide)
    quotients = sram_tile(shape=by_run.shape, dtype="float32")
    quotients = vector_scale(quotients, by_run, inverse)
    codes = narrow(sram_tile(shape=by_run.shape, dtype=held.element), quotients)

    def write(
        old: dict[str, Sram], codes: Sram, powers: Sram, slot: KnownInt
    ) -> dict[str, Sram]:
        written = {}
        for place, (name, of_name) in enumerate(POWERS.items()):
            own = lax.slice_in_dim(codes, place, place + 1)
            axis = 1 if name == "k" else 0
            own = own.reshape(-1, 1) if name == "k" else own
            written[name] = copy_into(old[name], own, slot, axis=axis)
            power = lax.slice_in_dim(powers, place, place + 1).reshape(-1, 1)
            written[of_name] = copy_into(old[of_name], power, slot, axis=1)
        return written

    slot = lax.div(pos, jnp.int32(rows))
    is_mine = lax.rem(pos, jnp.int32(rows)) == lax.axis_index("row")
    return lax.cond(
        is_mine, write, unchanged, cache, codes.reshape(2, -1), powers, slot
    )


def append_coded_latent(
    cache: dict[str, Sram],
    key: Sram,
    pos: KnownInt,
    held: Format,
    *,
    rows: int,
    parts: int,
    latent_dims: int,
) -> dict[str, Sram]:
    """Writes the new token's latent and turned key, as `append_coded` does a key and a value.

    Args:
      cache: `k` `[dims, slots]`, and its scales `[2, slots]`: of latents, and of turned keys.
      key: float32 `[dims]`, the latent's elements first.
      pos, held, rows: as `append_coded` takes them.
      parts: columns that hold a latent together.
      latent_dims: elements of the latent.
    """
    (dims,) = key.shape
    places = (0, latent_dims), (latent_dims, dims)
    size = sram_tile(shape=(1, dims), dtype="float32")
    size = vector_of_one_live(size, key.reshape(1, dims), jnp.int32(dims), op="abs")
    greatest = sram_tile(shape=(2,), dtype="float32")
    for place, (begin, end) in enumerate(places):
        own = lax.slice_in_dim(size, begin, end, axis=1)
        count = jnp.int32(end - begin)
        greatest = fold.at[place : place + 1](greatest, own, count, op="max")
    scales, inverse = scales_of(greatest, held, parts)
    quotients = sram_tile(shape=(dims,), dtype="float32")
    for place, (begin, end) in enumerate(places):
        own = lax.slice_in_dim(key, begin, end)
        factor = lax.slice_in_dim(inverse, place, place + 1)
        quotients = vector_scale.at[begin:end](quotients, own, factor)
    codes = narrow(sram_tile(shape=(dims,), dtype=held.element), quotients)

    def write(
        old: dict[str, Sram], codes: Sram, scales: Sram, slot: KnownInt
    ) -> dict[str, Sram]:
        of_scales = SCALES["k"]
        return {
            "k": copy_into(old["k"], codes.reshape(dims, 1), slot, axis=1),
            of_scales: copy_into(old[of_scales], scales.reshape(2, 1), slot, axis=1),
        }

    slot = lax.div(pos, jnp.int32(rows))
    is_mine = lax.rem(pos, jnp.int32(rows)) == lax.axis_index("row")
    return lax.cond(is_mine, write, unchanged, cache, codes, scales, slot)


def scales_of(greatest: Sram, held: Format, parts: int) -> tuple[Sram, Sram]:
    """Scales of two vectors that a group's columns hold, and their inverses, float32 `[2]` each.

    Args:
      greatest: float32 `[2]`, the largest magnitude of each on this column; overwritten.
      held: the format.
      parts: columns of a group.
    """
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
    return scales, reciprocal(sram_tile(shape=(2,), dtype="float32"), scales)


def append_cycles(elements: int, held: Format, device: Device) -> float:
    """Rough cycles of bringing so many elements of a token into codes, but for the exchange."""
    whole = float(vector_cycles(device, elements, SINGLE))
    divisions = 4 * SCALAR_CYCLES["div"](device)
    folded = elements * device.fold_cycles
    narrowed = narrow_cycles(device, held.element, elements)
    return 2 * whole + folded + divisions + narrowed


__all__ = ["append_coded", "append_coded_latent", "append_cycles", "append_microscaled"]
