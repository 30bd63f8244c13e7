"""Configs: what cannot be run is refused by name, whatever the file holds."""

import dataclasses
import json
from typing import Any

import pytest

from models.errors import ModelError
from models.loading.hf_config import from_hf
from tests.models.loading.files import REFERENCE

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


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"model_type": "mixtrals"},
            "model_type 'mixtrals' is not supported, the nearest is 'mixtral'",
        ),
        ({"model_type": ["llama"]}, "model_type .* is not supported"),
        ({"architectures": ["LlamaForSequenceClassification"]}, "architectures"),
        ({"attention_bias": 1.5}, "attention_bias=1.5 is not supported"),
        ({"hidden_act": "gelu"}, "hidden_act='gelu' is not supported"),
        ({"sliding_window": 4096}, "sliding_window=4096 is not supported"),
        ({"layer_types": ["full_attention", "sliding_attention"]}, "layer_types"),
        ({"quantization_config": {"bits": 4}}, "quantization_config"),
        ({"rope_scaling": {"type": "su", "factor": 2.0}}, "rope_type='su' is not"),
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
    windowed = from_hf(LLAMA | names, "a model", "a test")
    assert {form.attention.window for form in windowed.forms} == {4096}
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
    without = {key: value for key, value in LLAMA.items() if key != "rope_theta"}
    parameters = {"rope_parameters": scaling | {"rope_theta": 5e5}}
    new = from_hf(without | parameters, "m", "s")
    assert old == new
    assert old.rope_theta == 5e5
    assert old.rope_scaling == scaling


@pytest.mark.parametrize(
    "value", [None, [], {}, "x", -1, 0, 1e300, True, [None], {"a": 1}]
)
def test_any_value_in_a_config_loads_or_is_refused_in_one_line(value: Any) -> None:
    values = json.loads((REFERENCE / "llama_mha_untied" / "config.json").read_text())
    for name in (
        *values,
        "rope_scaling",
        "rope_theta",
        "sliding_window",
        "layer_types",
    ):
        try:
            from_hf(values | {name: value}, "a model", "a test")
        except ModelError as error:
            assert "\n" not in str(error)
