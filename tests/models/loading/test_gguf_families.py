"""GGUF files of every family: the weights, forms and angles that the Hugging Face folder gives."""

import json
import pathlib
import tracemalloc
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import safetensors.numpy

from models.config import ModelConfig
from models.families import FAMILIES
from models.loading.gguf_forms import FORMS
from models.loading.load import load
from models.plain.rope import rope_tables
from tests.models.loading.files import (
    REFERENCE,
    WriteGguf,
    assert_same,
    copy_of,
    edit_config,
    refused,
)

Edit = Callable[[pathlib.Path], Any]


def without_dense_layer(folder: pathlib.Path) -> None:
    """llama.cpp's Qwen3 has experts in all layers: layers 0 and 2 of the three."""
    edit_config(folder, num_hidden_layers=2, mlp_only_layers=[])
    path = folder / "model.safetensors"
    tensors = safetensors.numpy.load_file(path)
    kept = {
        name.replace("layers.2.", "layers.1."): values
        for name, values in tensors.items()
        if "layers.1." not in name
    }
    safetensors.numpy.save_file(kept, path)


def changed(**fields: Any) -> Edit:
    return lambda folder: edit_config(folder, **fields)


def as_it_is(folder: pathlib.Path) -> None:
    """Nothing that no key of GGUF can say."""


PLAIN_ROPE = {"rope_type": "default", "rope_theta": 10000.0}
# What GGUF has no key for is as llama.cpp takes it.
FOLDERS: dict[str, Edit] = {
    "llama_gqa_tied_llama3": changed(rope_parameters=PLAIN_ROPE),
    "qwen2_biases_window": changed(use_sliding_window=False, layer_types=None),
    "qwen3_gqa_tied": as_it_is,
    "qwen3_moe": without_dense_layer,
    "gemma2": changed(query_pre_attn_scalar=12),
    "gemma3": changed(query_pre_attn_scalar=12),
    "phi3_partial": as_it_is,
    "smollm3": changed(no_rope_layers=[1, 1, 1, 0]),
    "gpt_oss": as_it_is,
    "glm4_moe": as_it_is,
    "deepseek_v3": as_it_is,
    "llama4": changed(attention_chunk_size=8192, floor_scale=8192, attn_scale=0.1),
    "minimax_m2": as_it_is,
    "mixtral": as_it_is,
}


@pytest.fixture(params=FOLDERS)
def folder(request: pytest.FixtureRequest, tmp_path: pathlib.Path) -> pathlib.Path:
    copy = copy_of(tmp_path, REFERENCE / request.param)
    FOLDERS[request.param](copy)
    return copy


def assert_computes_the_same(one: ModelConfig, other: ModelConfig) -> None:
    """Layers of the same forms, with the same angles."""
    assert one.forms == other.forms
    for field in (
        "model_type",
        "rms_norm_eps",
        "logit_soft_cap",
        "tie_word_embeddings",
        "num_key_value_heads",
        "vocab_size",
        "intermediate_size",
    ):
        assert getattr(one, field) == getattr(other, field), field
    for rotation in one.rotations:
        for first, second in zip(
            rope_tables(one, range(100), rotation=rotation),
            rope_tables(other, range(100), rotation=rotation),
            strict=True,
        ):
            np.testing.assert_array_equal(first, second)


def test_gguf_is_the_folder(folder: pathlib.Path, write_gguf: WriteGguf) -> None:
    from_folder, from_gguf = load(folder), load(write_gguf(folder))
    assert_same(from_folder.weights, from_gguf.weights)
    assert_computes_the_same(from_folder.config, from_gguf.config)


def test_every_architecture_of_a_family_has_a_form() -> None:
    named = {family.gguf_architecture for family in FAMILIES.values()} - {None}
    assert named == set(FORMS)


# --- variants of one family ---


def test_keys_and_values_of_a_latent_may_be_joined(write_gguf: WriteGguf) -> None:
    folder = REFERENCE / "deepseek_v3"
    joined = load(write_gguf(folder, splits_pair=False))
    assert_same(load(folder).weights, joined.weights)
    assert_computes_the_same(load(folder).config, joined.config)


def one_by_one(tensors: dict[str, np.ndarray]) -> None:
    """A tensor for each expert, as before April 2024."""
    for name in [name for name in tensors if "_exps" in name]:
        for expert, values in enumerate(tensors.pop(name)):
            tensors[name.replace("_exps", f".{expert}")] = values


