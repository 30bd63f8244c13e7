"""RoPE tables by their definition, Llama 3 scaling included."""

import dataclasses
import math

import numpy as np
import pytest

from models.catalogue import LLAMA_3_1_8B, QWEN3_0_6B
from models.plain.rope import rope_tables


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
