"""Sizes: every weight is counted, and impossible ones are refused."""

import dataclasses
import math
from typing import Any

import pytest

from models.catalogue import CATALOGUE, LLAMA_3_1_8B, TINY
from models.config import ModelConfig
from models.errors import ModelError
from models.plain.weights import flatten, weight_shapes

YARN = {
    "rope_type": "yarn",
    "factor": 2.0,
    "original_max_position_embeddings": 512,
}


@pytest.mark.parametrize("config", CATALOGUE.values(), ids=lambda config: config.name)
def test_parameters_count_every_weight(config: ModelConfig) -> None:
    """Per layer q, k, v and output, three matrices of the MLP, two norms, Qwen3's two more."""
    width = config.hidden_size
    heads = 2 * config.num_attention_heads + 2 * config.num_key_value_heads
    head_norms = 2 * config.head_dim if config.model_type == "qwen3" else 0
    layer = width * heads * config.head_dim + 3 * width * config.intermediate_size
    layers = config.num_hidden_layers * (layer + 2 * width + head_norms)
    tables = 1 if config.tie_word_embeddings else 2
    expected = layers + tables * config.vocab_size * width + width
    assert config.parameters == expected
    shapes = flatten(weight_shapes(config))
    assert sum(math.prod(shape) for shape in shapes.values()) == expected


def test_config_is_hashable() -> None:
    assert hash(LLAMA_3_1_8B) == hash(dataclasses.replace(LLAMA_3_1_8B))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"num_key_value_heads": 3}, "multiple of num_key_value_heads, got 4 and 3"),
        ({"head_dim": 7}, "head_dim must be even"),
        ({"hidden_size": 0}, "hidden_size must be a whole number"),
        ({"hidden_size": 1 << 60}, "hidden_size must be a whole number"),
        ({"vocab_size": True}, "vocab_size must be a whole number"),
        ({"vocab_size": 9.5}, "vocab_size must be a whole number"),
        ({"rms_norm_eps": 0.0}, "rms_norm_eps must be a positive number"),
        ({"rope_theta": float("nan")}, "rope_theta must be a positive number"),
        ({"model_type": "gemma"}, "model_type 'gemma' is not supported"),
        ({"rope_theta": 1.0}, "rope_theta must not be 1"),
        ({"rope_scaling": {"rope_type": "su", "factor": 2.0}}, "got 'su'"),
        (
            {"rope_scaling": {"rope_type": "yarn", "factor": 2.0}},
            "rope_scaling.original_max_position_embeddings must be a positive number",
        ),
        (
            {"rope_scaling": {"rope_type": "linear", "factor": 2.0, "beta_fast": 3}},
            "rope_scaling.beta_fast=3 is nothing that rope_type 'linear' uses",
        ),
        (
            {"rope_scaling": {"rope_type": "linear", "factor": float("nan")}},
            "rope_scaling.factor must be a positive number",
        ),
        (
            {"rope_scaling": {"rope_type": "divisors", "divisors": [1.0] * 11}},
            "rope_scaling.divisors must be a list of 12 numbers",
        ),
        (
            {"rope_scaling": {"rope_type": "divisors", "divisors": [0.0] * 12}},
            "each number of rope_scaling.divisors must be a positive number",
        ),
        (
            {"rope_scaling": YARN | {"beta_fast": 1, "beta_slow": 2}},
            "beta_fast must be at least beta_slow",
        ),
        ({"rope_scaling": YARN | {"truncate": "no"}}, "truncate must be true or false"),
        (
            {"head_dim": 2, "rope_scaling": {"rope_type": "dynamic", "factor": 2.0}},
            "'dynamic' needs head_dim over 2",
        ),
        (
            {"rope_scaling": {"rope_type": "llama3", "factor": 2.0}},
            "rope_scaling.low_freq_factor",
        ),
    ],
)
def test_impossible_sizes_are_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ModelError, match=message) as raised:
        dataclasses.replace(TINY, **change)
    assert "\n" not in str(raised.value)