def gate_with_up(tensors: dict[str, np.ndarray]) -> None:
    """The two in one tensor, the gate first."""
    for name in [name for name in tensors if "gate_exps" in name]:
        both = tensors.pop(name), tensors.pop(name.replace("gate", "up"))
        joined = np.concatenate(both, axis=1)
        tensors[name.replace("gate", "gate_up")] = joined


@pytest.mark.parametrize(
    ("source", "change"),
    [("mixtral", one_by_one), ("deepseek_v3", gate_with_up)],
    ids=["one by one", "gate with up"],
)
def test_experts_may_be_held_otherwise(
    source: str, change: Any, write_gguf: WriteGguf
) -> None:
    loaded = load(write_gguf(REFERENCE / source, change_tensors=change))
    assert_same(load(REFERENCE / source).weights, loaded.weights)


def test_experts_held_otherwise_are_checked(write_gguf: WriteGguf) -> None:
    def lacking(tensors: dict[str, np.ndarray]) -> None:
        one_by_one(tensors)
        del tensors["blk.1.ffn_up.2.weight"]

    def unequal(tensors: dict[str, np.ndarray]) -> None:
        one_by_one(tensors)
        tensors["blk.1.ffn_up.2.weight"] = np.ones((24, 16), np.float32)

    def narrow(tensors: dict[str, np.ndarray]) -> None:
        gate_with_up(tensors)
        name = "blk.1.ffn_gate_up_exps.weight"
        tensors[name] = np.ascontiguousarray(tensors[name][:, 1:])

    def check(source: str, change: Any, message: str) -> None:
        refused(write_gguf(REFERENCE / source, change_tensors=change), message)

    def twice(tensors: dict[str, np.ndarray]) -> None:
        name = "blk.1.ffn_gate_exps.weight"
        usual = tensors[name]
        gate_with_up(tensors)
        tensors[name] = usual

    check("deepseek_v3", twice, "unsupported tensors .*ffn_gate_up_exps")
    check("mixtral", lacking, "lacks tensors .*blk.1.ffn_up_exps.*unsupported")
    check("mixtral", unequal, r"ffn_up.2.weight must be \[24, 32\], got \[24, 16\]")
    check("deepseek_v3", narrow, r"gate_up_exps.weight must be \[8, 32, 32\], got")


def test_layers_behind_the_last_are_not_read(write_gguf: WriteGguf) -> None:
    def add(tensors: dict[str, np.ndarray]) -> None:
        tensors["blk.3.nextn.eh_proj.weight"] = np.ones((32, 64), np.float32)
        tensors["blk.3.attn_norm.weight"] = np.ones(32, np.float32)

    loaded = load(write_gguf(REFERENCE / "glm4_moe", change_tensors=add))
    assert loaded.config.num_hidden_layers == 3
    assert_same(load(REFERENCE / "glm4_moe").weights, loaded.weights)


def test_a_pattern_of_windows_may_be_given_by_layer(write_gguf: WriteGguf) -> None:
    kinds = json.loads((REFERENCE / "gpt_oss" / "config.json").read_text())

    def by_layer(writer: Any) -> None:
        writer.add_array(
            "gpt-oss.attention.sliding_window_pattern", [False, True, True]
        )

    loaded = load(write_gguf(REFERENCE / "gpt_oss", change=by_layer))
    assert kinds["layer_types"][0] == "sliding_attention"
    assert [form.attention.window for form in loaded.config.forms] == [None, 8, 8]


def test_longrope_is_told_by_its_tensors(write_gguf: WriteGguf) -> None:
    """Converters of Phi-3 write no type; four features of eight turn, in two pairs."""
    factors = {"short": [1.0, 2.0], "long": [3.0, 5.0]}

    def add(tensors: dict[str, np.ndarray]) -> None:
        for length, values in factors.items():
            tensors[f"rope_factors_{length}.weight"] = np.asarray(values, np.float32)

    def scale(writer: Any) -> None:
        writer.add_rope_scaling_orig_ctx_len(32)
        writer.add_rope_scaling_attn_factors(1.25)

    path = write_gguf(REFERENCE / "phi3_partial", change=scale, change_tensors=add)
    assert load(path).config.rope_scaling == {
        "rope_type": "longrope",
        "short_factor": [1.0, 2.0],
        "long_factor": [3.0, 5.0],
        "original_max_position_embeddings": 32,
        "attention_factor": 1.25,
    }


# --- what is refused, by name ---

