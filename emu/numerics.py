"""Rounding to tiles' formats, FP8 and OCP microscaling (MX) among them, and how far results differ.

A conversion to FP8 or MX rounds to the nearest value, ties to even, and saturates: what leaves the
format's range gives its largest value, where a plain cast gives NaN (E4M3 has no infinity). An MX
group is 32 elements that share one E8M0 scale, a power of two stored as `exponent + 127`; 255 is
NaN.

Source: OCP Microscaling Formats (MX) Specification 1.0.
"""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from emu.annotations import DType

ROUNDED = "rounded"  # what a jaxpr calls the function of this name
GROUP = 32  # elements that share a scale
SCALE_NAN = 255
MANTISSA_BITS = 23  # of float32
FP4_VALUES = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0)  # by code; bit 3 is the sign


def cast(x: jax.Array, dtype: DType) -> jax.Array:
    """`x` in `dtype`: as `astype`, but formats narrower than 16 bits saturate instead of NaN."""
    dtype = jnp.dtype(dtype)
    narrow = jnp.issubdtype(dtype, jnp.floating) and dtype.itemsize == 1
    if dtype == x.dtype or not narrow:
        return x.astype(dtype)
    # A plain cast makes NaN of 1e6 in E4M3 and infinity in E5M2; clipped first, it is 448
    # or 57,344. NaN passes the clip as NaN.
    largest = float(jnp.finfo(dtype).max)
    wide = x.astype(jnp.float32)
    return lax.min(lax.max(wide, -largest), largest).astype(dtype)


@jax.jit
def rounded(x: jax.Array) -> jax.Array:
    """`x` itself, such that XLA computes it as it is written: each operation rounded to its dtype.

    A machine writes every result to a tile. XLA sees one expression and improves it, which on a CPU
    no compiler option forbids. In float32, `x · y + z` becomes a multiply-add that rounds once: of
    1 + 2**-12 squared less 1 it has 2**-11 + 2**-24, where the rounded product, 1 + 2**-11, leaves
    2**-11. `(x + 1e8) - 1e8` becomes `x` (JAX 0.10), where adding 1e8 has rounded `x` to eights;
    `1 / (1 / x)` becomes `x`, and `y / (z / x)` a product.

    Every value is kept, -0.0, infinities and subnormals too; of a NaN, only that it is one. As XLA
    does not know that the comparison fails for NaN alone, it sees a choice there, past which it
    does not look (`lax.optimization_barrier` holds from JAX 0.12 on only, `lax.reduce_precision`
    on neither version). Narrower floats and integers are left alone: a conversion rounds.
    """
    if not is_wide(x.dtype):
        return x
    return lax.select(x == x, x, lax.full_like(x, math.nan))


def is_wide(dtype: DType) -> bool:
    """Whether it is float32 or float64: results of these are not rounded by a conversion."""
    return jnp.issubdtype(dtype, jnp.floating) and jnp.dtype(dtype).itemsize >= 4


def quotient(x: jax.Array, divisor: float | jax.Array) -> jax.Array:
    """`x / divisor`, rounded, where XLA multiplies by the inverse: 3 · (1 / 7) is 0.42857146.

    XLA does so with a constant, and with what many elements share.
    """
    # What depends on `x` is neither. A NaN stays NaN.
    each = jnp.broadcast_to(jnp.asarray(divisor, x.dtype), x.shape)
    return rounded(x / lax.select(x == x, each, x))


def largest(
    x: jax.Array, axis: int | tuple[int, ...], keepdims: bool = False
) -> jax.Array:
    """The maximum along some axes; NaN where any is, which XLA's own loses on a CPU.

    Of 256 ones and 256 NaN in float32 `jnp.max` gives -inf there (JAX 0.10 and 0.12).
    """
    return _with_nan(x, jnp.max(x, axis, keepdims=keepdims), axis, keepdims)


def smallest(
    x: jax.Array, axis: int | tuple[int, ...], keepdims: bool = False
) -> jax.Array:
    """The minimum along some axes; NaN where any is."""
    return _with_nan(x, jnp.min(x, axis, keepdims=keepdims), axis, keepdims)


def _with_nan(
    x: jax.Array, found: jax.Array, axis: int | tuple[int, ...], keepdims: bool
) -> jax.Array:
    if not jnp.issubdtype(x.dtype, jnp.floating):
        return found
    has_nan = jnp.any(lax.ne(x, x), axis, keepdims=keepdims)
    return lax.select(has_nan, lax.full_like(found, math.nan), found)


