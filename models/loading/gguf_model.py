"""Turns a GGUF file's metadata and tensors into the canonical config, weights and tokenizer."""

import pathlib
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.config import LARGEST_SIZE, ModelConfig
from models.errors import ModelError
from models.loading.gguf_file import GgufFile, read_header
from models.loading.tokenizer import TextTokenizer, byte_level_bpe
from models.plain.weights import Weights, check_weights

ARCHITECTURES = ("llama", "qwen3")
# Ours -> GGUF's, inside `blk.N.` and before `.weight`.
LAYER_NAMES = {
    "attn_norm": "attn_norm",
    "wq": "attn_q",
    "wk": "attn_k",
    "wv": "attn_v",
    "wo": "attn_output",
    "mlp_norm": "ffn_norm",
    "w_gate": "ffn_gate",
    "w_up": "ffn_up",
    "w_down": "ffn_down",
}
QK_NORM_NAMES = {"q_norm": "attn_q_norm", "k_norm": "attn_k_norm"}
CONTROL, USER_DEFINED = 3, 4  # token types of the format; both are matched whole


def load_gguf(path: pathlib.Path) -> tuple[ModelConfig, Weights, TextTokenizer]:
    """Reads a GGUF model of the llama or qwen3 architecture.

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
    family = field(file, "general.architecture", str)
    if family not in ARCHITECTURES:
        raise ModelError(
            f"{file.path}: architecture {family!r} is not supported; supported are {ARCHITECTURES}"
        )

    def size(key: str, default: int | None = None) -> int:
        return field(file, f"{family}.{key}", int, default)

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
                f"{file.path}: {family}.{key} must equal head_dim {head_dim}, got {size(key)}; "
                "partial RoPE and unequal heads are not supported"
            )
    scaling = field(file, f"{family}.rope.scaling.type", str, "none")
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
        model_type=family,
        hidden_size=hidden,
        intermediate_size=size("feed_forward_length"),
        num_hidden_layers=size("block_count"),
        num_attention_heads=heads,
        num_key_value_heads=size("attention.head_count_kv", heads),
        head_dim=head_dim,
        vocab_size=file.tensors["token_embd.weight"].shape[0],
        max_position_embeddings=size("context_length"),
        rope_theta=decimal(field(file, f"{family}.rope.freq_base", float, 10000.0)),
        rope_scaling=None,
        rms_norm_eps=decimal(
            field(file, f"{family}.attention.layer_norm_rms_epsilon", float)
        ),
        tie_word_embeddings="output.weight" not in file.tensors,
        source=str(file.path.name),
    )


def decimal(value: float) -> float:
    """The shortest decimal of a float32, so that a stored 1e-5 reads back as 1e-5."""
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


def tensor_names(config: ModelConfig) -> dict[str, str]:
    """Ours (flat, `layers.N.name` for a layer's) -> GGUF's, for every tensor of the config."""
    names = {"embed": "token_embd.weight", "norm": "output_norm.weight"}
    if not config.tie_word_embeddings:
        names["head"] = "output.weight"
    layer = LAYER_NAMES | (QK_NORM_NAMES if config.qk_norm else {})
    for n in range(config.num_hidden_layers):
        names |= {
            f"layers.{n}.{ours}": f"blk.{n}.{theirs}.weight"
            for ours, theirs in layer.items()
        }
    return names


def read_weights(file: GgufFile, config: ModelConfig) -> Weights:
    """All tensors, dequantised, transposed to `y = x @ W`, and stacked by layer."""
    if config.num_hidden_layers > len(file.tensors):
        raise ModelError(
            f"{file.path}: claims {config.num_hidden_layers} layers, but holds "
            f"{len(file.tensors)} tensors; the file is corrupt"
        )
    names = tensor_names(config)
    lacking = sorted(set(names.values()) - file.tensors.keys())
    unknown = sorted(file.tensors.keys() - set(names.values()))
    if lacking or unknown:
        raise ModelError(
            f"{file.path}: lacks tensors {lacking[:3]} and has unsupported tensors {unknown[:3]}; "
            "biases, experts and scalings are not supported"
        )
    weights: Weights = {name: file.read(names[name]) for name in ("embed", "norm")}
    if "head" in names:
        weights["head"] = np.ascontiguousarray(file.read(names["head"]).T)
    ours = LAYER_NAMES | (QK_NORM_NAMES if config.qk_norm else {})
    weights["layers"] = {name: read_stack(file, config, name, names) for name in ours}
    check_weights(config, weights)
    return weights


def read_stack(
    file: GgufFile, config: ModelConfig, name: str, names: dict[str, str]
) -> NDArray[np.float32]:
    """One kind of weight for every layer, `[layers, ...]`."""
    stored = [
        file.tensors[names[f"layers.{n}.{name}"]]
        for n in range(config.num_hidden_layers)
    ]
    if len({tensor.shape for tensor in stored}) > 1:
        raise ModelError(
            f"{file.path}: {name} must have one shape in every layer; not supported"
        )
    rows, columns = stored[0].shape[0], stored[0].shape[1:]
    stack = np.empty((len(stored), *columns, rows), np.float32)
    heads = {"wq": config.num_attention_heads, "wk": config.num_key_value_heads}.get(
        name, 0
    )
    for layer, tensor in enumerate(stored):
        values = file.read(tensor.name)
        # llama files interleave the rows of each RoPE pair; qwen3 files keep Hugging Face's order.
        if heads and config.model_type == "llama":
            values = unpermute(values, heads, config.head_dim, file.path)
        stack[layer] = values.T
    return stack


def unpermute(
    values: NDArray[np.float32], heads: int, head_dim: int, path: pathlib.Path
) -> NDArray[np.float32]:
    """Rows `[heads, head_dim / 2, 2]` of GGUF to Hugging Face's `[heads, 2, head_dim / 2]`."""
    if values.ndim != 2 or values.shape[0] != heads * head_dim:
        raise ModelError(
            f"{path}: attention rows must be {heads} heads of {head_dim}, got {values.shape}"
        )
    pairs = values.reshape(heads, head_dim // 2, 2, values.shape[1])
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
