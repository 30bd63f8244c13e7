"""Numbers into a format's elements and scales, and what those stand for."""

import functools
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from numpy.typing import ArrayLike

from emu import numerics
from kernels.formats.formats import POWER_OF_TWO, Format


class Coded(NamedTuple):
    """A matrix, or several, in a format.

    Attributes:
      elements: `[..., K, N]` in the format's dtype, not packed: an int4 or MXFP4 element has a byte
        of its own here.
      scales: `[..., blocks down, blocks across]`: float32, or for powers of two uint8 with a bias
        of 127, as `emu.numerics.mx_quantize` has them; None where the format has none.
    """

    elements: jax.Array
    scales: jax.Array | None


@functools.partial(jax.jit, static_argnums=1)
def coded(numbers: ArrayLike, held: Format) -> Coded:
    """Numbers `[..., K, N]` in a format; each rounded to the nearest, ties to even.

    A block's scale takes its largest magnitude to the format's largest number: of a column whose
    largest is 3.5, FP8 has the scale 3.5 / 448 = 2**-7. Powers of two are those of the
    specification's sample conversion, doubled so that the largest magnitude rounds rather than
    saturates: of 8 bits always, as Trainium3 quantises, of 4 where it would saturate. So MXFP4 of
    numbers that are in MXFP4 already, as a checkpoint's, is those numbers: with a largest of 4 the
    scale is 1 and 0.5 is kept, which beside a scale of 2 would be no number of the format. See
    `emu.numerics.mx_quantize`.

    Args:
      numbers: any float dtype that float32 holds; traced ones too.
      held: the format.
    """
    wide = jnp.asarray(numbers, jnp.float32)
    if held.block is None:
        return Coded(_rounded(wide, held), None)
    if held.scale == POWER_OF_TWO:
        return _microscaled(wide, held)
    blocked = _in_blocks(wide, held)
    greatest = jnp.abs(blocked).max((-3, -1))
    # Of nothing but zeros any scale will do.
    filled = numerics.quotient(greatest, held.greatest)
    scales = jnp.where(greatest > 0, filled, 1)
    quotients = numerics.quotient(wide, spread(scales, wide.shape[-2:], held))
    return Coded(_rounded(quotients, held), scales)


@functools.partial(jax.jit, static_argnums=1)
def numbers(given: Coded, held: Format) -> jax.Array:
    """What elements and scales stand for, float32 `[..., K, N]`; each product is rounded once."""
    elements = jnp.asarray(given.elements).astype(jnp.float32)
    if given.scales is None:
        return elements
    scales = jnp.asarray(given.scales)
    if held.scale == POWER_OF_TWO:
        scales = jnp.ldexp(jnp.float32(1), scales.astype(jnp.int32) - 127)
    return elements * spread(scales, elements.shape[-2:], held)


def as_held(given: ArrayLike, held: Format) -> jax.Array:
    """The numbers that a format makes of numbers: `numbers` of `coded`."""
    return numbers(coded(given, held), held)


def _rounded(wide: jax.Array, held: Format) -> jax.Array:
    # A product of a scale and its block's largest may be rounded past the format's end, where a
    # cast has NaN or the other sign.
    within = wide
    if held.element_bits <= 8:
        within = jnp.clip(wide, -held.greatest, held.greatest)
    if held.element.startswith("int"):
        return jnp.rint(within).astype(jnp.int8)
    return within.astype(jnp.dtype(held.element))


def _microscaled(wide: jax.Array, held: Format) -> Coded:
    """Blocks of consecutive rows of one column, as `nc_matmul_mx` takes them."""
    assert held.block is not None
    group, across = held.block
    assert group == numerics.GROUP and across == 1
    *others, rows, columns = wide.shape
    missing = -rows % group
    padded = jnp.pad(wide, [(0, 0)] * len(others) + [(0, missing), (0, 0)])
    filled = rows + missing
    # Not by -1, which nothing can be inferred for where there are no matrices.
    shape = (*others, columns, filled // group, group)
    turned = jnp.swapaxes(padded, -1, -2).reshape(shape)
    headroom: int | jax.Array = 1
    if held.element_bits == 4:
        # Of what a scale of the largest's own exponent leaves of it: 0.75 of 6, 0.5 of 4.
        fraction, _ = jnp.frexp(jnp.abs(turned).max(-1))
        most, _ = math.frexp(held.greatest)
        headroom = (fraction > most).astype(jnp.int32)
    elements, scales = numerics.mx_quantize(turned, held.element, headroom=headroom)
    flat = elements.reshape(*others, columns, filled)
    return Coded(
        jnp.swapaxes(flat, -1, -2)[..., :rows, :], jnp.swapaxes(scales, -1, -2)
    )


def _in_blocks(wide: jax.Array, held: Format) -> jax.Array:
    """`[..., blocks down, rows of one, blocks across, columns of one]`, filled up by zeros."""
    assert held.block is not None
    *others, rows, columns = wide.shape
    down, across = (
        size or whole for size, whole in zip(held.block, (rows, columns), strict=True)
    )
    missing = [(0, 0)] * len(others) + [(0, -rows % down), (0, -columns % across)]
    padded = jnp.pad(wide, missing)
    high, broad = held.blocks(rows, columns)
    return padded.reshape(*others, high, down, broad, across)


def spread(scales: jax.Array, shape: tuple[int, ...], held: Format) -> jax.Array:
    """A scale for each element of `[..., rows, columns]`, of scales as `Coded` has them."""
    assert held.block is not None
    rows, columns = shape
    down, across = held.block
    by_row = jnp.repeat(scales, down or rows, axis=-2)[..., :rows, :]
    return jnp.repeat(by_row, across or columns, axis=-1)[..., :columns]


__all__ = ["Coded", "as_held", "coded", "numbers", "spread"]
