"""FP8 and MX rounding against a float64 NumPy reference written from the formats' definitions."""

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from emu import numerics

# Name: mantissa bits, exponent of the least normal value, largest value, as OCP defines them.
FORMATS = {
    "float8_e4m3fn": (3, -6, 448.0),
    "float8_e5m2": (2, -14, 57344.0),
    "float4_e2m1fn": (1, 0, 6.0),
}
EVERY_FORMAT = pytest.mark.parametrize("name", FORMATS)


def nearest_even(x, name):
    """Round to nearest, ties to even, saturating: `np.rint` of multiples of the last place."""
    mantissa, least, largest = FORMATS[name]
    x = np.asarray(x, np.float64)
    exponent = np.maximum(np.frexp(np.abs(x))[1] - 1, least)
    step = np.ldexp(1.0, exponent - mantissa)
    return np.clip(np.rint(x / step) * step, -largest, largest)


def reference_mx(x, name, headroom):
    """The specification's sample conversion of `[group, 32]`, with a scale `2**headroom` larger."""
    mantissa, _, largest = FORMATS[name]
    top = np.abs(x).max(-1)
    shared = (
        np.where(top > 0, np.frexp(top)[1] - 1, -127)
        - (np.frexp(largest)[1] - 1)
        + headroom
    )
    shared = np.clip(shared, -127, 127)
    return nearest_even(x / np.ldexp(1.0, shared)[:, None], name), shared


CAST = jax.jit(numerics.cast, static_argnums=1)
QUANTIZE = jax.jit(numerics.mx_quantize, static_argnums=1, static_argnames="headroom")


def every_value(name):
    codes = np.arange(16 if "float4" in name else 256, dtype=np.uint8)
    values = np.unique(codes.view(getattr(ml_dtypes, name)).astype(np.float64))
    return values[np.isfinite(values)]


@EVERY_FORMAT
def test_every_value_and_every_tie(name):
    """Values are kept; half way between two the even one is taken; a hair beside it, the nearer."""
    values = every_value(name)
    ties = ((values[1:] + values[:-1]) / 2).astype(np.float32)
    near = [np.nextafter(ties, np.float32(side)) for side in (-np.inf, np.inf)]
    x = np.concatenate([values.astype(np.float32), ties, *near])
    actual = np.asarray(CAST(jnp.asarray(x), getattr(jnp, name))).astype(np.float64)
    np.testing.assert_array_equal(actual, nearest_even(x, name))


@EVERY_FORMAT
@settings(max_examples=60, deadline=None)
@given(st.lists(st.floats(width=32, allow_nan=False), min_size=8, max_size=8))
def test_cast_rounds_to_nearest_even_and_saturates(name, x):
    x = np.asarray(x, np.float32)
    x = np.where(np.abs(x) < 2.0**-126, np.float32(0), x)  # XLA flushes subnormals
    actual = np.asarray(CAST(jnp.asarray(x), getattr(jnp, name))).astype(np.float64)
    np.testing.assert_array_equal(actual, nearest_even(x, name))


def test_rounded_keeps_every_value():
    x = np.asarray([0.0, -0.0, np.inf, -np.inf, 1e-45, -1e-39, 3e38, 0.1], np.float32)
    kept = np.asarray(jax.jit(numerics.rounded)(x))
    np.testing.assert_array_equal(kept.view(np.uint32), x.view(np.uint32))
    assert np.isnan(numerics.rounded(jnp.float32(jnp.nan)))
    for narrow in (jnp.bfloat16(0.1), jnp.int32(7)):
        assert numerics.rounded(narrow) == narrow


def test_a_rounded_product_is_added_as_it_stands():
    """(1 + 2**-12)² is 1 + 2**-11 + 2**-24, of which the last bit does not fit float32."""
    x = jnp.float32(1 + 2.0**-12)
    squared_less_1 = jax.jit(lambda x: numerics.rounded(x * x) - 1)
    assert squared_less_1(x) == 2.0**-11
    slope = jax.jit(jax.grad(squared_less_1))(x)
    assert slope == 2 * x


@pytest.mark.parametrize("divisor", [3, 7, 10])
def test_a_quotient_is_no_product_with_an_inverse(divisor):
    x = np.arange(-50, 50, dtype=np.float32)
    found = jax.jit(lambda x: numerics.quotient(x, divisor))(x)
    np.testing.assert_array_equal(found, x / np.float32(divisor))


def test_cast_keeps_nan_and_leaves_wide_formats_alone():
    assert np.isnan(np.asarray(numerics.cast(jnp.float32(np.nan), jnp.float8_e4m3fn)))
    assert np.isinf(np.asarray(numerics.cast(jnp.float32(1e6), jnp.float16)))
    assert numerics.cast(jnp.float32(3.7), jnp.int32) == 3


GROUPS = st.lists(
    st.floats(-(2.0**100), 2.0**100, width=32),
    min_size=numerics.GROUP,
    max_size=numerics.GROUP,
)


@EVERY_FORMAT
@pytest.mark.parametrize("headroom", [0, 1])
@settings(max_examples=40, deadline=None)
@given(GROUPS, st.integers(-60, 20))
def test_mx_against_the_reference(name, headroom, group, shift):
    x = np.ldexp(np.asarray(group, np.float32)[None], shift).astype(np.float32)
    x = np.where(np.abs(x) < 2.0**-100, np.float32(0), x)  # scaled values stay normal
    elements, scale = QUANTIZE(jnp.asarray(x), getattr(jnp, name), headroom=headroom)
    expected, shared = reference_mx(x.astype(np.float64), name, headroom)
    np.testing.assert_array_equal(np.asarray(elements).astype(np.float64), expected)
    np.testing.assert_array_equal(np.asarray(scale).astype(int) - 127, shared)
    if shared[0] > -126:
        back = np.asarray(numerics.mx_dequantize(elements, scale)).astype(np.float64)
        np.testing.assert_array_equal(back, expected * np.ldexp(1.0, shared)[:, None])


