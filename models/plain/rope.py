"""The cosines and sines by which RoPE turns each pair of a head, at each position."""

import numpy as np
from numpy.typing import ArrayLike, NDArray

from models.config import ModelConfig


def rope_tables(
    config: ModelConfig, positions: ArrayLike
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Cosines and sines for Hugging Face's rotate-half convention.

    Pair `i` of a head is its elements `i` and `i + head_dim / 2`. Angles are float64 and cast at
    the end: float32 angles lose about a hundredth of a radian at position 100,000.

    Args:
        config: Gives head_dim, rope_theta and rope_scaling.
        positions: Known integer positions `[n]`, not traced.

    Returns:
        `(cos, sin)`, each float32 `[n, head_dim / 2]`.
    """
    angles = np.outer(np.asarray(positions, np.float64), frequencies(config))
    return np.cos(angles).astype(np.float32), np.sin(angles).astype(np.float32)


def frequencies(config: ModelConfig) -> NDArray[np.float64]:
    """Radians per position of each pair, float64 `[head_dim / 2]`, Llama 3 scaling applied."""
    even = np.arange(0, config.head_dim, 2, dtype=np.float64)
    plain = config.rope_theta ** (-even / config.head_dim)
    scaling = config.rope_scaling
    if scaling is None:
        return plain
    # Long wavelengths are slowed by the factor, short ones kept, those between interpolated.
    # Llama 3.1's pair 0 turns 8192 / 2 pi = 1304 times in its original context, over `high`, 4,
    # and is kept; a pair that turns less than `low`, once, is slowed 8 times.
    original = scaling["original_max_position_embeddings"]
    turns = original * plain / (2 * np.pi)
    low = scaling["low_freq_factor"]
    high = scaling["high_freq_factor"]
    kept = np.clip((turns - low) / (high - low), 0.0, 1.0)
    slowed = (1.0 - kept) * plain / scaling["factor"]
    return kept * plain + slowed
