"""The cosines and sines by which RoPE turns each pair of a head, at each position.

Every form of scaling is computed as transformers' `modeling_rope_utils.py` does, in float64. Two of
them depend on how long the sequence is: a token at position 5 is turned by other angles in a long
sequence than in a short one. A cached key keeps the angles of the sequence it was computed in.
"""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from models.config import ModelConfig
from models.layer_form import Rotation
from models.rope_scaling import ORIGINAL


def rope_tables(
    config: ModelConfig,
    positions: ArrayLike,
    lengths: ArrayLike | None = None,
    rotation: Rotation | None = None,
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Cosines and sines for Hugging Face's rotate-half convention.

    Of the `width` features that turn, pair `i` is elements `i` and `i + width / 2`. Angles are
    float64 and cast at the end: float32 angles lose about a hundredth of a radian at position
    100,000. YaRN and LongRoPE scale attention by scaling both.

    Args:
        config: Gives RoPE's width, base and scaling.
        positions: Known integer positions `[n]`, not traced.
        lengths: How many tokens the sequence has when a position is computed, of all positions or
            of each, `[n]`: a prompt's length in prefill, `position + 1` in decode. By default the
            last position plus 1.
        rotation: Of the layers that the tables are for; None: that of a model which has only one.

    Returns:
        `(cos, sin)`, each float32 `[n, width / 2]`.
    """
    if rotation is not None:
        config = of_rotation(config, rotation)
    places = np.asarray(positions, np.int64)
    reached = places.max(initial=-1) + 1
    # Each token by its own length: a key in the cache keeps the angles of the step that computed
    # it.
    counting = length_that_counts(config, reached if lengths is None else lengths)
    # A few lengths give different frequencies, of which LongRoPE has two.
    distinct, which = np.unique(counting, return_inverse=True)
    by_length = np.stack([frequencies(config, int(length)) for length in distinct])
    angles = places[:, None] * by_length[np.broadcast_to(which, places.shape)]
    scale = attention_scale(config)
    cos, sin = scale * np.cos(angles), scale * np.sin(angles)
    return cos.astype(np.float32), sin.astype(np.float32)


def of_rotation(config: ModelConfig, rotation: Rotation) -> ModelConfig:
    """A config whose RoPE is that of some of a model's layers."""
    scaling = config.rope_scaling if rotation.is_scaled else None
    return dataclasses.replace(
        config,
        rope_theta=rotation.theta,
        rope_scaling=scaling,
        rotary_dim=rotation.width,
    )


def length_that_counts(config: ModelConfig, lengths: ArrayLike) -> NDArray[np.int64]:
    """The least length with the same frequencies, of each length.

    Dynamic scaling sets in behind `max_position_embeddings`, LongRoPE's long factors one token
    behind the original context; the frequencies of all other forms are those of length 0.
    """
    given = np.asarray(lengths, np.int64)
    kind = scaling_of(config).get("rope_type")
    if kind == "dynamic":
        return np.maximum(given, config.max_position_embeddings)
    if kind == "longrope":
        original = scaling_of(config)[ORIGINAL]
        # One set of frequencies up to the original context and one behind it: a length of each
        # stands for all. A context of 4096.5 ends with token 4096.
        return np.where(given > original, math.floor(original) + 1, 0)
    return np.zeros_like(given)


def length_limits(config: ModelConfig) -> tuple[int | None, int | None]:
    """Up to which length the frequencies are those of a short sequence, and up to which of any.

    The first is LongRoPE's original context, behind which one other set of frequencies holds. The
    second is where dynamic scaling sets in, which needs a set of its own for every length.
    """
    kind = scaling_of(config).get("rope_type")
    if kind == "longrope":
        return math.floor(scaling_of(config)[ORIGINAL]), None
    if kind == "dynamic":
        return None, config.max_position_embeddings
    return None, None


def scaling_of(config: ModelConfig) -> Mapping[str, Any]:
    """The config's scaling; empty where it has none."""
    return config.rope_scaling or {}


def frequencies(config: ModelConfig, length: int = 0) -> NDArray[np.float64]:
    """Radians per position of each pair in a sequence of `length`, float64 `[width / 2]`."""
    plain = plain_frequencies(config.rope_theta, config.rotated_width)
    scaling = scaling_of(config)
    match scaling.get("rope_type"):
        case None:
            return plain
        case "linear":
            return plain / scaling["factor"]
        case "divisors":
            return plain / np.asarray(scaling["divisors"], np.float64)
        case "dynamic":
            base = dynamic_base(config, length)
            return plain_frequencies(base, config.rotated_width)
        case "longrope":
            long = length > scaling[ORIGINAL]
            divisors = scaling["long_factor" if long else "short_factor"]
            return plain / np.asarray(divisors, np.float64)
        case "yarn":
            kept = yarn_kept_share(config)
        case _:
            kept = llama3_kept_share(config)
    # A pair that keeps half at a factor of 8 turns 0.5 + 0.5 / 8 = 0.5625 times as fast.
    return kept * plain + (1.0 - kept) * plain / scaling["factor"]


def plain_frequencies(base: float, head_dim: int) -> NDArray[np.float64]:
    """RoPE's own: pair `i` turns by `base ** (-2 i / head_dim)` radians per position."""
    even = np.arange(0, head_dim, 2, dtype=np.float64)
    return base ** (-even / head_dim)


def dynamic_base(config: ModelConfig, length: int) -> float:
    """Dynamic NTK's base: larger with every token behind the context the model was trained on.

    A factor of 2 at twice the context multiplies the base by `2 * 2 - 1 = 3` to the power of
    `d / (d - 2)`, which is just over 1; up to the context itself by 1.
    """
    factor = scaling_of(config)["factor"]
    context = config.max_position_embeddings
    stretch = factor * max(length, context) / context - (factor - 1)
    # The exponent makes the slowest pair, `base ** (-(d - 2) / d)`, exactly `stretch` times slower,
    # while the fastest, `base ** 0`, stays.
    head_dim = config.rotated_width
    return config.rope_theta * stretch ** (head_dim / (head_dim - 2))


def llama3_kept_share(config: ModelConfig) -> NDArray[np.float64]:
    """How much of each pair's frequency Llama 3 keeps; the rest is slowed by the factor.

    Long wavelengths are slowed, short ones kept, those between interpolated. Llama 3.1's pair 0
    turns 8192 / 2 pi = 1304 times in its original context, over `high`, 4, and is kept; a pair
    that turns less than `low`, once, is slowed 8 times.
    """
    scaling = scaling_of(config)
    plain = plain_frequencies(config.rope_theta, config.rotated_width)
    turns = scaling[ORIGINAL] * plain / (2 * np.pi)
    low, high = scaling["low_freq_factor"], scaling["high_freq_factor"]
    if low == high:
        return (turns >= low).astype(np.float64)
    return np.clip((turns - low) / (high - low), 0.0, 1.0)


def yarn_kept_share(config: ModelConfig) -> NDArray[np.float64]:
    """How much of each pair's frequency YaRN keeps; the rest is slowed by the factor.

    As Llama 3's, but the ramp is linear in the pair's number instead of its turns: it falls from
    the pair that turns `beta_fast` times (32) in the original context to the one that turns
    `beta_slow` times (once), both rounded outwards.
    """
    scaling = scaling_of(config)
    head_dim = config.rotated_width

    def pair_that_turns(times: float) -> float:
        # Pair i turns `context · base ** (-2 i / d) / 2 pi` times in the context, solved for i:
        # with a context of 4,096, base 10,000 and d 128 it is 20.9 for 32 turns and 45.03 for one.
        # Pairs 0 to 20 are kept, those from 46 on slowed by the whole factor.
        radians = scaling[ORIGINAL] / (times * 2 * math.pi)
        return head_dim * math.log(radians) / (2 * math.log(config.rope_theta))

    first = pair_that_turns(scaling.get("beta_fast", 32))
    last = pair_that_turns(scaling.get("beta_slow", 1))
    if scaling.get("truncate", True):
        first, last = math.floor(first), math.ceil(last)
    first, last = max(first, 0), min(last, head_dim - 1)
    width = last - first or 0.001  # a step where both are one pair
    slowed = (np.arange(head_dim // 2, dtype=np.float64) - first) / width
    return 1.0 - np.clip(slowed, 0.0, 1.0)


def attention_scale(config: ModelConfig) -> float:
    """What cosines and sines are multiplied by; scores are scaled by its square."""
    scaling = scaling_of(config)
    kind = scaling.get("rope_type")
    if kind not in ("yarn", "longrope"):
        return 1.0
    if "attention_factor" in scaling:
        return scaling["attention_factor"]
    if kind == "yarn":
        factor = scaling["factor"]
        both = scaling.get("mscale"), scaling.get("mscale_all_dim")
        if both[0] and both[1]:
            return yarn_scale(factor, both[0]) / yarn_scale(factor, both[1])
        return yarn_scale(factor)
    original = scaling[ORIGINAL]
    factor = scaling.get("factor", config.max_position_embeddings / original)
    if factor <= 1:
        return 1.0
    # From 4,096 to 32 times as much: sqrt(1 + 5 / 12) = 1.19.
    return math.sqrt(1 + math.log(factor) / math.log(original))


def yarn_scale(factor: float, multiplier: float = 1.0) -> float:
    """YaRN's `0.1 ln(factor) + 1`: 1.139 for a context four times as long."""
    if factor <= 1:
        return 1.0
    return 0.1 * multiplier * math.log(factor) + 1.0