def mx_quantize(
    x: jax.Array, dtype: DType, *, headroom: int | jax.Array = 0
) -> tuple[jax.Array, jax.Array]:
    """Rounds groups to MX: elements in `dtype` and one scale a group.

    The scale is two to the exponent of the largest magnitude, less that of the format's largest
    value, plus `headroom`. Groups with an infinity or a NaN get the scale NaN; one of zeros gets
    the least.

    In a group whose largest magnitude is 5.0, of exponent 2, E4M3 (largest 448, exponent 8) gets
    the scale `2**(2 - 8)`, stored as 121: 5.0 is kept as 320, and 0.1 as 6.4, which rounds to 6.5.

    Args:
      x: `[..., group, 32]`, any float dtype that float32 holds.
      dtype: float8_e4m3fn or float8_e5m2 (MXFP8), or float4_e2m1fn (MXFP4).
      headroom: 0 as in the specification's sample conversion, in which values over the format's
        largest saturate; 1 doubles the scale, which leaves room to round them. One for all, or
        `[..., group]`.

    Returns:
      Elements `dtype[..., group, 32]` and scales `uint8[..., group]`.
    """
    wide = x.astype(jnp.float32)
    highest = largest(lax.abs(wide), -1)
    # The float's own exponent bits, without a sign: biased by 127, like the scale.
    bits = lax.bitcast_convert_type(highest, jnp.int32)
    exponent = lax.shift_right_arithmetic(bits, MANTISSA_BITS)
    # Both biased by 127, so the bias stays: 129 (of 5.0) - 8 is 121, which stands for 2**-6.
    unclipped = exponent - _exponent_of_largest(dtype) + headroom
    scale = lax.min(lax.max(unclipped, 0), SCALE_NAN - 1)
    finite = lax.lt(exponent, 255)
    # The inverse scale is a normal float32 for every finite group, so the product is exact.
    # The largest finite exponent, 254, in MXFP4 (whose 6 has exponent 2) with headroom 1 gives the
    # scale 254 - 2 + 1 = 253. Above that is only NaN.
    inverse = _power_of_two(127 - lax.min(scale, 253))
    # Beside a scale of NaN the elements do not count; zeros keep them from depending on a cast.
    kept = lax.select(_of_each(finite, wide), wide, lax.full_like(wide, 0))
    elements = cast(kept * _of_each(inverse, wide), dtype)
    scales = lax.select(finite, scale, lax.full_like(scale, SCALE_NAN))
    return elements, scales.astype(jnp.uint8)


def _of_each(of_groups: jax.Array, elements: jax.Array) -> jax.Array:
    """What groups have, `[...]`, for each of their elements, `[..., 32]`."""
    return lax.broadcast_in_dim(of_groups, elements.shape, range(of_groups.ndim))


def mx_dequantize(elements: jax.Array, scale: jax.Array) -> jax.Array:
    """`elements · 2**(scale - 127)` in float32; results under 2**-126 flush to zero.

    The power is multiplied in two halves, because the least scale, 2**-127, is no normal float32
    and a CPU takes it for zero: `448 · 2**-64 · 2**-63` is 2.6e-36 all the same.

    Args:
      elements: `[..., group, 32]` in any element format.
      scale: `uint8[..., group]`.
    """
    exponent = lax.sub(scale.astype(jnp.int32), 127)
    # Rounded down: -127 is -64 and -63, both of them normal exponents of float32.
    first = lax.shift_right_arithmetic(exponent, 1)
    second = lax.sub(exponent, first)
    value = elements.astype(jnp.float32)
    for half in (first, second):
        value = value * _of_each(_power_of_two(half), value)
    is_nan = _of_each(lax.eq(scale, np.uint8(SCALE_NAN)), value)
    return lax.select(is_nan, lax.full_like(value, math.nan), value)


def _power_of_two(exponent: jax.Array) -> jax.Array:
    """`2.0**exponent` in float32, from -126 to 127: the exponent's own bits."""
    bits = lax.shift_left(lax.add(exponent, 127), MANTISSA_BITS)
    return lax.bitcast_convert_type(bits, jnp.float32)


def scale_value(scale: jax.Array) -> jax.Array:
    """The float32 value of E8M0 scales: `uint8` to `2**(scale - 127)`, NaN for 255."""
    powers = lax.bitcast_convert_type(scale, jnp.float8_e8m0fnu)
    return powers.astype(jnp.float32)


