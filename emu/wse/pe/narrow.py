"""Float32 numbers as codes of 8 bits: scalar code, a loop over the elements.

A PE has no operation that rounds to a byte. Of a number within the format's range the loop does

    int8            rounds to a whole number (4 simple operations, as `round` has them), compares it
                    with both ends, and puts it beside its neighbour in a word (2).
    float8_e4m3fn   takes the sign's bit to where a code has it (2) and away from the number (1);
                    compares with 2^-6, the least normal number. Above, it adds half of the last bit
                    kept, less one, and that bit itself, so that ties go to even (4), shifts by 20
                    and takes the difference of both biases away (2); below, it adds 1.5 * 2^14, in
                    whose last bits the code then is (2 and a mask). It compares with 0x7e, the
                    largest code, joins the sign (1), and puts it beside its neighbour (2).
    float8_e8m0fnu  takes the sign's bit away from the upper half-word (1), shifts that by 7 (1),
                    which leaves the exponent, and puts it beside its neighbour (2).

Sources of what a loop and an operation take: see `emu.wse.pe.elementwise.SCALAR_CYCLES`.
"""

from collections.abc import Mapping

import jax.numpy as jnp
from jax import lax

from emu import given, numerics
from emu.datasheet import Device
from emu.errors import WrongShape
from emu.instruction import Cost, Operand, instruction
from emu.tracing.jaxpr import caller
from emu.wse.pe.isa import SPACE, single
from emu.wse.pe.laws import on_datapath
from emu.wse.spaces import Sram

INT8_MOST = 127.0

# Simple operations, and comparisons with the branches that follow them, of an element.
_OPERATIONS: Mapping[str, tuple[int, int]] = {
    "int8": (4 + 2, 2),
    "float8_e4m3fn": (2 + 1 + 4 + 2 + 1 + 2, 2),
    "float8_e8m0fnu": (1 + 1 + 2, 0),
}


def narrow_cycles(device: Device, codes: str, n: int) -> float:
    """Cycles of making `n` float32 numbers codes."""
    simple, compared = _OPERATIONS[codes]
    each = device.loop_cycles + (simple + compared) * device.scalar_cycles
    return n * (each + compared * device.branch_cycles)


def _cost(device: Device, dst: Operand, x: Operand) -> Cost:
    return on_datapath(narrow_cycles(device, dst.dtype.name, x.size))


@instruction("wse.narrow", cost=_cost, reads=(SPACE,), writes=SPACE)
def narrow(dst: Sram, x: Sram) -> Sram:
    """Numbers as codes: rounded to the nearest, ties to even; beyond the format, its last one.

    Powers of two that a block of codes shares, float8_e8m0fnu, are those of magnitudes' exponents:
    of 5.0, 2^2.

    Args:
      dst: int8, float8_e4m3fn or float8_e8m0fnu; an int8 is -127 to 127.
      x: float32 of that shape.

    Raises:
      WrongShape: their shapes differ.
    """
    name = "wse.narrow"
    given.one_of(f"{name}: dtype of dst", dst.dtype.name, tuple(_OPERATIONS))
    given.one_of(f"{name}: dtype of x", x.dtype.name, ("float32",))
    if dst.shape != x.shape:
        told = f"{given.described(dst)} and {given.described(x)}"
        raise WrongShape(f"{name}: cannot take {told}: must be of one shape", caller())
    if dst.dtype == jnp.int8:
        return jnp.clip(jnp.rint(single(x)), -INT8_MOST, INT8_MOST).astype(jnp.int8)
    if dst.dtype == jnp.float8_e8m0fnu:
        bits = lax.bitcast_convert_type(single(x), jnp.uint32)
        exponents = ((bits >> 23) & jnp.uint32(0xFF)).astype(jnp.uint8)
        return lax.bitcast_convert_type(exponents, jnp.float8_e8m0fnu)
    return numerics.cast(single(x), dst.dtype)


__all__ = ["narrow", "narrow_cycles"]
