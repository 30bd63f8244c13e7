"""Caches of 8-bit codes on the wafer: values against float64 NumPy, bytes and time of a PE."""

import dataclasses
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest

from emu import lower
from emu.errors import LimitExceeded
from emu.wse import WSE3
from kernels import masks
from kernels.attention.decode import DecodeTime, decode, decode_time
from kernels.attention.decode_plan import plan_on
from kernels.attention.on_pe import DecodeSizes, variant_on_pe
from kernels.attention.reading import read
from kernels.scores.fold import WEIGHT_INPUTS, Fold, Sum, finish_inputs
from kernels.scores.form import SCORE_INPUTS, Reading
from kernels.wse.decode.cached import piece_slots

BATCH, HEADS, KV_HEADS, DIM, KEYS = 2, 4, 2, 8, 301
GROUP = HEADS // KV_HEADS
ROWS, PARTS = 2, 2
RNG = np.random.default_rng(0)
Q = RNG.standard_normal((BATCH, HEADS, 1, DIM)).astype(np.float32)
K, V = (
    RNG.standard_normal((BATCH, KV_HEADS, KEYS, DIM)).astype(np.float32)
    for _ in range(2)
)
LARGEST = {"int8": 127.0, "float8_e4m3fn": 448.0}


def quantised(x: np.ndarray, dtype: str) -> tuple[np.ndarray, np.ndarray]:
    """Codes, and a scale for each key, `[batch, kv_heads, keys]`."""
    scale = (np.abs(x).max(-1) / LARGEST[dtype]).astype(np.float32)
    codes = x / scale[..., None]
    codes = np.round(codes) if dtype == "int8" else codes
    return codes.astype(jnp.dtype(dtype)), scale