def _exponent_of_largest(dtype: DType) -> int:
    """Of E4M3, whose largest value is 448 = 1.75 * 2**8, it is 8."""
    largest = float(jnp.finfo(dtype).max)
    _, exponent = math.frexp(largest)
    return exponent - 1  # `frexp` has 0.875 * 2**9


def fp4_pack(elements: jax.Array) -> jax.Array:
    """MXFP4 elements, two to a byte, the first in the low half: `[..., 2n]` to `uint8[..., n]`."""
    values = elements.astype(jnp.float32)
    table = jnp.asarray(FP4_VALUES, jnp.float32)
    # Elements are values of the table itself, so the first place that is not less is their own: 1.5
    # is code 3. The sign is a bit apart, and -0.0 is code 8.
    magnitude = jnp.searchsorted(table, jnp.abs(values)).astype(jnp.uint8)
    sign = jnp.signbit(values).astype(jnp.uint8)
    code = magnitude | (sign << 3)
    pairs = code.reshape(*code.shape[:-1], -1, 2)
    first, second = pairs[..., 0], pairs[..., 1]
    return first | (second << 4)


def fp4_unpack(packed: jax.Array) -> jax.Array:
    """The values of packed MXFP4 elements: `uint8[..., n]` to `float32[..., 2n]`."""
    codes = jnp.stack([packed & 15, packed >> 4], axis=-1)
    negative = [-value for value in FP4_VALUES]
    table = jnp.asarray([*FP4_VALUES, *negative], jnp.float32)
    return table[codes].reshape(*packed.shape[:-1], -1)


# --- errors ---


@dataclasses.dataclass(frozen=True)
class Errors:
    """How far a result is from what was expected; infinite where only one of them is NaN.

    Attributes:
      absolute: largest difference.
      relative: largest difference over the expected magnitude, where that is not zero.
      norm: Euclidean norm of the differences over that of the expected values.
      ulp: largest difference in units in the last place of the result's format.
    """

    absolute: float
    relative: float
    norm: float
    ulp: float


def ulp(x: np.ndarray | float, dtype: DType) -> np.ndarray:
    """The distance between neighbouring values of `dtype` at `x`, in float64.

    Example: bfloat16 has 7 bits of fraction, so from 1.0 to 2.0 its values are 2**-7 apart.
    """
    info = jnp.finfo(dtype)
    magnitude = np.abs(np.asarray(x, np.float64))
    # `frexp` has 1.0 as 0.5 * 2**1, so what it calls the exponent is one more than ours.
    _, exponent = np.frexp(magnitude)
    _, least = math.frexp(float(info.smallest_normal))
    # Zero (exponent 0 to `frexp`) and subnormals lie as far apart as the least normal values.
    exponent = np.where(magnitude > 0, exponent, least)
    exponent = np.maximum(exponent, least)
    return np.ldexp(1.0, exponent - 1 - info.nmant)


def errors(
    actual: jax.Array | np.ndarray,
    expected: jax.Array | np.ndarray,
    dtype: DType = None,
) -> Errors:
    """Compares two arrays of one shape in float64.

    Args:
      actual: what was computed.
      expected: what it should be.
      dtype: format whose units in the last place count; that of `actual` by default.
    """
    found = np.asarray(actual).astype(np.float64)
    wanted = np.asarray(expected).astype(np.float64)
    both_nan = np.isnan(found) & np.isnan(wanted)
    same = both_nan | (found == wanted)
    # Two infinities of one sign are the same, yet their difference is NaN.
    with np.errstate(invalid="ignore"):
        difference = np.abs(found - wanted)
    apart = np.where(np.isnan(difference), np.inf, difference)
    gap = np.where(same, 0.0, apart)
    size = np.where(np.isfinite(wanted), np.abs(wanted), 0.0)
    relative = np.divide(gap, size, out=np.zeros_like(gap), where=size > 0)
    in_ulp = gap / ulp(size, dtype or actual.dtype)
    largest = gap.max(initial=0.0)
    gap_norm = np.linalg.norm(gap)
    size_norm = np.linalg.norm(size)
    # Where zeros are expected there is no norm to divide by: then the largest difference counts.
    return Errors(
        absolute=float(largest),
        relative=float(relative.max(initial=0.0)),
        norm=float(gap_norm / size_norm if size_norm else largest),
        ulp=float(in_ulp.max(initial=0.0)),
    )
