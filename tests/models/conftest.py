"""Shared by the model tests: the reference folders, and a writer of GGUF files."""

import pathlib
from collections.abc import Callable
from typing import Any

import gguf
import numpy as np
import pytest
import safetensors.numpy

from models.config import ModelConfig
from models.loading.hf_folder import load_hf_folder
from tests.models.loading.checkpoints import GGUF_LAYER, GGUF_OUTER

DATA = pathlib.Path(__file__).parent / "data"
REFERENCES = sorted(folder.name for folder in DATA.iterdir() if folder.is_dir())
GGUF_OUTER_NAMES = {
    f"{ours}.weight": f"{theirs}.weight" for ours, theirs in GGUF_OUTER.items()
}


@pytest.fixture(params=REFERENCES)
def reference(request: pytest.FixtureRequest) -> pathlib.Path:
    """Each folder of random weights with Hugging Face's logits, in turn."""
    return DATA / request.param


def permuted(rows: np.ndarray, heads: int) -> np.ndarray:
    """llama.cpp's conversion of q and k rows: each RoPE pair side by side."""
    head_dim = rows.shape[0] // heads
    order = [
        half * head_dim // 2 + pair for pair in range(head_dim // 2) for half in (0, 1)
    ]
    return rows.reshape(heads, head_dim, -1)[:, order].reshape(rows.shape)


def byte_tokens() -> list[str]:
    """96 tokens: two controls, the byte alphabet's first 90, and four merged ones."""
    from models.loading.tokenizer import BYTES

    return ["<|end|>", "<|im_start|>", *list(BYTES)[:90], "he", "ll", "hell", "hello"]


def add_metadata(writer: gguf.GGUFWriter, config: ModelConfig) -> None:
    """Everything that a converter writes besides tensors."""
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_key_length(config.head_dim)
    writer.add_value_length(config.head_dim)
    writer.add_rope_freq_base(config.rope_theta)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm")
    writer.add_token_list(byte_tokens())
    writer.add_token_types([3, 3] + [1] * 94)
    writer.add_token_merges(["h e", "l l", "he ll", "hell o"])
    writer.add_eos_token_id(0)
    writer.add_bool("tokenizer.ggml.add_bos_token", False)


@pytest.fixture
def write_gguf(tmp_path: pathlib.Path) -> Callable[..., pathlib.Path]:
    """Converts a reference folder to a GGUF file with F32 tensors, as llama.cpp would."""

    def write(folder: pathlib.Path, architecture: str | None = None) -> pathlib.Path:
        config, _, _ = load_hf_folder(folder)
        weights = safetensors.numpy.load_file(folder / "model.safetensors")
        path = tmp_path / f"{folder.name}.gguf"
        writer: Any = gguf.GGUFWriter(path, architecture or config.model_type)
        add_metadata(writer, config)
        for name, values in weights.items():
            heads = {
                "q_proj": config.num_attention_heads,
                "k_proj": config.num_key_value_heads,
            }
            for part, count in heads.items():
                if part in name and config.model_type == "llama":
                    values = permuted(values, count)
            writer.add_tensor(gguf_name(name), values)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        return path

    return write


def gguf_name(name: str) -> str:
    """llama.cpp's name of a Hugging Face tensor."""
    if name in GGUF_OUTER_NAMES:
        return GGUF_OUTER_NAMES[name]
    _, _, layer, rest = name.split(".", 3)
    return f"blk.{layer}.{GGUF_LAYER[rest.removesuffix('.weight')]}.weight"
