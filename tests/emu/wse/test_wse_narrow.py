"""Numbers as codes of 8 bits: the nearest ones, by the operations that are counted."""

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest

from emu import Program, numerics, wse
from emu.errors import EmulationError
from emu.wse import WSE3


def narrowed(x: np.ndarray, dtype: str) -> np.ndarray:
    tile = wse.sram_tile(shape=x.shape, dtype=dtype)
    return np.asarray(wse.narrow(tile, jnp.asarray(x, jnp.float32)))


def every_tie() -> np.ndarray:
    """All finite FP8 numbers, the middles between neighbours, and what is a little beside these."""
    codes = np.arange(127, dtype=np.uint8).view(ml_dtypes.float8_e4m3fn)
    numbers = codes.astype(np.float32)
    middles = (numbers[1:] + numbers[:-1]) / 2
    near = [middles * np.float32(1 + sign * 2**-20) for sign in (-1, 1)]
    found = np.concatenate([numbers, middles, *near])
    return np.concatenate([found, -found]).astype(np.float32)


def by_bits(x: float) -> int:
    """The code of an FP8 number by the operations on words that a PE's loop does."""
    word = np.array([x], np.float32).view(np.uint32)[0]
    sign, size = word >> 24 & 0x80, word & 0x7FFFFFFF
    if size >= (121 << 23):  # 2^-6
        code = (size + 0x7FFFF + (size >> 20 & 1) >> 20) - (120 << 3)
    else:
        number = np.array([size], np.uint32).view(np.float32)
        # Of a sum near 1.5 * 2^14 the last bit is 2^-9, the least FP8 number.
        code = (number + np.float32(1.5 * 2**14)).view(np.uint32)[0] & 0xF
    return int(sign | min(code, 0x7E))


def test_the_nearest_code_is_taken_and_ties_go_to_even() -> None:
    given = every_tie()
    found = narrowed(given[None], "float8_e4m3fn")[0]
    wanted = given.astype(ml_dtypes.float8_e4m3fn)
    np.testing.assert_array_equal(found.view(np.uint8), wanted.view(np.uint8))
    of_bits = [by_bits(float(x)) for x in given]
    np.testing.assert_array_equal(found.view(np.uint8), of_bits)


def test_what_is_beyond_the_format_becomes_its_last() -> None:
    given = np.array([460, 1e6, -1e6], np.float32)
    np.testing.assert_array_equal(
        narrowed(given, "float8_e4m3fn").astype(np.float32), [448, 448, -448]
    )
    given = np.array([2.5, 3.5, -0.5, 127.6, -200], np.float32)
    np.testing.assert_array_equal(narrowed(given, "int8"), [2, 4, 0, 127, -127])


def test_a_power_of_two_is_a_magnitude_s_exponent() -> None:
    """As MX takes the scale of a block, of 2^-7 times its largest magnitude."""
    given = np.array([5.0, -5.0, 1.0, 1.9999999, 0.0, 2.0**-140, 3e38], np.float32)
    found = narrowed(given, "float8_e8m0fnu").view(np.uint8)
    assert found.tolist() == [129, 129, 127, 127, 0, 0, 254]
    blocks = np.random.default_rng(0).standard_normal((40, 32)).astype(np.float32)
    blocks *= np.exp2(np.arange(40, dtype=np.float32) * 6 - 120)[:, None]
    _, scales = numerics.mx_quantize(jnp.asarray(blocks), "float8_e4m3fn", headroom=1)
    greatest = np.abs(blocks).max(1) * np.float32(2**-7)
    found = narrowed(greatest, "float8_e8m0fnu").view(np.uint8)
    np.testing.assert_array_equal(found, scales)


def cycles(dtype: str) -> int:
    def call(x: jax.Array) -> jax.Array:
        return wse.narrow(wse.sram_tile(shape=(2, 5), dtype=dtype), x)

    x = jax.ShapeDtypeStruct((2, 5), jnp.float32)
    return Program(call, {"row": 1}, ((),)).read(WSE3.at(), x).end_ticks


def test_cycles() -> None:
    device = WSE3.at()

    def of_element(simple: int, comparisons: int = 2) -> float:
        compared = comparisons * (device.scalar_cycles + device.branch_cycles)
        return device.loop_cycles + simple * device.scalar_cycles + compared

    assert cycles("int8") == np.ceil(10 * of_element(6))
    assert cycles("float8_e4m3fn") == np.ceil(10 * of_element(12))
    assert cycles("float8_e8m0fnu") == np.ceil(10 * of_element(4, comparisons=0))


def test_refusals() -> None:
    x = jnp.zeros((2, 5), jnp.float32)
    with pytest.raises(EmulationError, match="dtype of dst is .*uint8"):
        wse.narrow(wse.sram_tile(shape=(2, 5), dtype="uint8"), x)
    with pytest.raises(EmulationError, match="dtype of x is .*bfloat16"):
        wse.narrow(wse.sram_tile(shape=(2, 5), dtype="int8"), x.astype(jnp.bfloat16))
    with pytest.raises(EmulationError, match="must be of one shape"):
        wse.narrow(wse.sram_tile(shape=(5, 2), dtype="int8"), x)