def with_scales(keys: np.ndarray, values: np.ndarray) -> Reading:
    """Softmax over a cache whose keys and values have scales by key/value head and key."""

    def score(s: Any, b: Any, h: Any, q: Any, k: Any) -> Any:
        return s * jnp.asarray(keys)[b, h // GROUP, k]

    def factor(s: Any, b: Any, h: Any, q: Any, k: Any) -> Any:
        return jnp.asarray(values)[b, h // GROUP, k]

    fold = Fold(
        name="mine",
        greatest="m",
        exponent=None,
        weight=lower.read(lambda own, top: jnp.exp(own - top), WEIGHT_INPUTS, "weight"),
        sums=(Sum("z", None),),
        values=Sum("o", lower.read(factor, SCORE_INPUTS, "factor of mine")),
        finish=lower.read(
            lambda o, m, z, b, h, q, d: o / z, finish_inputs(("o", "m", "z")), "finish"
        ),
    )
    return dataclasses.replace(read("mine", score, masks.causal), fold=fold)


def dense(keys: np.ndarray, values: np.ndarray) -> np.ndarray:
    """float64 softmax attention."""
    keys, values = (np.repeat(x, GROUP, 1).astype(np.float64) for x in (keys, values))
    s = np.einsum("bhqd,bhkd->bhqk", Q.astype(np.float64), keys) / np.sqrt(DIM)
    p = np.exp(s - s.max(-1, keepdims=True))
    return np.einsum("bhqk,bhkd->bhqd", p / p.sum(-1, keepdims=True), values)


@pytest.mark.parametrize("dtype", LARGEST)
def test_values(dtype: str) -> None:
    (k, of_keys), (v, of_values) = quantised(K, dtype), quantised(V, dtype)
    variant = with_scales(of_keys, of_values)
    out, _ = decode(variant, Q, (k, v), rows=ROWS, parts=PARTS)
    exact = [
        x.astype(np.float64) * scale[..., None]
        for x, scale in ((k, of_keys), (v, of_values))
    ]
    assert out.dtype == np.float32
    assert np.abs(out - dense(*exact)).max() <= 2e-6 * np.abs(V).max()
    # Quantisation is what it is: the numbers are near those that were quantised.
    assert 1e-4 < np.abs(out - dense(K, V)).max() < 0.1


def test_several_pieces_are_gone_through() -> None:
    # Of 151 slots in a row, two pieces.
    assert [piece_slots(n) for n in (5, 127, 151, 5_000)] == [5, 127, 76, 314]
    variant = variant_on_pe(
        read("mine"),
        DecodeSizes(heads=4, kv_heads=2, head_dim=8, context=KEYS, cache_dtype="int8"),
    )
    clock = plan_on(variant, ROWS, PARTS, WSE3.at()).read()
    # For keys and for values, on every PE of one key/value head.
    assert clock.tally.by("count")["wse.widen_live"] == 2 * 2 * ROWS * PARTS


def test_plain_codes_are_numbers() -> None:
    k, v = (RNG.integers(-3, 4, x.shape).astype(np.int8) for x in (K, V))
    out, _ = decode(
        read("mine", None, masks.window(40)), Q, (k, v), rows=7, parts=PARTS
    )
    expected = dense(k[:, :, -40:], v[:, :, -40:])
    assert np.abs(out - expected).max() <= 2e-6 * 3
    gap = read("mine", None, masks.sinks(3, 40))
    out, _ = decode(gap, Q, (k, v), rows=7, parts=PARTS)
    some = np.r_[:3, KEYS - 40 : KEYS]
    assert np.abs(out - dense(k[:, :, some], v[:, :, some])).max() <= 2e-6 * 3


def test_bfloat16_queries_over_int8() -> None:
    k, v = (RNG.integers(-3, 4, x.shape).astype(np.int8) for x in (K, V))
    out, _ = decode(
        read("mine"), jnp.asarray(Q, jnp.bfloat16), (k, v), rows=ROWS, parts=PARTS
    )
    assert out.dtype == jnp.bfloat16
    error = np.abs(np.asarray(out, np.float64) - dense(k, v)).max()
    assert 1e-4 < error < 0.05


# --- the clock and bytes ---


def time_of(variant: Reading, cache_dtype: str | None, **sizes: Any) -> DecodeTime:
    return decode_time(
        variant,
        DecodeSizes(dtype="bfloat16", cache_dtype=cache_dtype, head_dim=128, **sizes),
        rows=300,
        parts=8,
    )


def test_codes_take_half_the_bytes_and_more_time() -> None:
    # 500 slots, 8 shares of 63 for its columns, of 16 dimensions of keys and of values in each PE.
    sizes: dict[str, Any] = {"heads": 8, "kv_heads": 8, "context": 150_000}
    wide = time_of(read("mine"), None, **sizes)
    for dtype in LARGEST:
        narrow = time_of(read("mine"), dtype, **sizes)
        saved = wide.sram_bytes - narrow.sram_bytes
        # Half of 504 x 32 numbers of two bytes, but for a piece of 72 slots that is made wide.
        assert 504 * 32 - 72 * 16 * 2 <= saved <= 504 * 32
        assert wide.cycles["nominal"] < narrow.cycles["nominal"]
        # One query a head: each number is made wide for one multiplication.
        assert narrow.cycles["nominal"] < 2 * wide.cycles["nominal"]
        assert wide.sram_read_bytes < narrow.sram_read_bytes


def test_scales_lie_once_in_the_column_that_takes_them() -> None:
    scale = np.ones((1, 8, 150_000), np.float32)
    sizes: dict[str, Any] = {"heads": 16, "kv_heads": 8, "context": 150_000}
    wide = time_of(read("mine"), None, **sizes)
    variant = with_scales(scale, scale)
    narrow = time_of(variant, "int8", **sizes)
    assert narrow.sram_bytes < wide.sram_bytes - 0.8 * 500 * 32
    lowered = variant_on_pe(
        variant,
        DecodeSizes(dtype="bfloat16", cache_dtype="int8", head_dim=128, **sizes),
    )
    tables = plan_on(lowered, 300, 8, WSE3.at()).tables
    # Of 500 slots an eighth, for two query heads one number: 63 scales of keys, 63 of values.
    shapes = [x.shape for x in tables.structs().values() if x.ndim == 4]
    assert shapes == [(300, 64, 1, 63)] * 2


def test_refuses_what_it_cannot_hold() -> None:
    with pytest.raises(LimitExceeded, match="cache_dtype is 'int4', must be float32"):
        variant_on_pe(
            read("mine"),
            DecodeSizes(heads=1, kv_heads=1, head_dim=8, context=9, cache_dtype="int4"),
        )
    with pytest.raises(LimitExceeded, match="must have one dtype, have"):
        decode(read("mine"), Q, (K.astype(np.int8), V))


# --- blocks that share a power of two ---

BLOCK = 4


def in_blocks(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """FP8 codes and the power of two of each 4 features."""
    blocks = x.reshape(*x.shape[:-1], -1, BLOCK)
    exponents = np.floor(np.log2(np.abs(blocks).max(-1))) - 8
    codes = (blocks / 2.0 ** exponents[..., None]).clip(-448, 448)
    powers = (exponents + 127).astype(np.uint8).view(jnp.dtype("float8_e8m0fnu"))
    return codes.reshape(x.shape).astype(jnp.dtype("float8_e4m3fn")), powers


def out_of_blocks(codes: np.ndarray, powers: np.ndarray) -> np.ndarray:
    exponents = powers.view(np.uint8).astype(np.float64) - 127
    return codes.astype(np.float64) * 2 ** np.repeat(exponents, BLOCK, axis=-1)


@pytest.mark.parametrize("parts", [1, 2, 4, 8])
def test_values_of_blocks(parts: int) -> None:
    # On one column two blocks, on 2 one each, on 4 and 8 parts of one.
    (k, of_keys), (v, of_values) = in_blocks(K), in_blocks(V)
    out, _ = decode(
        *(read("mine", None, masks.causal), Q, (k, v)),
        rows=ROWS,
        parts=parts,
        powers=(of_keys, of_values),
    )
    expected = dense(out_of_blocks(k, of_keys), out_of_blocks(v, of_values))
    assert np.abs(out - expected).max() <= 2e-6 * np.abs(V).max()
    assert 1e-4 < np.abs(out - dense(K, V)).max() < 0.1


def test_powers_are_bytes_and_time() -> None:
    sizes: dict[str, Any] = {"heads": 8, "kv_heads": 8, "context": 150_000}
    plain = time_of(read("mine"), "float8_e4m3fn", **sizes)
    shared = time_of(read("mine"), "float8_e4m3fn", block=32, **sizes)
    # On 8 columns half a block each of keys and of values: two powers for each of 504 slots, and
    # those of a piece of 72 as float32.
    added = shared.sram_bytes - plain.sram_bytes
    assert 2 * 504 <= added <= 2 * 504 + 2 * 4 * 72
    assert plain.cycles["nominal"] < shared.cycles["nominal"]
    assert shared.cycles["nominal"] < 1.2 * plain.cycles["nominal"]


def test_refuses_blocks_that_do_not_fit() -> None:
    def of(**changed: Any) -> None:
        sizes: dict[str, Any] = {
            "heads": 1,
            "kv_heads": 1,
            "head_dim": 12,
            "context": 9,
        }
        sizes.update({"block": 4, "cache_dtype": "int8", **changed})
        plan_on(variant_on_pe(read("mine"), DecodeSizes(**sizes)), 3, 2, WSE3.at())

    with pytest.raises(LimitExceeded, match="must be codes of int8"):
        of(cache_dtype=None)
    with pytest.raises(LimitExceeded, match="block is 5, must divide 12 dimensions"):
        of(block=5)
    with pytest.raises(LimitExceeded, match="2 parts have 6 .*one block of 4 or whole"):
        of()
    k, powers = in_blocks(K)
    with pytest.raises(LimitExceeded, match="must be float8_e8m0fnu .*are .'uint8'"):
        decode(read("mine"), Q, (k, k), powers=(powers.view(np.uint8), powers))
