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
from emu.wse.pe.laws import Cycles, map_cycles, on_datapath, precision
from emu.wse.pe.maps import accumulate
from emu.wse.pe.packed import CODES, as_numbers, widen_cycles, widened_bytes
from emu.wse.spaces import Sram


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


def _widen_cost(device: Device, dst: Operand, codes: Operand, at: Operand) -> Cost:
    each = codes.size // codes.shape[0]
    n = at.size * each
    kind, nbytes = codes.dtype.name, dst.dtype.itemsize
    # A tile may begin and end within a word.
    of_tile = widen_cycles(device, kind, nbytes, each // 2 + 1, each)
    cycles = at.size * (_address_cycles(device, at) + of_tile)
    read, written = widened_bytes(kind, nbytes)
    moved = {"sram_read": read * n + at.nbytes, "sram_write": written * n}
    flops = n if kind == "float8_e4m3fn" else 0
    return on_datapath(cycles, flops, moved_bytes=moved)


@instruction(
    "wse.widen_chosen",
    cost=_widen_cost,
    reads=(SPACE, SPACE),
    writes=SPACE,
)
def widen_chosen(dst: Sram, codes: Sram, at: Sram) -> Sram:
    """Chosen tiles of codes of 8 bits as numbers, all of them exact, see `packed`.

    Args:
      dst: `[m, k, n]`, float32, float16 or bfloat16.
      codes: `[tiles, k, n]`, int8, uint8 or float8_e4m3fn, two to a word.
      at: `[m]`, which tile, as `chosen_map` takes it.

    Raises:
      WrongShape: these shapes do not go together.
    """
    name = "wse.widen_chosen"
    given.one_of(f"{name}: dtype of codes", codes.dtype.name, CODES)
    given.one_of(
        f"{name}: dtype of dst", dst.dtype.name, ("float32", "bfloat16", "float16")
    )
    if at.ndim != 1 or codes.ndim != 3 or dst.shape != (*at.shape, *codes.shape[1:]):
        told = ", ".join(given.described(operand) for operand in (dst, codes, at))
        raise WrongShape(
            f"{name}: cannot take {told}: must be [m, k, n], [tiles, k, n], [m]",
            caller(),
        )
    return as_numbers(codes[_places(at, codes.shape[0])]).astype(dst.dtype)


__all__ = ["chosen_map", "widen_chosen"]
