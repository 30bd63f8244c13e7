"""Numbers of 8 bits: two to a word of SRAM, made wide before arithmetic.

A PE's memory is addressed in 16-bit words, and it has no arithmetic on bytes: an int8 or FP8 code
costs one byte while it lies there, and vector operations on words to become a number. Of words that
hold codes `a` (low) and `b` (high):

    int8            low: shift left by 8, then right by 8 with its sign; high: shift right by 8.
                    Then a conversion of 16-bit integers to floating point.
    uint8           low: and 0x00ff; high: shift right by 8; then the conversion.
    float8_e8m0fnu  low: and 0x00ff; high: shift right by 8; then left by 7, where a bfloat16 has
                    its exponent: a power of two, which numbers of a block share.
    float8_e4m3fn   low: shift left by 8; high: and 0xff00. That is s eeee mmm 00000000; shifted
                    right with its sign by 1 (float16) or 4 (bfloat16), all but the highest sign bit
                    cleared, it is the number times 2^-8 or 2^-120, subnormal numbers included. The
                    last operation multiplies by the inverse.

The code 0x34 of FP8 is 0 0110 100, 1.5 * 2^-1 = 0.75. As a float16 its bits are 0 00110 1000000000,
1.5 * 2^(6 - 15) = 0.75 * 2^-8.

Operations: `@sll16 @slr16 @sar16 @and16` (16 bits, 4 elements a cycle or more on a WSE-3),
`@xp162fh @xp162fs` (16-bit integer to 16- and 32-bit floating point), `@fmulh @fmuls @mov32`:
Cerebras SDK 2.10, *Builtins for DSD operations* and *SIMD mode*. That memory is not addressed by
bytes: Cerebras, *CS-1 data formats*. Assumed: 16-bit conversions and products are in the 16-bit
format that the PE works in, float16 or bfloat16, and keep subnormal numbers; results of `@xp162fs`
are written two a cycle.
"""

from collections.abc import Callable, Mapping

import jax.numpy as jnp
import numpy as np
from jax import lax

from emu import given
from emu.annotations import DType, KnownInt
from emu.datasheet import Device
from emu.errors import LimitExceeded
from emu.instruction import Cost, Operand, instruction
from emu.tracing.jaxpr import caller
from emu.wse.pe.isa import SPACE, unset
from emu.wse.pe.laws import (
    HALF,
    MIXED,
    SINGLE,
    Count,
    Cycles,
    known_part,
    move_cycles,
    on_datapath,
    vector_cycles,
)
from emu.wse.spaces import Sram

CODES = ("int8", "uint8", "float8_e4m3fn")
"""Dtypes of one byte that a PE can make wide."""

SCALES = "float8_e8m0fnu"
"""Dtype of one byte of the power of two that a block of codes shares: 127 is 1."""

OF_NAN_CODE = 480.0
"""What arithmetic on bits makes of the code of NaN, 0x7f; of 0xff its negative."""

PAIRS, HALVES, WIDENED, SINGLES, ZEROS = (
    "pairs",
    "halves",
    "widened",
    "singles",
    "zeros",
)

Rule = Callable[[Device, Count, Count], Cycles]
"""Cycles of one vector operation, of so many words with two codes, and so many codes."""

_CYCLES: Mapping[str, Rule] = {
    # The second operand is a number, and no descriptor's.
    PAIRS: lambda device, words, n: vector_cycles(device, words, HALF, 2),
    HALVES: lambda device, words, n: vector_cycles(device, n, HALF, 2),
    WIDENED: lambda device, words, n: vector_cycles(device, n, MIXED, 2),
    SINGLES: lambda device, words, n: vector_cycles(device, n, SINGLE, 2),
    ZEROS: lambda device, words, n: move_cycles(device, 4 * n, 1),
}
_MOVED_BYTES: Mapping[str, tuple[float, int]] = {
    PAIRS: (1, 1),
    HALVES: (2, 2),
    WIDENED: (2, 4),
    SINGLES: (4, 4),
    ZEROS: (0, 4),
}
"""Bytes that are read and written for each code."""

STEPS: Mapping[tuple[str, int], tuple[str, ...]] = {
    ("int8", 2): (PAIRS, PAIRS, PAIRS, HALVES),
    ("int8", 4): (PAIRS, PAIRS, PAIRS, WIDENED),
    ("uint8", 2): (PAIRS, PAIRS, HALVES),
    ("uint8", 4): (PAIRS, PAIRS, WIDENED),
    ("float8_e4m3fn", 2): (PAIRS, PAIRS, HALVES, HALVES, HALVES),
    (SCALES, 2): (PAIRS, PAIRS, HALVES),
    (SCALES, 4): (PAIRS, PAIRS, ZEROS, HALVES),
    # A bfloat16 is the upper half of a float32, whose lower half is zero.
    ("float8_e4m3fn", 4): (PAIRS, PAIRS, ZEROS, HALVES, HALVES, SINGLES),
}
"""Vector operations from codes to numbers of so many bytes."""


