"""A cache in blocks that share a power of two, against float64 NumPy that rounds by itself."""

from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest

from emu.errors import LimitExceeded
from kernels.attention.microscaled import Blocks, in_blocks
from kernels.attention.protocol import AttentionVariant
from kernels.variants import CATALOGUE, Sizes, alibi, causal, make, mxfp8_cache

BLOCK = 4
BATCH, HEADS, KV_HEADS, DIM, KEYS = 2, 4, 2, 8, 21
RNG = np.random.default_rng(0)
Q = RNG.standard_normal((BATCH, HEADS, KEYS, DIM)).astype(np.float32)
K, V = (
    (RNG.standard_normal((BATCH, KV_HEADS, KEYS, DIM)) * spread).astype(np.float32)
    for spread in (1, 100)
)
# All numbers of E4M3 that are not negative, in order: of 3 bits behind the point, from 2^-9 on.
NUMBERS = np.unique(
    [m * 2.0**-9 for m in range(8)]
    + [(1 + m / 8) * 2.0**e for e in range(-6, 9) for m in range(8) if (e, m) != (8, 7)]
)


def rounded(x: np.ndarray) -> np.ndarray:
    """By the specification, number by number: the nearest code, the even one of two as near."""
    found = np.zeros(x.shape)
    for place in np.ndindex(*x.shape[:-1], x.shape[-1] // BLOCK):
        *outer, block = place
        features = slice(block * BLOCK, (block + 1) * BLOCK)
        own = x[(*outer, features)].astype(np.float64)
        power = 2.0 ** (np.floor(np.log2(np.abs(own).max())) - 8)
        for feature, number in enumerate(own / power):
            apart = np.abs(NUMBERS - abs(number))
            nearest = np.flatnonzero(apart == apart.min())
            # The mantissa of every second number is even, from 0 on.
            code = next(n for n in nearest if n % 2 == 0 or len(nearest) == 1)
            where = (*outer, block * BLOCK + feature)
            found[where] = np.sign(number) * NUMBERS[code] * power
    return found


def attend(q: np.ndarray, k: np.ndarray, v: np.ndarray, first: int = 0) -> np.ndarray:
    """float64 causal attention; query n is at position `first + n`."""
    k, v = (np.repeat(x, HEADS // KV_HEADS, 1) for x in (k, v))
    s = np.einsum("bhqd,bhkd->bhqk", q.astype(np.float64), k) / np.sqrt(DIM)
    later = np.arange(k.shape[2]) > first + np.arange(q.shape[2])[:, None]
    p = np.exp(np.where(later, -np.inf, s))
    return np.einsum("bhqk,bhkd->bhqd", p / p.sum(-1, keepdims=True), v)


def test_codes_are_the_nearest_ones() -> None:
    for x in (K, V):
        blocks = in_blocks(x, BLOCK)
        assert blocks.codes.dtype == jnp.float8_e4m3fn
        assert blocks.powers.shape == (*x.shape[:-1], DIM // BLOCK)
        assert (blocks.numbers == rounded(x)).all()


def test_the_largest_number_of_a_block() -> None:
    found = in_blocks([600.0, -1000.0, 0.0, 1.0], 2)
    assert isinstance(found, Blocks)
    # 1000 is 500 times 2, and 448 the largest code; 1 is 256 times 2^-8.
    assert found.codes.astype(np.float32).tolist() == [288, -448, 0, 256]
    assert (found.powers.view(np.uint8) == [128, 119]).all()
    assert found.numbers.tolist() == [576, -896, 0, 1]
    assert not in_blocks(np.zeros((2, 4)), 4).numbers.any()


def test_forms_agree_with_attention_to_rounded_numbers() -> None:
    variant = mxfp8_cache(causal(), BLOCK)
    k, v = rounded(K), rounded(V)
    allowed = 2e-6 * np.abs(V).max()
    out, _ = variant.dense(Q, K, V)
    assert np.abs(np.asarray(out) - attend(Q, k, v)).max() <= 1e-12 * np.abs(V).max()
    for chips in (1, 2):
        out, _ = variant.prefill(Q, K, V, chips=chips, columns=8, lanes=2)
        assert np.abs(np.asarray(out) - attend(Q, k, v)).max() <= allowed
    newest = Q[:, :, -1:]
    out, lse = variant.decode(newest, (K, V))
    assert np.abs(np.asarray(out) - attend(newest, k, v, KEYS - 1)).max() <= allowed
    assert lse is not None and lse.shape == (BATCH, HEADS, 1)


def test_it_checks_itself() -> None:
    variant = mxfp8_cache(alibi(4), BLOCK)
    report = variant.check(chips=(1,))
    assert report.agrees and report.name == "mxfp8 alibi"
    assert isinstance(variant, AttentionVariant)


def test_the_wafer_holds_bytes() -> None:
    sizes: dict[str, Any] = dict(tokens=1024, heads=4, kv_heads=4, head_dim=64)
    region: dict[str, Any] = dict(rows=4, parts=2)
    variant, _ = make("mxfp8_cache", Sizes(**sizes))
    clock = variant.time(**sizes, **region)
    plain = causal().time(**sizes, **region)
    assert clock.name == "mxfp8 causal" and clock.prefill == plain.prefill
    # 256 slots of 32 features of keys and of values, one power each; pieces of 64 are made wide.
    saved = plain.decode.sram_bytes - clock.decode.sram_bytes
    assert 256 * (2 * 32 - 2) - 64 * 32 * 2 - 64 * 4 <= saved <= 256 * (2 * 32 - 2)
    assert clock.decode.cycles["nominal"] > plain.decode.cycles["nominal"]
    assert "mxfp8 causal" in str(variant.explain(**sizes, **region))
    assert CATALOGUE["mxfp8_cache"].own_operands


def test_refuses_blocks_that_do_not_divide_a_head() -> None:
    with pytest.raises(LimitExceeded, match="block is 3, must divide 8 features"):
        mxfp8_cache(causal(), 3).dense(Q, K, V)
