"""Codes of 8 bits made wide: every code's number, cycles worked out by hand, refusals.

Literals use the WSE-3's nominal datasheet: 6 a vector operation's issue, 4 a descriptor load,
`2 * ceil(n / 8)` cycles for n 16-bit elements, half a cycle for a float32 that is written from 16
bits, one for a product of float32 numbers, 16 bytes a cycle to fill.
"""

from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest

from emu import EmulationError, wse
from emu.wse.pe.packed import CODES
from tests.emu.wse.single_pe import read, struct

ROWS, COLUMNS, LIVE = 3, 9, 7


def half(n: int) -> int:
    return 2 * -(-n // 8)


def codes(dtype: str) -> jnp.ndarray:
    """All 256 of them, `[4, 64]`."""
    return jnp.arange(256, dtype=jnp.uint8).reshape(4, 64).view(jnp.dtype(dtype))


@pytest.mark.parametrize("dst", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize("dtype", CODES)
def test_every_code_is_exact(dtype: str, dst: str) -> None:
    x = codes(dtype)
    got = wse.widen_live(
        wse.sram_tile(shape=x.shape, dtype=jnp.dtype(dst)), x, 4, axis=0
    )
    assert got.dtype == jnp.dtype(dst)
    expected = np.asarray(x).astype(np.float64)
    # By bits, the codes of NaN are 1.875 * 2^8.
    nan = np.isnan(expected)
    assert nan.sum() == (2 if dtype == "float8_e4m3fn" else 0)
    expected[nan] = [480, -480][: nan.sum()]
    assert (np.asarray(got, np.float64) == expected).all()


def by_bits(code: int) -> float:
    """An FP8 code by the operations on 16 bits that a PE has, as float16."""
    word = np.array([code << 8], np.uint16).view(np.int16)
    shifted = (word >> 1) & np.int16(-0x4080)  # 0xbf80
    return float(shifted.view(np.float16)[0]) * 2.0**8


def test_arithmetic_on_bits_gives_the_number() -> None:
    found = np.array([by_bits(code) for code in range(256)])
    wide = np.asarray(codes("float8_e4m3fn")).reshape(-1).astype(np.float64)
    some = np.isfinite(wide)
    assert (found[some] == wide[some]).all()
    assert (found[~some] == [480, -480]).all()


def cycles(dtype: str, dst: str, axis: int, live: int = LIVE) -> int:
    def call(x: Any, n: Any) -> Any:
        tile = wse.sram_tile(shape=(ROWS, COLUMNS), dtype=jnp.dtype(dst))
        return wse.widen_live(tile, x, n, axis=axis)

    return read(call, struct((ROWS, COLUMNS), dtype), live).end_ticks


@pytest.mark.parametrize("axis", [0, 1])
def test_cycles(axis: int) -> None:
    live = LIVE if axis else 2
    n = (ROWS * LIVE, 2 * COLUMNS)[1 - axis]
    # A row of 7 codes touches up to 4 words; 18 codes one behind the other touch up to 10.
    words = ROWS * 4 if axis else 10
    before = 2 * 4 + 6
    pair, halves = before + half(words), before + half(n)
    assert cycles("int8", "bfloat16", axis, live) == 3 * pair + halves
    assert cycles("uint8", "float16", axis, live) == 2 * pair + halves
    assert cycles("float8_e4m3fn", "bfloat16", axis, live) == 2 * pair + 3 * halves
    widened = before + n / 2
    assert cycles("int8", "float32", axis, live) == np.ceil(3 * pair + widened)
    zeros = 4 + 6 + -(-4 * n // 16)
    product = before + n
    expected = 2 * pair + zeros + 2 * halves + product
    assert cycles("float8_e4m3fn", "float32", axis, live) == expected


def test_a_power_of_two_is_an_exponent() -> None:
    x = codes("float8_e8m0fnu")
    for dst in ("float32", "bfloat16"):
        tile = wse.sram_tile(shape=x.shape, dtype=jnp.dtype(dst))
        got = np.asarray(wse.widen_live(tile, x, 4, axis=0), np.float64).reshape(-1)
        assert (got[1:255] == 2.0 ** (np.arange(1, 255) - 127)).all()
        assert got[0] == 0 and np.isinf(got[255])
    tile = wse.sram_tile(shape=x.shape, dtype=jnp.dtype("float16"))
    with pytest.raises(EmulationError, match="dtype of dst is .*float16"):
        wse.widen_live(tile, x, 4, axis=0)
    n, words = ROWS * LIVE, ROWS * 4
    before = 2 * 4 + 6
    pairs = 2 * (before + half(words))
    assert cycles("float8_e8m0fnu", "bfloat16", 1) == pairs + before + half(n)
    zeros = 4 + 6 + -(-4 * n // 16)
    assert cycles("float8_e8m0fnu", "float32", 1) == pairs + zeros + before + half(n)


def test_nothing_live_costs_nothing() -> None:
    assert cycles("int8", "bfloat16", 1, 0) == 0


def test_what_is_not_live_is_unset() -> None:
    x = jnp.ones((ROWS, COLUMNS), jnp.int8)
    tile = wse.sram_tile(shape=(ROWS, COLUMNS), dtype=jnp.dtype("bfloat16"))
    for axis in (0, 1):
        got = np.asarray(wse.widen_live(tile, x, 2, axis=axis), np.float32)
        live = np.indices(got.shape)[axis] < 2
        assert (got[live] == 1).all() and np.isnan(got[~live]).all()


def test_refusals() -> None:
    x = jnp.ones((ROWS, COLUMNS), jnp.int8)
    tile = wse.sram_tile(shape=(ROWS, COLUMNS), dtype=jnp.dtype("bfloat16"))
    with pytest.raises(EmulationError, match="axis is 2"):
        wse.widen_live(tile, x, 2, axis=2)
    with pytest.raises(EmulationError, match="shapes must be equal"):
        wse.widen_live(tile, x[:2], 2, axis=0)
    with pytest.raises(EmulationError, match="dtype of x is .*int16"):
        wse.widen_live(tile, x.astype(jnp.int16), 2, axis=0)
    with pytest.raises(EmulationError, match="dtype of dst is .*int32"):
        wse.widen_live(x.astype(jnp.int32), x, 2, axis=0)