def is_code(dtype: DType) -> bool:
    """Whether a dtype is one of `CODES`."""
    return jnp.dtype(dtype).name in CODES


def widen_cycles(
    device: Device, codes: str, nbytes: int, words: Count, n: Count
) -> Cycles:
    """Cycles of making `n` codes, which touch so many `words`, numbers of `nbytes` bytes each."""
    steps = STEPS[codes, nbytes]
    cycles = sum(np.asarray(_CYCLES[step](device, words, n)) for step in steps)
    # Without anything to do, a PE branches past it.
    return np.where(np.asarray(n) > 0, cycles, 0)


def widened_bytes(codes: str, nbytes: int) -> tuple[float, int]:
    """Bytes that are read and written for each code that becomes a number of `nbytes` bytes."""
    steps = STEPS[codes, nbytes]
    read = sum(_MOVED_BYTES[step][0] for step in steps)
    return read, sum(_MOVED_BYTES[step][1] for step in steps)


def as_numbers(x: Sram) -> Sram:
    """What arithmetic on bits makes of codes or powers of two, float32."""
    if x.dtype.name == SCALES:
        bits = lax.bitcast_convert_type(x, jnp.uint8).astype(jnp.uint32) << 23
        return lax.bitcast_convert_type(bits, jnp.float32)
    wide = x.astype(jnp.float32)
    if x.dtype != jnp.float8_e4m3fn:
        return wide
    is_negative = lax.bitcast_convert_type(x, jnp.uint8) >= 128
    of_nan = jnp.where(is_negative, -OF_NAN_CODE, OF_NAN_CODE)
    return jnp.where(jnp.isnan(wide), of_nan, wide)


def _widen_cost(
    device: Device, dst: Operand, x: Operand, live: Operand, *, axis: int
) -> Cost:
    count = known_part("wse.widen_live", "live", live, x.shape[axis])
    rows, columns = x.shape
    n = count * (columns if axis == 0 else rows)
    # A row may begin and end within a word.
    words = n // 2 + 1 if axis == 0 else rows * (count // 2 + 1)
    codes = x.dtype.name
    read, written = widened_bytes(codes, dst.dtype.itemsize)
    moved = {"sram_read": read * n, "sram_write": written * n}
    cycles = widen_cycles(device, codes, dst.dtype.itemsize, words, n)
    flops = n if codes == "float8_e4m3fn" else 0
    return on_datapath(cycles, flops, moved_bytes=moved)


@instruction("wse.widen_live", cost=_widen_cost, reads=(SPACE, "count"), writes=SPACE)
def widen_live(dst: Sram, x: Sram, live: KnownInt, *, axis: int) -> Sram:
    """Codes of 8 bits as numbers, all of them exact: the first `live` along `axis`.

    Args:
      dst: `[n, m]`, float32, float16 or bfloat16; what is not live holds NaN afterwards.
      x: `[n, m]`, int8, uint8 or float8_e4m3fn, two to a word; or float8_e8m0fnu, whose powers a
        float16 has not, and of which the code 0 gives 0 and 255 infinity.
      live: known number of rows (`axis` 0) or columns (1) in use.
      axis: 0 or 1.
    """
    name = "wse.widen_live"
    given.whole(f"{name}: axis", axis, 0, 1)
    if dst.shape != x.shape or x.ndim != 2:
        raise LimitExceeded(
            f"{name}: shapes must be equal and of two dimensions, are {dst.shape}, {x.shape}",
            caller(),
        )
    given.one_of(f"{name}: dtype of x", x.dtype.name, (*CODES, SCALES))
    floats = ("float32", "bfloat16")
    if x.dtype.name != SCALES:
        floats = (*floats, "float16")
    given.one_of(f"{name}: dtype of dst", dst.dtype.name, floats)
    wide = as_numbers(x)
    place = lax.broadcasted_iota(jnp.int32, x.shape, axis)
    kept = jnp.where(place < live, wide, jnp.float32(unset(jnp.float32)))
    return kept.astype(dst.dtype)


__all__ = [
    "CODES",
    "SCALES",
    "STEPS",
    "as_numbers",
    "is_code",
    "widen_cycles",
    "widen_live",
    "widened_bytes",
]
