"""GGUF models: the same weights as Hugging Face's folder gives."""

import dataclasses

import pytest

from models.errors import ModelError
from models.loading.gguf_file import read_header
from models.loading.gguf_model import read_config, read_weights
from models.loading.load import load
from tests.models.loading.files import LLAMA, REFERENCE, WriteGguf, assert_same, refused


@pytest.mark.parametrize(
    "name", ["llama_mha_untied", "qwen3_gqa_untied", "qwen3_gqa_tied"]
)
def test_gguf_is_the_hugging_face_folder(name: str, write_gguf: WriteGguf) -> None:
    folder, from_gguf = load(REFERENCE / name), load(write_gguf(REFERENCE / name))
    assert_same(folder.weights, from_gguf.weights)
    for field in (
        "model_type",
        "head_dim",
        "rope_theta",
        "rms_norm_eps",
        "tie_word_embeddings",
    ):
        assert getattr(from_gguf.config, field) == getattr(folder.config, field), field
    assert from_gguf.tokenizer.encode("hello") == [95]
    assert from_gguf.tokenizer.eos_ids == {0}
    with pytest.raises(ModelError, match="no tokenizer.json"):
        _ = folder.tokenizer


def test_gguf_of_another_architecture_is_refused(write_gguf: WriteGguf) -> None:
    refused(
        write_gguf(LLAMA, architecture="gemma"), "architecture 'gemma' is not supported"
    )


def test_sizes_of_tensors_are_checked(
    write_gguf: WriteGguf,
) -> None:
    file = read_header(write_gguf(LLAMA))
    config = dataclasses.replace(read_config(file), intermediate_size=70)
    with pytest.raises(
        ModelError,
        match=r"ffn_gate.weight must hold w_gate of \[32, 70\], got \[32, 72\]",
    ):
        read_weights(file, config)
