"""Multiply-adds on one of many resident tiles, which a number in SRAM chooses: an expert's GEMV.

The tiles lie one behind the other, so a PE multiplies the number by a tile's length, adds the
address of the first and writes that to the descriptor of a hardware loop (`maps`). Which tile it is
costs nothing but these few instructions, and no data move.
"""

import jax.numpy as jnp

from emu import given
from emu.annotations import KnownInt
from emu.datasheet import Device
from emu.errors import WrongShape
from emu.instruction import Cost, Operand, instruction
from emu.tracing.jaxpr import caller
from emu.wse.pe.isa import SPACE, product
from emu.wse.pe.laws import (
    Cycles,
    map_cycles,
    move_cycles,
    on_datapath,
    precision,
)
from emu.wse.pe.maps import accumulate
from emu.wse.spaces import Sram

WORD_BYTES = 2
"""Of what a PE's memory is addressed by."""


def _address_cycles(device: Device, at: Operand) -> Cycles:
    """Kept within the tiles, and its address; a number held as a float is converted first."""
    simple = 4 + (at.dtype != jnp.dtype("int32"))
    return simple * device.scalar_cycles


def _places(at: Sram, tiles: int) -> Sram:
    """Which tile each number chooses; of those beyond, the nearest."""
    whole = jnp.nan_to_num(at) if jnp.issubdtype(at.dtype, jnp.floating) else at
    return jnp.clip(whole.astype(jnp.int32), 0, tiles - 1)


def _cost(device: Device, dst: Operand, w: Operand, x: Operand, at: Operand) -> Cost:
    kind = precision(dst.dtype, w.dtype, x.dtype)
    _, inputs, outputs = w.shape
    each = _address_cycles(device, at) + map_cycles(device, inputs, outputs, kind)
    products = at.size * inputs * outputs
    moved = {
        "sram_read": products * w.dtype.itemsize + x.nbytes + at.nbytes,
        "sram_write": dst.nbytes,
    }
    return on_datapath(at.size * each, 2 * products, moved_bytes=moved)


@instruction(
    "wse.chosen_map",
    cost=_cost,
    reads=(SPACE, SPACE, SPACE),
    writes=SPACE,
    reads_destination=True,
    adds=True,
)
def chosen_map(dst: Sram, w: Sram, x: Sram, at: Sram) -> Sram:
    """`dst[j] += x @ w[at[j]]` for each j: a loop of k callbacks of length n.

    With `dst` `[n]` all loops add to it, in turn, each with its own row of `x`: `dst += x[j] @
    w[at[j]]`. Three of 256 experts, 7 features in a PE, 4 of each expert's: `dst` `[3, 4]`, `w`
    `[256, 7, 4]`, `x` `[7]`; and back, `dst` `[7]`, `w` `[256, 4, 7]`, `x` `[3, 4]`.

    Args:
      dst: `[m, n]` or `[n]`; float32 for 16-bit weights is the mixed-precision multiply-add.
      w: `[tiles, k, n]`.
      x: `[k]` for `dst` `[m, n]`, and `[m, k]` for `[n]`.
      at: `[m]`, which tile, whole numbers as int32 or float32; beyond them the nearest is taken.

    Raises:
      WrongShape: these shapes do not go together.
    """
    loops = at.shape
    shapes = (*loops, w.shape[-1]), w.shape[1:2]
    of_each = dst.ndim == 2
    fits = w.ndim == 3 and len(loops) == 1
    if of_each:
        fits = fits and (dst.shape, x.shape) == shapes
    else:
        fits = fits and (dst.shape, x.shape) == (w.shape[-1:], (*loops, *w.shape[1:2]))
    if not fits:
        told = ", ".join(given.described(operand) for operand in (dst, w, x, at))
        raise WrongShape(
            f"wse.chosen_map: cannot take {told}: must be [m, n], [tiles, k, n], [k], [m] or [n], "
            "[tiles, k, n], [m, k], [m]",
            caller(),
        )
    chosen = w[_places(at, w.shape[0])]
    if of_each:

        def term(k: KnownInt) -> Sram:
            return product(x[k], chosen[:, k])

        return accumulate(dst, x.shape[0], term)

    inputs = x.shape[1]
    flat = chosen.reshape(-1, w.shape[-1])
    scalars = x.reshape(-1)

    def term_of_all(k: KnownInt) -> Sram:
        return product(scalars[k], flat[k])

    return accumulate(dst, loops[0] * inputs, term_of_all)


def _copy_cost(
    device: Device, dst: Operand, x: Operand, at: Operand, *, axis: int
) -> Cost:
    tile_bytes = x.nbytes // x.shape[0]
    each = _address_cycles(device, at) + move_cycles(device, tile_bytes)
    moved = {"sram_read": at.size * tile_bytes + at.nbytes, "sram_write": dst.nbytes}
    return on_datapath(at.size * each, moved_bytes=moved)


@instruction("wse.copy_chosen", cost=_copy_cost, reads=(SPACE, SPACE), writes=SPACE)
def copy_chosen(dst: Sram, x: Sram, at: Sram, *, axis: int) -> Sram:
    """Copies chosen tiles, one below the other or side by side: an expert's codes and scales.

    What is made wide before it is multiplied, see `packed`, is so by vector operations of some
    cycles each, whose set-up several tiles in a row then share. Of tiles `a b c` of two rows each,
    chosen 2 and 0

        axis 0   c0      axis 1   c0 a0
                 c1               c1 a1
                 a0
                 a1

    Args:
      dst: `[m * k, n]` with `axis` 0, `[k, m * n]` with 1; of the dtype of `x`.
      x: `[tiles, k, n]`, of any dtype whose rows are whole words of 16 bits.
      at: `[m]`, which tile, as `chosen_map` takes it.
      axis: 0 or 1.

    Raises:
      WrongShape: these shapes do not go together, or a row of `x` is no whole number of words.
    """
    name = "wse.copy_chosen"
    given.whole(f"{name}: axis", axis, 0, 1)
    fits = x.ndim == 3 and at.ndim == 1 and dst.dtype == x.dtype
    if fits:
        _, rows, columns = x.shape
        m = at.shape[0]
        fits = dst.shape == ((m * rows, columns) if axis == 0 else (rows, m * columns))
    if not fits:
        told = ", ".join(given.described(operand) for operand in (dst, x, at))
        raise WrongShape(
            f"{name}: cannot take {told}: must be [m * k, n] or [k, m * n], [tiles, k, n], [m], "
            "the first two of one dtype",
            caller(),
        )
    if x.shape[2] * x.dtype.itemsize % WORD_BYTES:
        raise WrongShape(
            f"{name}: rows of {given.described(x)} must be whole words of {WORD_BYTES} bytes, by "
            "which a PE's memory is addressed",
            caller(),
        )
    chosen = x[_places(at, x.shape[0])]
    if axis == 1:
        chosen = jnp.swapaxes(chosen, 0, 1)
    return chosen.reshape(dst.shape)


__all__ = ["chosen_map", "copy_chosen"]
