"""RoPE tables by their definition, in every form of scaling."""

import dataclasses
import math
from typing import Any

import numpy as np
import pytest

from models.catalogue import LLAMA_3_1_8B, QWEN3_0_6B, TINY
from models.config import ModelConfig
from models.plain.rope import attention_scale, frequencies, rope_tables


def test_rope_tables_turn_by_the_definition() -> None:
    cos, sin = rope_tables(QWEN3_0_6B, [0, 1, 777])
    assert cos.shape == sin.shape == (3, 64)
    assert cos.dtype == sin.dtype == np.float32
    angle = 777 * 1e6 ** (-2 * 5 / 128)
    assert cos[2, 5] == pytest.approx(math.cos(angle), abs=1e-7)
    assert sin[2, 5] == pytest.approx(math.sin(angle), abs=1e-7)


def test_llama3_scaling_keeps_fast_pairs_and_slows_slow_ones() -> None:
    plain = dataclasses.replace(LLAMA_3_1_8B, rope_scaling=None)
    _, plain_sin = rope_tables(plain, [1])
    _, sin = rope_tables(LLAMA_3_1_8B, [1])
    assert sin[0, 0] == plain_sin[0, 0]
    # The slowest pair's wavelength, 5e5 ** (126/128) * 2 pi, is far over 8192: slowed by 8.
    assert sin[0, -1] == pytest.approx(plain_sin[0, -1] / 8, rel=1e-6)


def scaled(kind: str, **fields: Any) -> ModelConfig:
    """The tiny model, whose heads have 12 pairs, with a scaling; context 1024."""
    return dataclasses.replace(TINY, rope_scaling={"rope_type": kind} | fields)


PLAIN = 10000.0 ** (-np.arange(0, 24, 2) / 24)
SHORT = [1.0 + pair / 100 for pair in range(12)]
LONG = [1.0 + pair for pair in range(12)]
LONGROPE = {
    "short_factor": SHORT,
    "long_factor": LONG,
    "original_max_position_embeddings": 256,
}


def test_linear_scaling_slows_every_pair_and_divisors_each_its_own() -> None:
    np.testing.assert_allclose(frequencies(scaled("linear", factor=4.0)), PLAIN / 4)
    np.testing.assert_allclose(
        frequencies(scaled("divisors", divisors=LONG)), PLAIN / LONG
    )


def test_dynamic_scaling_sets_in_behind_the_context() -> None:
    config = scaled("dynamic", factor=2.0)
    np.testing.assert_array_equal(frequencies(config, 1024), frequencies(config, 1))
    # Twice the context: the base grows by (2 * 2 - 1) ** (24 / 22).
    base = 10000.0 * 3.0 ** (24 / 22)
    np.testing.assert_allclose(
        frequencies(config, 2048), base ** (-np.arange(0, 24, 2) / 24)
    )


def test_yarn_keeps_fast_pairs_slows_slow_ones_and_scales_attention() -> None:
    config = scaled("yarn", factor=4.0, original_max_position_embeddings=256)
    # Pair p turns 256 / 2 pi * 10000 ** (-p / 12) times: 32 at p = 0.31, once at p = 4.83. The ramp
    # goes from pair 0 to pair 5.
    kept = np.clip(1 - np.arange(12) / 5, 0, 1)
    np.testing.assert_allclose(
        frequencies(config), kept * PLAIN + (1 - kept) * PLAIN / 4
    )
    scale = 0.1 * math.log(4) + 1
    cos, sin = rope_tables(config, [0, 7])
    np.testing.assert_allclose(cos[0], scale, rtol=1e-6)
    np.testing.assert_allclose(cos**2 + sin**2, scale**2, rtol=1e-6)


def test_longrope_has_one_set_of_frequencies_behind_the_original_context() -> None:
    config = scaled("longrope", **LONGROPE)
    np.testing.assert_allclose(frequencies(config, 256), PLAIN / SHORT)
    np.testing.assert_allclose(frequencies(config, 257), PLAIN / LONG)
    # 1024 is four times 256, whose logarithm is 8 ln 2: 1 + 2 / 8.
    assert attention_scale(config) == pytest.approx(math.sqrt(1.25))


def test_each_position_may_belong_to_a_sequence_of_its_own_length() -> None:
    config = scaled("longrope", **LONGROPE)
    positions = np.asarray([3, 255, 256, 300])
    whole = rope_tables(config, positions)  # a sequence of 301: long
    steps = rope_tables(config, positions, positions + 1)  # decode, token by token
    short = rope_tables(config, positions, 256)
    for kind in range(2):
        np.testing.assert_array_equal(steps[kind][:2], short[kind][:2])
        np.testing.assert_array_equal(steps[kind][2:], whole[kind][2:])
    assert not np.allclose(steps[0][1], whole[0][1])
