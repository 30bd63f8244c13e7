"""Hugging Face folders: shards, dtypes, tokenizers, and bad files refused in one line."""

import json
import pathlib

import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from models.errors import ModelError
from models.loading.hf_tokenizer import read_tokenizer
from models.loading.load import load
from models.loading.tokenizer import BYTES
from tests.models.loading.files import (
    LLAMA,
    REFERENCE,
    assert_same,
    copy_of,
    edit_config,
    refused,
)


def test_shards_are_one_model(tmp_path: pathlib.Path) -> None:
    whole, folder = load(LLAMA), copy_of(tmp_path)
    tensors = safetensors.numpy.load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    places = {name: f"part-{n % 2}.safetensors" for n, name in enumerate(tensors)}
    for part in set(places.values()):
        held = {
            name: values for name, values in tensors.items() if places[name] == part
        }
        safetensors.numpy.save_file(held, folder / part)
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": places}))
    assert_same(load(folder).weights, whole.weights)
    index.write_text(
        json.dumps({"weight_map": dict.fromkeys(places, "../other.safetensors")})
    )
    refused(folder, "plain file names, got '../other.safetensors'")
    index.write_text(
        json.dumps({"weight_map": dict.fromkeys(places, "gone.safetensors")})
    )
    refused(folder, "gone.safetensors: cannot be read .No such file")


def test_bfloat16_is_widened(tmp_path: pathlib.Path) -> None:
    folder = copy_of(tmp_path)
    tensors = safetensors.numpy.load_file(folder / "model.safetensors")
    narrow = {
        name: values.astype(ml_dtypes.bfloat16) for name, values in tensors.items()
    }
    safetensors.numpy.save_file(narrow, folder / "model.safetensors")
    embed = (
        tensors["model.embed_tokens.weight"]
        .astype(ml_dtypes.bfloat16)
        .astype(np.float32)
    )
    np.testing.assert_array_equal(load(folder).weights["embed"], embed)


def test_damaged_safetensors_are_refused(tmp_path: pathlib.Path) -> None:
    folder = copy_of(tmp_path)
    path = folder / "model.safetensors"
    data = path.read_bytes()
    for bad in (
        b"",
        data[:5],
        data[:-7],
        b"\xff" * 8 + data[8:],
        data[:8] + b"#" + data[9:],
    ):
        path.write_bytes(bad)
        refused(folder, f"not a whole safetensors file of {len(bad)} bytes")


def test_weights_that_are_no_numbers_are_refused(tmp_path: pathlib.Path) -> None:
    folder = copy_of(tmp_path)
    tensors = safetensors.numpy.load_file(folder / "model.safetensors")
    tensors["model.norm.weight"][3] = np.nan
    safetensors.numpy.save_file(tensors, folder / "model.safetensors")
    refused(folder, "tensor model.norm.weight: weights must be finite")


def test_pickled_weights_are_never_opened(tmp_path: pathlib.Path) -> None:
    folder = copy_of(tmp_path)
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    refused(
        folder, "found .*pytorch_model.bin.*never opened, convert them to safetensors"
    )
    refused(folder / "pytorch_model.bin", "pickled ones above all, are not opened")


def test_config_and_weights_must_agree(tmp_path: pathlib.Path) -> None:
    folder = copy_of(tmp_path)
    edit_config(folder, tie_word_embeddings=False, num_hidden_layers=4)
    refused(folder, "lacks tensors .*layers.3")
    edit_config(folder, num_hidden_layers=2)
    refused(folder, "unsupported tensors .*layers.2")
    edit_config(folder, num_hidden_layers=1 << 20)
    refused(folder, "claims 1048576 layers")
    edit_config(folder, num_hidden_layers=3, intermediate_size=70)
    refused(folder, r"must hold w_gate of \[32, 70\], got \[32, 72\]")
    edit_config(folder, intermediate_size=72, attention_bias=True)
    refused(folder, "lacks tensors .*k_proj.bias")
    (folder / "config.json").write_text("{")
    refused(folder, "config.json: not valid JSON")
    (folder / "config.json").write_text("[1]")
    refused(folder, "config.json must hold an object")
    (folder / "config.json").unlink()
    refused(folder, "config.json: cannot be read")


def test_experts_that_a_config_only_claims_are_refused(tmp_path: pathlib.Path) -> None:
    folder = copy_of(tmp_path, REFERENCE / "mixtral")
    edit_config(folder, num_local_experts=1 << 24)
    refused(folder, "claims 16777216 experts, but the weights hold")


def test_folder_tokenizer_brings_its_settings(tmp_path: pathlib.Path) -> None:
    source = Tokenizer(
        models.BPE({c: n for n, c in enumerate(BYTES)} | {"<end>": 256}, [])
    )
    source.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    source.decoder = decoders.ByteLevel()
    source.add_special_tokens(["<end>"])
    source.save(str(tmp_path / "tokenizer.json"))
    (tmp_path / "config.json").write_text('{"eos_token_id": [3, 4]}')
    (tmp_path / "tokenizer_config.json").write_text(
        '{"eos_token": {"content": "<end>"}, "chat_template": "<|im_start|>"}'
    )
    read = read_tokenizer(tmp_path)
    assert read.eos_ids == {3, 4, 256}
    assert read.chat_template == "<|im_start|>"
    assert read.decode([*read.encode("héllo"), 256]) == "héllo"
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(ModelError, match="not a tokenizer.json"):
        read_tokenizer(tmp_path)
