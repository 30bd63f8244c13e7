"""Four codes of 4 bits to a word: every code's number, and cycles worked out by hand."""

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest

from emu import Program, wse
from emu.errors import EmulationError
from emu.wse import WSE3
from emu.wse.pe.nibbles import pack_nibbles

FLOATS = ("float32", "bfloat16", "float16")
CODES = np.arange(16, dtype=np.uint8)
FP4 = CODES.view(ml_dtypes.float4_e2m1fn)
INT4 = np.where(CODES < 8, CODES, CODES.astype(int) - 16).astype(np.int8)


def widened(words: np.ndarray, n: int, dtype: str, codes: str) -> np.ndarray:
    tile = wse.sram_tile(shape=(len(words), n), dtype=jnp.dtype(dtype))
    return np.asarray(wse.widen_nibbles(tile, jnp.asarray(words), codes=codes))


@pytest.mark.parametrize("dtype", FLOATS)
def test_every_code_is_exact(dtype: str) -> None:
    for codes, numbers in (("float4_e2m1fn", FP4), ("int4", INT4)):
        found = widened(pack_nibbles(numbers[None]), 16, dtype, codes)
        assert found.dtype == jnp.dtype(dtype)
        np.testing.assert_array_equal(found[0], numbers.astype(np.float32))


def test_where_codes_lie_in_words() -> None:
    """Of seven codes the first word has every second one, from its lowest bits on."""
    words = pack_nibbles(np.arange(1, 8, dtype=np.int8)[None])
    np.testing.assert_array_equal(words, [[0x7531, 0x0642]])
    found = widened(words, 7, "float32", "int4")
    np.testing.assert_array_equal(found, [[1, 2, 3, 4, 5, 6, 7]])


def by_bits(code: int) -> float:
    """An FP4 code by the operations on 16 bits that a PE has, as bfloat16."""
    top = np.array([code << 12], np.uint16).view(np.int16)
    shifted = (top >> 6) & np.int16(-0x7E40)  # 0x81c0
    return float(shifted.view(ml_dtypes.bfloat16)[0]) * 2.0**126


def test_arithmetic_on_bits_gives_the_number() -> None:
    assert [by_bits(int(code)) for code in CODES] == FP4.astype(float).tolist()


def cycles(codes: str, dtype: str) -> int:
    """Of 3 rows of 10, in 3 words each."""

    def call(x: jax.Array) -> jax.Array:
        tile = wse.sram_tile(shape=(3, 10), dtype=dtype)
        return wse.widen_nibbles(tile, x, codes=codes)

    words = jax.ShapeDtypeStruct((3, 3), jnp.uint16)
    return Program(call, {"row": 1}, ((),)).read(WSE3.at(), words).end_ticks


def test_cycles() -> None:
    # Two descriptors of 4 cycles and an issue of 6; groups of 8 at 4 a cycle.
    before = 2 * 4 + 6
    words, halves = before + 2 * 2, before + 4 * 2
    assert cycles("float4_e2m1fn", "bfloat16") == 6 * words + 3 * halves
    assert cycles("int4", "float16") == 7 * words + halves
    assert cycles("int4", "float32") == 7 * words + before + 30 / 2
    zeros, product = 4 + 6 + np.ceil(120 / 16), before + 30
    assert (
        cycles("float4_e2m1fn", "float32") == 6 * words + zeros + 2 * halves + product
    )


def test_refusals() -> None:
    words = jnp.zeros((3, 3), jnp.uint16)
    tile = wse.sram_tile(shape=(3, 10), dtype="bfloat16")
    with pytest.raises(EmulationError, match="codes is .*int4"):
        wse.widen_nibbles(tile, words, codes="int8")
    with pytest.raises(EmulationError, match="dtype of x is .*int16"):
        wse.widen_nibbles(tile, words.astype(jnp.int16), codes="int4")
    with pytest.raises(EmulationError, match="dtype of dst is .*int32"):
        wse.widen_nibbles(words.astype(jnp.int32), words, codes="int4")
    with pytest.raises(EmulationError, match=r"must be \[k, n\] and \[k, ceil"):
        wse.widen_nibbles(tile, words[:2], codes="int4")
