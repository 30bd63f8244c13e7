"""Narrow floating-point formats: FP8 and OCP microscaling (MX), and how far two results are apart.

Rounding is to the nearest value, ties to even, and saturates: a conversion that leaves the format's
range gives its largest value, where a plain cast gives NaN (E4M3 has no infinity). An MX group is
32 elements that share one E8M0 scale, a power of two stored as `exponent + 127`; 255 is NaN.

Source: OCP Microscaling Formats (MX) Specification 1.0.
"""

import dataclasses
import math
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import lax

GROUP = 32  # elements that share a scale
SCALE_NAN = 255
FP4_VALUES = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0)  # by code; bit 3 is the sign


def cast(x: Any, dtype: Any) -> Any:
    """`x` in `dtype`: as `astype`, but formats narrower than 16 bits saturate instead of NaN."""
    dtype = jnp.dtype(dtype)
    if (
        dtype == x.dtype
        or not jnp.issubdtype(dtype, jnp.floating)
        or dtype.itemsize > 1
    ):
        return x.astype(dtype)
    largest = jnp.float32(jnp.finfo(dtype).max)
    return jnp.clip(x.astype(jnp.float32), -largest, largest).astype(dtype)


def mx_quantize(x: Any, dtype: Any, *, headroom: int = 0) -> tuple[Any, Any]:
    """Rounds groups to MX: elements in `dtype` and one scale a group.

    The scale is two to the exponent of the largest magnitude, less that of the format's largest
    value, plus `headroom`. Groups with an infinity or a NaN get the scale NaN; one of zeros gets
    the least.

    Args:
      x: `[..., group, 32]`, any float dtype that float32 holds.
      dtype: float8_e4m3fn or float8_e5m2 (MXFP8), or float4_e2m1fn (MXFP4).
      headroom: 0 as in the specification's sample conversion, in which values over the format's
        largest saturate; 1 doubles the scale, which leaves room to round them.

    Returns:
      Elements `dtype[..., group, 32]` and scales `uint8[..., group]`.
    """
    wide = x.astype(jnp.float32)
    highest = jnp.max(jnp.abs(wide), axis=-1)
    # Biased by 127, like the scale.
    exponent = lax.bitcast_convert_type(highest, jnp.int32) >> 23
    scale = jnp.clip(
        exponent - _exponent_of_largest(dtype) + headroom, 0, SCALE_NAN - 1
    )
    finite = exponent < 255
    # The inverse scale is a normal float32 for every finite group, so the product is exact.
    inverse = lax.bitcast_convert_type(
        (254 - jnp.minimum(scale, 253)) << 23, jnp.float32
    )
    elements = cast(jnp.where(finite[..., None], wide, 0) * inverse[..., None], dtype)
    return elements, jnp.where(finite, scale, SCALE_NAN).astype(jnp.uint8)


def mx_dequantize(elements: Any, scale: Any) -> Any:
    """`elements · 2**(scale - 127)` in float32; results under 2**-126 flush to zero.

    Args:
      elements: `[..., group, 32]` in any element format.
      scale: `uint8[..., group]`.
    """
    return elements.astype(jnp.float32) * scale_value(scale)[..., None]


def scale_value(scale: Any) -> Any:
    """The float32 value of E8M0 scales: `uint8` to `2**(scale - 127)`, NaN for 255."""
    return lax.bitcast_convert_type(scale, jnp.float8_e8m0fnu).astype(jnp.float32)


def _exponent_of_largest(dtype: Any) -> int:
    return math.frexp(float(jnp.finfo(dtype).max))[1] - 1


def fp4_pack(elements: Any) -> Any:
    """MXFP4 elements, two to a byte, the first in the low half: `[..., 2n]` to `uint8[..., n]`."""
    values = elements.astype(jnp.float32)
    table = jnp.asarray(FP4_VALUES, jnp.float32)
    code = jnp.searchsorted(table, jnp.abs(values)).astype(jnp.uint8)
    code = code | (jnp.signbit(values).astype(jnp.uint8) << 3)
    pairs = code.reshape(*code.shape[:-1], -1, 2)
    return pairs[..., 0] | (pairs[..., 1] << 4)


def fp4_unpack(packed: Any) -> Any:
    """The values of packed MXFP4 elements: `uint8[..., n]` to `float32[..., 2n]`."""
    codes = jnp.stack([packed & 15, packed >> 4], axis=-1)
    table = jnp.asarray([*FP4_VALUES, *(-v for v in FP4_VALUES)], jnp.float32)
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


def ulp(x: Any, dtype: Any) -> np.ndarray:
    """The distance between neighbouring values of `dtype` at `x`, in float64."""
    info = jnp.finfo(dtype)
    size = np.abs(np.asarray(x, np.float64))
    least = math.frexp(float(info.smallest_normal))[1]
    exponent = np.maximum(np.where(size > 0, np.frexp(size)[1], least), least)
    return np.ldexp(1.0, exponent - 1 - info.nmant)


def errors(actual: Any, expected: Any, dtype: Any = None) -> Errors:
    """Compares two arrays of one shape in float64.

    Args:
      actual: what was computed.
      expected: what it should be.
      dtype: format whose units in the last place count; that of `actual` by default.
    """
    a, e = (np.asarray(x).astype(np.float64) for x in (actual, expected))
    same = (a == e) | (np.isnan(a) & np.isnan(e))
    size = np.where(np.isfinite(e), np.abs(e), 0.0)
    with np.errstate(invalid="ignore"):
        gap = np.where(same, 0.0, np.where(np.isnan(a - e), np.inf, np.abs(a - e)))
    relative = np.divide(gap, size, out=np.zeros_like(gap), where=size > 0)
    norm = np.linalg.norm(size)
    return Errors(
        absolute=float(gap.max(initial=0.0)),
        relative=float(relative.max(initial=0.0)),
        norm=float(np.linalg.norm(gap) / norm if norm else gap.max(initial=0.0)),
        ulp=float((gap / ulp(size, dtype or actual.dtype)).max(initial=0.0)),
    )
