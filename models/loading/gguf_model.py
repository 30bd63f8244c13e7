"""Turns a GGUF file's metadata and tensors into the canonical config, weights and tokenizer."""

import pathlib

import numpy as np
from numpy.typing import NDArray

from models.config import ModelConfig
from models.errors import ModelError
from models.families import by_gguf_architecture
from models.loading.gguf_file import GgufFile
from models.loading.gguf_forms import FORMS, Metadata, decimal
from models.loading.gguf_keys import check_keys, field
from models.loading.gguf_rope import ROPE_TENSORS, rope_scaling
from models.loading.gguf_split import read_parts
from models.loading.gguf_tokenizer import read_tokenizer
from models.loading.gguf_variants import variants
from models.loading.stored_weights import names_of, weights_of
from models.loading.tokenizer import TextTokenizer
from models.plain.weights import Weights, check_weights
from models.tensors import LAYER_PREFIX


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
    form = FORMS[architecture]
    check_keys(file, architecture, form.used, form.neutral)
    data = Metadata(file, architecture)
    hidden = data.width("embedding_length")
    heads = data.width("attention.head_count")
    context = data.size("context_length")
    scaling = rope_scaling(file, architecture, context)
    own = {
        "model_type": family.model_type,
        "num_key_value_heads": data.size("attention.head_count_kv", heads),
        "rope_scaling": scaling,
        **form.sizes(data, scaling),
    }
    if "latent" not in own:
        own |= head_widths(data, hidden // heads, form.rotates_part)
    check_scale(data, own.get("attention_scale", own["head_dim"] ** -0.5))
    if "token_embd.weight" not in file.tensors:
        raise ModelError(
            f"{file.path}: has no tensor token_embd.weight; not a whole model"
        )
    vocab_size = file.tensors["token_embd.weight"].shape[0]
    if data.size("vocab_size", vocab_size) != vocab_size:
        raise ModelError(
            f"{file.path}: {architecture}.vocab_size={data.size('vocab_size')}, but "
            f"token_embd.weight has {vocab_size} rows; the file is corrupt"
        )
    return ModelConfig(
        name=str(file.metadata.get("general.name", file.path.stem)),
        hidden_size=hidden,
        intermediate_size=data.size("feed_forward_length"),
        num_hidden_layers=data.layers,
        num_attention_heads=heads,
        vocab_size=vocab_size,
        max_position_embeddings=context,
        rope_theta=data.number("rope.freq_base", 10000.0),
        rms_norm_eps=data.number("attention.layer_norm_rms_epsilon"),
        # GGUF has no key for it: a file without an output matrix means the embedding.
        tie_word_embeddings="output.weight" not in file.tensors,
        source=str(file.path.name),
        **own,
    )


def head_widths(data: Metadata, usual: int, rotates_part: bool) -> dict[str, int]:
    """`head_dim`, and `rotary_dim` where RoPE turns a part of each head.

    Args:
        data: The metadata.
        usual: The width of a head where the file states none.
        rotates_part: Whether RoPE may turn a part.
    """
    head_dim = data.width("attention.key_length", usual)
    rotated = data.size("rope.dimension_count", head_dim)
    must_equal = ["attention.value_length"]
    if not rotates_part:
        must_equal.append("rope.dimension_count")
    for key in must_equal:
        if data.size(key, head_dim) != head_dim:
            raise ModelError(
                f"{data.file.path}: {data.architecture}.{key} must equal head_dim {head_dim}, "
                f"got {data.size(key)}; partial RoPE and unequal heads are not supported"
            )
    widths = {"head_dim": head_dim}
    return widths if rotated == head_dim else widths | {"rotary_dim": rotated}


def check_scale(data: Metadata, usual: float) -> None:
    """Raises ModelError where scores are scaled otherwise than by the family's own factor."""
    # llama.cpp takes 0 for the usual scale.
    scale = data.number("attention.scale", 0.0)
    if scale != 0 and scale != decimal(usual):
        raise ModelError(
            f"{data.file.path}: {data.architecture}.attention.scale={scale} is not supported; "
            f"supported is 1 / sqrt(head_dim), {decimal(usual)}"
        )


def read_weights(file: GgufFile, config: ModelConfig) -> Weights:
    """All tensors, dequantised, transposed to `y = x @ W`, and stacked by layer."""
    held = set(file.tensors)
    others = variants(file, config)
    # Lacking parts are named below; a variant takes the place of those that are there.
    for name, variant in others.items():
        if set(variant.parts) <= file.tensors.keys():
            held = held - set(variant.parts) | {name}
    names = names_of(config, "gguf")
    lacking = sorted(names - held)
    beyond = layers_beyond(file, config)
    unknown = sorted(
        name for name in held - names - ROPE_TENSORS if not name.startswith(beyond)
    )
    if lacking or unknown:
        raise ModelError(
            f"{file.path}: lacks tensors {lacking[:3]} and has unsupported tensors {unknown[:3]}; "
            "biases, experts and scalings must be those of its architecture"
        )

    def read(name: str) -> NDArray[np.float32]:
        return others[name].values() if name in others else file.read(name)

    weights = weights_of(config, read, "gguf", str(file.path))
    check_weights(config, weights)
    return weights


def layers_beyond(file: GgufFile, config: ModelConfig) -> tuple[str, ...]:
    """Beginnings of names of tensors in layers that predict the token after the next."""
    architecture = field(file, "general.architecture", str)
    blocks = Metadata(file, architecture).size("block_count")
    behind = range(config.num_hidden_layers, min(blocks, len(file.tensors)))
    return tuple(LAYER_PREFIX["gguf"].format(layer=layer) for layer in behind)