INT, FLOAT = "add_uint32", "add_float32"
FAULTS: dict[str, tuple[str, str, str, Any, str]] = {
    "softmax of DeepSeek-V2": (
        "deepseek_v3",
        INT,
        "deepseek2.expert_gating_func",
        1,
        "expert_gating_func is 1; supported is 2",
    ),
    "a factor of YaRN": (
        "deepseek_v3",
        FLOAT,
        "deepseek2.rope.scaling.attn_factor",
        0.5,
        "attn_factor is 0.5; supported is 1",
    ),
    "a temperature": (
        "deepseek_v3",
        FLOAT,
        "deepseek2.attention.temperature_scale",
        0.1,
        "temperature_scale=.* is not supported",
    ),
    "another width of a value": (
        "deepseek_v3",
        INT,
        "deepseek2.attention.value_length_mla",
        12,
        r"attn_v_b.weight must be \[4, 12, 20\], got \[4, 10, 20\]",
    ),
    "no width": (
        "deepseek_v3",
        INT,
        "deepseek2.attention.key_length_mla",
        0,
        "key_length_mla is 0; supported is a whole number from 1",
    ),
    "a base of windows": (
        "gpt_oss",
        FLOAT,
        "gpt-oss.rope.freq_base_swa",
        1e4,
        "freq_base_swa is 10000.0; supported is rope.freq_base, 150000.0",
    ),
    "a period of none": (
        "gpt_oss",
        INT,
        "gpt-oss.attention.sliding_window_pattern",
        0,
        "sliding_window_pattern is 0; supported is a whole number from 1",
    ),
    "a pattern too short": (
        "gpt_oss",
        "add_array",
        "gpt-oss.attention.sliding_window_pattern",
        [True],
        r"sliding_window_pattern is \[True\]; supported is a yes or no for each of 3",
    ),
    "sigmoid experts": (
        "mixtral",
        INT,
        "llama.expert_gating_func",
        2,
        "llama.expert_gating_func=2 is not supported",
    ),
    "more experts": (
        "minimax_m2",
        INT,
        "minimax-m2.expert_count",
        8,
        r"ffn_gate_inp.weight must hold router of \[32, 8\], got \[32, 6\]",
    ),
    "more experts than there are": (
        "minimax_m2",
        INT,
        "minimax-m2.expert_used_count",
        7,
        "chosen",
    ),
    "no chunks": (
        "llama4",
        INT,
        "llama4.attention.sliding_window",
        0,
        "sliding_window=0 is not supported; supported is 8192",
    ),
    "a step of none": (
        "llama4",
        INT,
        "llama4.interleave_moe_layer_step",
        0,
        "interleave_moe_layer_step is 0",
    ),
    "a billion layers": (
        "smollm3",
        INT,
        "smollm3.block_count",
        10**9,
        "claims 1000000000 layers, but holds",
    ),
    "a scale that is no number": (
        "glm4_moe",
        FLOAT,
        "glm4moe.expert_weights_scale",
        float("nan"),
        "expert_weights_scale is nan; supported is a finite number",
    ),
    "caps of Gemma 3": (
        "gemma3",
        FLOAT,
        "gemma3.final_logit_softcapping",
        30.0,
        "final_logit_softcapping=30.0 is not supported",
    ),
}


@pytest.mark.parametrize("name", FAULTS)
def test_what_no_layer_computes_is_refused_by_name(
    name: str, write_gguf: WriteGguf
) -> None:
    source, add, key, value, message = FAULTS[name]

    def change(writer: Any) -> None:
        writer.kv_data[0].pop(key, None)
        getattr(writer, add)(key, value)

    refused(write_gguf(REFERENCE / source, change=change), message)


def test_sizes_that_a_file_only_claims_take_no_memory(write_gguf: WriteGguf) -> None:
    """Experts of 2^24 features would take 12 GB, and the file has a few thousand values."""

    def claim(writer: Any) -> None:
        writer.kv_data[0].pop("minimax-m2.expert_feed_forward_length")
        writer.add_expert_feed_forward_length(1 << 24)

    path = write_gguf(REFERENCE / "minimax_m2", change=claim)
    tracemalloc.start()
    refused(path, r"ffn_gate_exps.weight must hold expert_gate of \[6, 32, 16777216\]")
    _, peak_bytes = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak_bytes < 64 << 20


def test_a_latent_that_lacks_half_of_a_pair_is_refused(write_gguf: WriteGguf) -> None:
    def drop(tensors: dict[str, np.ndarray]) -> None:
        del tensors["blk.1.attn_v_b.weight"]

    path = write_gguf(REFERENCE / "deepseek_v3", change_tensors=drop)
    refused(path, "lacks tensors .*blk.1.attn_kv_b.weight.*unsupported .*attn_k_b")