@EVERY_FORMAT
@settings(max_examples=40, deadline=None)
@given(GROUPS)
def test_headroom_lets_the_largest_round_instead_of_saturate(name, group):
    """With it no element is off by more than half a step of the group's largest."""
    x = np.asarray(group, np.float32)[None]
    x = np.where(np.abs(x) < 2.0**-60, np.float32(0), x)
    elements, scale = QUANTIZE(jnp.asarray(x), getattr(jnp, name), headroom=1)
    back = np.asarray(numerics.mx_dequantize(elements, scale)).astype(np.float64)
    step = 2.0 ** np.floor(np.log2(np.abs(x).max())) if np.abs(x).any() else 0.0
    # One binade below the format's top, the last place is 2**-mantissa of the leading power.
    assert np.max(np.abs(back - x)) <= step * 2.0 ** -(FORMATS[name][0] + 1)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_group_that_is_not_finite_becomes_nan(bad):
    x = np.ones((2, 32), np.float32)
    x[1, 5] = bad
    elements, scale = QUANTIZE(jnp.asarray(x), jnp.float8_e4m3fn)
    assert scale[1] == numerics.SCALE_NAN and scale[0] < numerics.SCALE_NAN
    back = np.asarray(numerics.mx_dequantize(elements, scale))
    assert np.isnan(back[1]).all() and (back[0] == 1).all()


def test_scales_are_powers_of_two():
    scale = np.arange(1, 255, dtype=np.uint8)  # 0 is subnormal in float32
    expected = np.ldexp(1.0, scale.astype(int) - 127)
    np.testing.assert_array_equal(numerics.scale_value(jnp.asarray(scale)), expected)


def test_fp4_packs_two_to_a_byte():
    values = np.array([0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0])
    every = np.concatenate([values, -values]).astype(np.float32)
    packed = jax.jit(numerics.fp4_pack)(jnp.asarray(every, jnp.float4_e2m1fn))
    codes = np.arange(16)
    np.testing.assert_array_equal(packed, codes[::2] + 16 * codes[1::2])
    np.testing.assert_array_equal(np.asarray(numerics.fp4_unpack(packed)), every)


def test_errors_by_hand():
    """Of 4, 2 and 1: off by 0.5, 0 and 2**-7, in bfloat16 (7 mantissa bits)."""
    expected = np.array([4.0, -2.0, 1.0])
    actual = jnp.asarray([4.5, -2.0, 1 + 2.0**-7], jnp.bfloat16)
    found = numerics.errors(actual, expected)
    assert found.absolute == 0.5 and found.relative == 0.125
    assert found.norm == pytest.approx(np.hypot(0.5, 2.0**-7) / np.sqrt(21))
    assert found.ulp == 0.5 / 2.0**-5  # 4 is 2**2, so the last place is 2**-5
    assert numerics.errors(actual, expected, jnp.float32).ulp == 0.5 / 2.0**-21


def test_errors_of_what_is_not_finite():
    nan, inf, one = np.float32(np.nan), np.float32(np.inf), np.float32(1)
    same = numerics.errors(np.array([nan, inf]), np.array([nan, inf]))
    assert same == numerics.Errors(0.0, 0.0, 0.0, 0.0)
    for a, e in ((nan, one), (one, nan), (inf, one), (one, inf), (inf, -inf)):
        found = numerics.errors(np.array([a, one]), np.array([e, one]))
        assert found.absolute == np.inf and found.ulp == np.inf


@pytest.mark.parametrize(
    "name", ["float16", "bfloat16", "float8_e4m3fn", "float8_e5m2"]
)
def test_ulp_is_the_distance_to_the_next_value(name):
    dtype = jnp.dtype(name)
    bits = f"u{dtype.itemsize}"
    largest = int(np.array(jnp.finfo(dtype).max, dtype).view(bits))
    values = np.arange(largest + 1, dtype=bits).view(dtype).astype(np.float64)
    np.testing.assert_array_equal(numerics.ulp(values[:-1], dtype), np.diff(values))


@pytest.mark.parametrize("code", [0, 1, 2, 127, 254])
def test_every_scale_counts(code):
    """The least is 2**-127, no normal float32; results that are normal must not become zero."""
    values = np.array([448.0, -256.0, 4.0, 2.0] * 8, np.float32)
    elements = jnp.asarray(values).astype(jnp.float8_e4m3fn)
    scaled = jax.jit(numerics.mx_dequantize)(elements, jnp.uint8(code))
    with np.errstate(over="ignore"):
        wanted = np.ldexp(values.astype(np.float64), code - 127).astype(np.float32)
    np.testing.assert_array_equal(scaled, wanted)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize("find", [numerics.largest, numerics.smallest])
def test_a_maximum_keeps_nan(find, dtype):
    """XLA's own gives -inf of 256 ones and 256 NaN in float32."""
    x = np.ones((4, 512), np.float32)
    x[1, 256:] = np.nan
    x[2, 511] = np.nan
    found = np.asarray(jax.jit(find, static_argnums=1)(jnp.asarray(x, dtype), 1))
    np.testing.assert_array_equal(np.isnan(found.astype(np.float32)), [0, 1, 1, 0])


def test_a_maximum_of_integers():
    x = jnp.asarray([[3, 1], [2, 5]])
    np.testing.assert_array_equal(numerics.largest(x, 1), [3, 5])
    np.testing.assert_array_equal(numerics.smallest(x, 1, True), [[1], [2]])
