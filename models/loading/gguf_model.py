"""Turns a GGUF file's metadata and tensors into the canonical config, weights and tokenizer."""

import pathlib

import numpy as np
from numpy.typing import NDArray

from models.config import ModelConfig
from models.errors import ModelError
from models.family import by_gguf_architecture
from models.loading.gguf_file import GgufFile
from models.loading.gguf_keys import check_keys, field
from models.loading.gguf_rope import ROPE_TENSORS, rope_scaling
from models.loading.gguf_split import read_parts
from models.loading.gguf_tokenizer import read_tokenizer
from models.loading.rope_rows import in_halves
from models.loading.tokenizer import TextTokenizer
from models.plain.weights import Weights, check_weights
from models.tensors import LAYER_PREFIX, Tensor


def load_gguf(path: pathlib.Path) -> tuple[ModelConfig, Weights, TextTokenizer]:
    """Reads a GGUF model of an architecture that `models.family` knows.

    Args:
        path: The file, or the first of several; untrusted.

    Returns:
        The config, float32 NumPy weights (the canonical pytree), and the tokenizer.

    Raises:
        ModelError: The file is corrupt, or holds something the transformer does not do.
    """
    file = read_parts(path)
    config = read_config(file)
    tokenizer = read_tokenizer(file, config.vocab_size)
    return config, read_weights(file, config), tokenizer


def read_config(file: GgufFile) -> ModelConfig:
    """The sizes, from the metadata."""
    architecture = field(file, "general.architecture", str)
    family = by_gguf_architecture(architecture, str(file.path))
    check_keys(file, architecture)

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
    # llama.cpp takes 0 for the usual scale, 1 / sqrt(head_dim).
    scale = field(file, f"{architecture}.attention.scale", float, 0.0)
    if scale != 0 and decimal(scale) != decimal(head_dim**-0.5):
        raise ModelError(
            f"{file.path}: {architecture}.attention.scale={scale} is not supported; "
            f"supported is 1 / sqrt(head_dim), {decimal(head_dim**-0.5)}"
        )
    if "token_embd.weight" not in file.tensors:
        raise ModelError(
            f"{file.path}: has no tensor token_embd.weight; not a whole model"
        )
    vocab_size = file.tensors["token_embd.weight"].shape[0]
    if size("vocab_size", vocab_size) != vocab_size:
        raise ModelError(
            f"{file.path}: {architecture}.vocab_size={size('vocab_size')}, but token_embd.weight "
            f"has {vocab_size} rows; the file is corrupt"
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
        vocab_size=vocab_size,
        max_position_embeddings=size("context_length"),
        rope_theta=decimal(
            field(file, f"{architecture}.rope.freq_base", float, 10000.0)
        ),
        rope_scaling=rope_scaling(file, architecture, size("context_length")),
        rms_norm_eps=decimal(
            field(file, f"{architecture}.attention.layer_norm_rms_epsilon", float)
        ),
        # GGUF has no key for it: a file without an output matrix means the embedding.
        tie_word_embeddings="output.weight" not in file.tensors,
        source=str(file.path.name),
    )


def decimal(value: float) -> float:
    """The shortest decimal of a float32, so that a stored 1e-5 reads back as 1e-5.

    As a float64 the stored number is 9.999999747378752e-06, and a config would not compare equal.
    """
    return float(str(np.float32(value)))


def read_weights(file: GgufFile, config: ModelConfig) -> Weights:
    """All tensors, dequantised, transposed to `y = x @ W`, and stacked by layer."""
    # Before the names are listed: of a billion layers they alone would fill the memory.
    if config.num_hidden_layers > len(file.tensors):
        raise ModelError(
            f"{file.path}: claims {config.num_hidden_layers} layers, but holds "
            f"{len(file.tensors)} tensors; the file is corrupt"
        )
    names = names_of(config)
    lacking = sorted(names - file.tensors.keys())
    unknown = sorted(file.tensors.keys() - names - ROPE_TENSORS)
    if lacking or unknown:
        raise ModelError(
            f"{file.path}: lacks tensors {lacking[:3]} and has unsupported tensors {unknown[:3]}; "
            "biases, experts and scalings are not supported"
        )
    weights: Weights = {
        tensor.name: np.ascontiguousarray(
            read_tensor(file, config, tensor, tensor.gguf)
        )
        for tensor in config.outer_tensors
    }
    weights["layers"] = {
        tensor.name: read_stack(file, config, tensor) for tensor in config.layer_tensors
    }
    check_weights(config, weights)
    return weights


def names_of(config: ModelConfig) -> set[str]:
    """Every tensor that a model's file must hold."""
    outside = {tensor.gguf for tensor in config.outer_tensors}
    inside = {
        name_of(tensor, layer)
        for tensor in config.layer_tensors
        for layer in config.layers_with[tensor.name]
    }
    return outside | inside


def name_of(tensor: Tensor, layer: int) -> str:
    """What files call a layer's weight."""
    return LAYER_PREFIX["gguf"].format(layer=layer) + tensor.gguf


def read_stack(
    file: GgufFile, config: ModelConfig, tensor: Tensor
) -> NDArray[np.float32]:
    """One kind of weight for every layer that has it, `[layers, ...]`."""
    layers = config.layers_with[tensor.name]
    # Filled layer by layer, so that one layer is held twice, not all of them.
    stack = np.empty((len(layers), *config.shape_of(tensor)), np.float32)
    for place, layer in enumerate(layers):
        stack[place] = read_tensor(file, config, tensor, name_of(tensor, layer))
    return stack


def read_tensor(
    file: GgufFile, config: ModelConfig, tensor: Tensor, name: str
) -> NDArray[np.float32]:
    """One tensor on our axes, its rows in Hugging Face's order; its shape is checked first."""
    ours = config.shape_of(tensor)
    # Before it is read: a shape that is merely transposed would pass a check of the size.
    expected = ours[::-1] if tensor.transposed else ours
    shape = file.tensors[name].shape
    if shape != expected:
        raise ModelError(
            f"{file.path}: tensor {name} must be {list(expected)}, got {list(shape)}; "
            "layers of unequal sizes are not supported"
        )
    values = file.read(name)
    values = values.T if tensor.transposed else values
    if "gguf" in config.family.interleaves_rope:
        values = in_halves(values, config, tensor)
    return values
