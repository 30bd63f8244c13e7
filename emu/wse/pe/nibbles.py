"""Numbers of 4 bits: four to a word of SRAM, made wide before arithmetic.

A row of n numbers takes W = ceil(n / 4) words. Word w holds number w in its lowest four bits, then
W + w, 2 W + w and 3 W + w: each of four vector operations then writes neighbours. Were word w's the
numbers 4 w to 4 w + 3, each would write elements that are 4 apart, a stride that takes a PE longer.
Of seven codes `a` to `g`

    word 0   a c e g        word 1   b d f -

A code comes to the top of a half-word by a shift to the left, 12 bits for the lowest; the highest
is there already. Then

    int4             a shift right by 12 with its sign, and a conversion of 16-bit integers.
    float4_e2m1fn    all but the top four bits cleared. That is s ee m 000000000000; shifted right
                     with its sign by 3 (float16) or 6 (bfloat16), all but the highest sign bit
                     cleared, it is the number times 2^-14 or 2^-126, the subnormal 0.5 included.
                     The last operation multiplies by the inverse.

The code 0xb is 1 01 1, -1.5. As a bfloat16 its bits are 1 00000001 1000000, -1.5 * 2^(1 - 127).

Operations, their widths and what is assumed of them: see `packed`. Strides: see
`emu.wse.pe.maps.strides_at_full_width`.
"""

from collections.abc import Mapping

import jax.numpy as jnp
import ml_dtypes
import numpy as np
from jax import lax

from emu import given
from emu.datasheet import Device
from emu.errors import WrongShape
from emu.instruction import Cost, Operand, instruction
from emu.numerics import FP4_VALUES
from emu.tracing.jaxpr import caller
from emu.wse.pe.isa import SPACE
from emu.wse.pe.laws import (
    HALF,
    MIXED,
    SINGLE,
    Count,
    Cycles,
    move_cycles,
    on_datapath,
    vector_cycles,
)
from emu.wse.spaces import Sram

NIBBLES = ("int4", "float4_e2m1fn")
"""What four bits may be."""

IN_A_WORD = 4

# Vector operations on words: shifts to the top, of which the highest code needs none; then of each
# code the shift down, or the clearing, which the lowest code's shift to the left has done.
_ON_WORDS: Mapping[str, int] = {"int4": 3 + 4, "float4_e2m1fn": 3 + 3}

HALVES, WIDENED, SINGLES, ZEROS = "halves", "widened", "singles", "zeros"

STEPS: Mapping[tuple[str, int], tuple[str, ...]] = {
    ("int4", 2): (HALVES,),
    ("int4", 4): (WIDENED,),
    ("float4_e2m1fn", 2): (HALVES, HALVES, HALVES),
    # A bfloat16 is the upper half of a float32, whose lower half is zero.
    ("float4_e2m1fn", 4): (ZEROS, HALVES, HALVES, SINGLES),
}
"""Vector operations on each code from a half-word with it at the top to so many bytes."""

_MOVED_BYTES: Mapping[str, tuple[int, int]] = {
    HALVES: (2, 2),
    WIDENED: (2, 4),
    SINGLES: (4, 4),
    ZEROS: (0, 4),
}
"""Bytes that are read and written for each code."""


