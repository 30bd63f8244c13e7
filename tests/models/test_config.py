"""Sizes: the catalogue agrees with what is published, and what cannot be run is refused by name."""

import dataclasses
import math
from typing import Any

import numpy as np
import pytest

from models.catalogue import CATALOGUE, LLAMA_3_1_8B, QWEN3_0_6B, TINY, find
from models.config import ModelConfig
from models.errors import ModelError
from models.loading.hf_config import from_hf
from models.plain.rope import rope_tables
from models.plain.weights import flatten, weight_shapes

LLAMA: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 96,
    "max_position_embeddings": 64,
    "rms_norm_eps": 1e-5,
    "rope_theta": 10000.0,
}


# Published sizes in billions, from the models' cards.
@pytest.mark.parametrize(
    ("name", "billions"),
    [
        ("smollm2-135m", 0.135),
        ("llama-3.1-8b", 8.03),
        ("llama-3.1-70b", 70.6),
        ("qwen3-0.6b", 0.6),
        ("qwen3-32b", 32.8),
        ("mistral-nemo-12b", 12.2),
    ],
)
def test_parameters_are_as_published(name: str, billions: float) -> None:
    assert CATALOGUE[name].parameters / 1e9 == pytest.approx(billions, rel=0.01)


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


def test_catalogue_names_what_it_knows() -> None:
    assert find("tiny") is TINY
    with pytest.raises(ModelError, match="no model named 'tony'.*tiny"):
        find("tony")


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
        ({"rope_scaling": {"rope_type": "yarn", "factor": 2.0}}, "got 'yarn'"),
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


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model_type": "mixtral"}, "model_type 'mixtral' is not supported"),
        ({"model_type": ["llama"]}, "model_type .* is not supported"),
        ({"architectures": ["LlamaForSequenceClassification"]}, "architectures"),
        ({"attention_bias": True}, "attention_bias=True is not supported"),
        ({"hidden_act": "gelu"}, "hidden_act='gelu' is not supported"),
        ({"sliding_window": 4096}, "sliding_window=4096 is not supported"),
        ({"layer_types": ["full_attention", "sliding_attention"]}, "layer_types"),
        ({"quantization_config": {"bits": 4}}, "quantization_config"),
        ({"rope_scaling": {"type": "linear", "factor": 2.0}}, "got 'linear'"),
        ({"rope_scaling": [1]}, "rope_scaling must be an object"),
        ({"rope_parameters": {"partial_rotary_factor": 0.5}}, "use full RoPE"),
        ({"num_attention_heads": 5}, "add head_dim"),
        ({"num_attention_heads": 0}, "add head_dim"),
        (
            {"model_type": "qwen3", "architectures": ["Qwen3ForCausalLM"]},
            "lacks head_dim",
        ),
    ],
)
def test_unsupported_files_are_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ModelError, match=message):
        from_hf(LLAMA | change, "a model", "a test")


def test_mistral_has_a_window_unless_its_file_says_null() -> None:
    names = {"model_type": "mistral", "architectures": ["MistralForCausalLM"]}
    with pytest.raises(ModelError, match="sliding_window=4096 is not supported"):
        from_hf(LLAMA | names, "a model", "a test")
    config = from_hf(LLAMA | names | {"sliding_window": None}, "a model", "a test")
    assert dataclasses.replace(config, model_type="llama") == from_hf(
        LLAMA, "a model", "a test"
    )


def test_missing_fields_are_named() -> None:
    with pytest.raises(ModelError, match="lacks vocab_size"):
        from_hf(
            {k: v for k, v in LLAMA.items() if k != "vocab_size"}, "a model", "a test"
        )


def test_both_spellings_of_rope_agree() -> None:
    scaling = {
        "rope_type": "llama3",
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 32,
    }
    old = from_hf(LLAMA | {"rope_theta": 5e5, "rope_scaling": scaling}, "m", "s")
    new = from_hf(LLAMA | {"rope_parameters": scaling | {"rope_theta": 5e5}}, "m", "s")
    assert old == new
    assert old.rope_theta == 5e5
    assert old.rope_scaling == scaling


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
