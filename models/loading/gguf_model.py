"""Turns a GGUF file's metadata and tensors into the canonical config, weights and tokenizer."""

import pathlib
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.config import LARGEST_SIZE, ModelConfig
from models.errors import ModelError
from models.family import Tensor, by_gguf_architecture
from models.loading.gguf_file import GgufFile, read_header
from models.loading.tokenizer import TextTokenizer, byte_level_bpe
from models.plain.weights import Weights, check_weights

CONTROL, USER_DEFINED = 3, 4  # token types of the format; both are matched whole


def load_gguf(path: pathlib.Path) -> tuple[ModelConfig, Weights, TextTokenizer]:
    """Reads a GGUF model of an architecture that `models.family` knows.

    Args:
        path: The file; untrusted.

    Returns:
        The config, float32 NumPy weights (the canonical pytree), and the tokenizer.

    Raises:
        ModelError: The file is corrupt, or holds something the transformer does not do.
    """
    file = read_header(path)
    config = read_config(file)
    return config, read_weights(file, config), read_tokenizer(file, config)


def read_config(file: GgufFile) -> ModelConfig:
    """The sizes, from the metadata."""
    architecture = field(file, "general.architecture", str)
    family = by_gguf_architecture(architecture, str(file.path))

    def size(key: str, default: int | None = None) -> int:
        return field(file, f"{architecture}.{key}", int, default)

    hidden = size("embedding_length")
    heads = size("attention.head_count")
    if heads < 1 or hidden < 1:
        raise ModelError(
            f"{file.path}: head_count and embedding_length must be positive"
        )
    head_dim = size("attention.key_length", hidden // heads)
    for key in ("attention.value_length", "rope.dimension_count"):
        if size(key, head_dim) != head_dim:
            raise ModelError(
                f"{file.path}: {architecture}.{key} must equal head_dim {head_dim}, "
                f"got {size(key)}; partial RoPE and unequal heads are not supported"
            )
    scaling = field(file, f"{architecture}.rope.scaling.type", str, "none")
    if scaling != "none" or "rope_freqs.weight" in file.tensors:
        raise ModelError(
            f"{file.path}: RoPE scaling ({scaling}, rope_freqs.weight) is not supported in GGUF; "
            "load the Hugging Face folder of this model instead"
        )
    if "token_embd.weight" not in file.tensors:
        raise ModelError(
            f"{file.path}: has no tensor token_embd.weight; not a whole model"
        )
    return ModelConfig(
        name=str(file.metadata.get("general.name", file.path.stem)),
        model_type=family.model_type,
        hidden_size=hidden,
        intermediate_size=size("feed_forward_length"),
        num_hidden_layers=size("block_count"),
        num_attention_heads=heads,
        num_key_value_heads=size("attention.head_count_kv", heads),
        head_dim=head_dim,
        vocab_size=file.tensors["token_embd.weight"].shape[0],
        max_position_embeddings=size("context_length"),
        rope_theta=decimal(
            field(file, f"{architecture}.rope.freq_base", float, 10000.0)
        ),
        rope_scaling=None,
        rms_norm_eps=decimal(
            field(file, f"{architecture}.attention.layer_norm_rms_epsilon", float)
        ),
        tie_word_embeddings="output.weight" not in file.tensors,
        source=str(file.path.name),
    )


def decimal(value: float) -> float:
    """The shortest decimal of a float32, so that a stored 1e-5 reads back as 1e-5.

    As a float64 the stored number is 9.999999747378752e-06, and a config would not compare equal.
    """
    return float(str(np.float32(value)))


def field(file: GgufFile, key: str, kind: type, default: Any = None) -> Any:
    """One metadata value of the expected type; ModelError where it is absent or another."""
    value = file.metadata.get(key, default)
    if value is None:
        raise ModelError(
            f"{file.path}: metadata lacks {key}; the file is not a whole model"
        )
    if not isinstance(value, kind) or isinstance(value, bool) != (kind is bool):
        raise ModelError(
            f"{file.path}: {key} must be one {kind.__name__}, got {type(value).__name__}; "
            "per-layer values are not supported"
        )
    return value


def read_weights(file: GgufFile, config: ModelConfig) -> Weights:
    """All tensors, dequantised, transposed to `y = x @ W`, and stacked by layer."""
    if config.num_hidden_layers > len(file.tensors):
        raise ModelError(
            f"{file.path}: claims {config.num_hidden_layers} layers, but holds "
            f"{len(file.tensors)} tensors; the file is corrupt"
        )
    names = config.family.names_in(
        "gguf", config.num_hidden_layers, config.tie_word_embeddings
    )
    lacking = sorted(set(names.values()) - file.tensors.keys())
    unknown = sorted(file.tensors.keys() - set(names.values()))
    if lacking or unknown:
        raise ModelError(
            f"{file.path}: lacks tensors {lacking[:3]} and has unsupported tensors {unknown[:3]}; "
            "biases, experts and scalings are not supported"
        )
    family = config.family
    weights: Weights = {
        tensor.name: np.ascontiguousarray(
            read_tensor(file, config, tensor, names[tensor.name])
        )
        for tensor in family.outer(config.tie_word_embeddings)
    }
    weights["layers"] = {
        tensor.name: read_stack(file, config, tensor, names)
        for tensor in family.layer_tensors
    }
    check_weights(config, weights)
    return weights


def read_stack(
    file: GgufFile, config: ModelConfig, tensor: Tensor, names: dict[str, str]
) -> NDArray[np.float32]:
    """One kind of weight for every layer, `[layers, ...]`."""
    layers = config.num_hidden_layers
    stack = np.empty((layers, *config.shape_of(tensor)), np.float32)
    for layer in range(layers):
        name = names[f"layers.{layer}.{tensor.name}"]
        stack[layer] = read_tensor(file, config, tensor, name)
    return stack


def read_tensor(
    file: GgufFile, config: ModelConfig, tensor: Tensor, name: str
) -> NDArray[np.float32]:
    """One tensor on our axes, its rows in Hugging Face's order; its shape is checked first."""
    ours = config.shape_of(tensor)
    expected = ours[::-1] if tensor.transposed else ours
    shape = file.tensors[name].shape
    if shape != expected:
        raise ModelError(
            f"{file.path}: tensor {name} must be {list(expected)}, got {list(shape)}; "
            "layers of unequal sizes are not supported"
        )
    values = file.read(name)
    if tensor.rotated and config.family.gguf_interleaves_rope:
        values = unpermute(values, config.head_dim)
    return values.T if tensor.transposed else values


def unpermute(values: NDArray[np.float32], head_dim: int) -> NDArray[np.float32]:
    """Rows `[heads, head_dim / 2, 2]` of GGUF to Hugging Face's `[heads, 2, head_dim / 2]`.

    A head of 6 whose pairs are `(0, 3)`, `(1, 4)`, `(2, 5)` is stored as rows
    `0, 3, 1, 4, 2, 5`: the second of each pair then stands beside the first.
    """
    pairs = values.reshape(-1, head_dim // 2, 2, *values.shape[1:])
    return pairs.swapaxes(1, 2).reshape(values.shape)


def read_tokenizer(file: GgufFile, config: ModelConfig) -> TextTokenizer:
    """The byte-level BPE that the metadata describes."""
    prefix = "tokenizer.ggml"
    model = field(file, f"{prefix}.model", str)
    if model != "gpt2":
        raise ModelError(
            f"{file.path}: tokenizer {model!r} is not supported; supported is 'gpt2' "
            "(byte-level BPE)"
        )
    tokens = string_list(file, f"{prefix}.tokens")
    kinds = field(file, f"{prefix}.token_type", list, [1] * len(tokens))
    if not len(tokens) == len(kinds) == config.vocab_size <= LARGEST_SIZE:
        raise ModelError(
            f"{file.path}: tokens, token types and embedding rows must agree, got {len(tokens)}, "
            f"{len(kinds)} and {config.vocab_size}; the file is corrupt"
        )
    tokenizer = byte_level_bpe(
        tokens=tokens,
        merges=string_list(file, f"{prefix}.merges"),
        pre=field(file, f"{prefix}.pre", str, "gpt-2"),
        special=[t for t, kind in zip(tokens, kinds, strict=True) if kind == CONTROL],
        whole=[
            t for t, kind in zip(tokens, kinds, strict=True) if kind == USER_DEFINED
        ],
        name=str(file.path),
    )
    adds_bos = field(file, f"{prefix}.add_bos_token", bool, False)
    bos = [field(file, f"{prefix}.bos_token_id", int)] if adds_bos else []
    return TextTokenizer(
        tokenizer,
        eos_ids=[field(file, f"{prefix}.eos_token_id", int)],
        bos_ids=bos,
        chat_template=field(file, "tokenizer.chat_template", str, ""),
    )


def string_list(file: GgufFile, key: str) -> list[str]:
    """A metadata array of strings."""
    values = field(file, key, list)
    if not all(isinstance(value, str) for value in values):
        raise ModelError(
            f"{file.path}: {key} must be an array of strings; the file is corrupt"
        )
    return values