def words_of(n: int) -> int:
    """Words of a row of `n` numbers: 7 take 2."""
    return -(-n // IN_A_WORD)


def widen_nibbles_cycles(
    device: Device, codes: str, nbytes: int, words: Count, n: Count
) -> Cycles:
    """Cycles of making `n` codes, which lie in so many `words`, numbers of `nbytes` bytes each."""
    # The second operand is a number, and no descriptor's.
    cycles = _ON_WORDS[codes] * np.asarray(vector_cycles(device, words, HALF, 2))
    for step in STEPS[codes, nbytes]:
        if step == ZEROS:
            cycles = cycles + move_cycles(device, 4 * n, 1)
            continue
        kind = {HALVES: HALF, WIDENED: MIXED, SINGLES: SINGLE}[step]
        cycles = cycles + vector_cycles(device, n, kind, 2)
    return cycles


def pack_nibbles(codes: np.ndarray) -> np.ndarray:
    """Codes `[..., n]`, int8 of -8 to 7 or float4_e2m1fn, as words `uint16[..., ceil(n / 4)]`."""
    n = codes.shape[-1]
    width = words_of(n)
    if codes.dtype == ml_dtypes.float4_e2m1fn:
        bits = codes.view(np.uint8)
    else:
        bits = codes.astype(np.int8).view(np.uint8)
    missing = [(0, 0)] * (codes.ndim - 1) + [(0, IN_A_WORD * width - n)]
    padded = np.pad(bits & 0xF, missing).astype(np.uint16)
    by_place = padded.reshape(*codes.shape[:-1], IN_A_WORD, width)
    shifts = 4 * np.arange(IN_A_WORD, dtype=np.uint16)
    return np.bitwise_or.reduce(by_place << shifts[:, None], axis=-2).astype(np.uint16)


def _numbers(words: Sram, codes: str, n: int) -> Sram:
    """The first `n` numbers of rows of words `[k, words]`, float32 `[k, n]`."""
    shifts = 4 * jnp.arange(IN_A_WORD, dtype=jnp.uint16)
    nibbles = (words[:, None] >> shifts[None, :, None]) & jnp.uint16(0xF)
    nibbles = nibbles.reshape(words.shape[0], -1)[:, :n].astype(jnp.int32)
    if codes == "int4":
        # Of 0xf: 15 with the sign bit taken twice away, -1.
        return (nibbles - ((nibbles & 8) << 1)).astype(jnp.float32)
    # 0.5 by 0.5 up to 2, then by 1 and by 2: as bits of a float32, subnormal numbers apart.
    negative = nibbles >= 8
    size = nibbles & 7
    normal = ((size >> 1) + jnp.int32(126)) << 23 | (size & 1) << 22
    wide = lax.bitcast_convert_type(normal, jnp.float32)
    wide = jnp.where(size < 2, size.astype(jnp.float32) * FP4_VALUES[1], wide)
    return jnp.where(negative, -wide, wide)


def _cost(device: Device, dst: Operand, x: Operand, *, codes: str) -> Cost:
    n, nbytes = dst.size, dst.dtype.itemsize
    cycles = widen_nibbles_cycles(device, codes, nbytes, x.size, n)
    on_words = _ON_WORDS[codes] * x.nbytes
    steps = [_MOVED_BYTES[step] for step in STEPS[codes, nbytes]]
    moved = {
        "sram_read": on_words + n * sum(read for read, _ in steps),
        "sram_write": on_words + n * sum(written for _, written in steps),
    }
    flops = n if codes == "float4_e2m1fn" else 0
    return on_datapath(cycles, flops, moved_bytes=moved)


@instruction("wse.widen_nibbles", cost=_cost, reads=(SPACE,), writes=SPACE)
def widen_nibbles(dst: Sram, x: Sram, *, codes: str) -> Sram:
    """Codes of 4 bits as numbers, all of them exact.

    Args:
      dst: `[k, n]`, float32, float16 or bfloat16.
      x: words `uint16[k, ceil(n / 4)]`, as `pack_nibbles` makes them.
      codes: one of `NIBBLES`.

    Raises:
      WrongShape: these shapes do not go together.
    """
    name = "wse.widen_nibbles"
    given.one_of(f"{name}: codes", codes, NIBBLES)
    given.one_of(f"{name}: dtype of x", x.dtype.name, ("uint16",))
    floats = ("float32", "bfloat16", "float16")
    given.one_of(f"{name}: dtype of dst", dst.dtype.name, floats)
    agree = dst.ndim == x.ndim == 2 and x.shape == (
        dst.shape[0],
        words_of(dst.shape[1]),
    )
    if not agree:
        told = f"{given.described(dst)} and {given.described(x)}"
        raise WrongShape(
            f"{name}: cannot take {told}: must be [k, n] and [k, ceil(n / 4)]", caller()
        )
    return _numbers(x, codes, dst.shape[1]).astype(dst.dtype)


__all__ = [
    "NIBBLES",
    "pack_nibbles",
    "widen_nibbles",
    "widen_nibbles_cycles",
    "words_of",
]
