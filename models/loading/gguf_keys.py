"""The metadata keys of GGUF that change arithmetic or tokens: each is used, or refused by name.

The names are llama.cpp's (`src/llama-arch.cpp`, LLM_KV_NAMES), and so is what a key does. A key of
the model's architecture or of its tokenizer that stands in none of these tables is refused too:
what it changes is not known. All others (`general.`, `split.`, `quantize.`) describe the file.
"""

from collections.abc import Mapping, Set
from typing import Any

from models.errors import ModelError, shown
from models.loading.gguf_file import GgufFile

# Read of every architecture, behind its name; what else one of them uses, `gguf_forms` says.
USED_OF_ARCHITECTURE = frozenset(
    {
        "attention.head_count",
        "attention.head_count_kv",
        "attention.key_length",
        "attention.layer_norm_rms_epsilon",
        "attention.scale",
        "attention.value_length",
        "block_count",
        "context_length",
        "embedding_length",
        "feed_forward_length",
        "rope.dimension_count",
        "rope.freq_base",
        "rope.scale_linear",
        "rope.scaling.attn_factor",
        "rope.scaling.factor",
        "rope.scaling.original_context_length",
        "rope.scaling.type",
        "rope.scaling.yarn_beta_fast",
        "rope.scaling.yarn_beta_slow",
        "vocab_size",
    }
)
USED_OF_TOKENIZER = frozenset(
    {
        "chat_template",
        "ggml.add_bos_token",
        "ggml.add_space_prefix",
        "ggml.add_eos_token",
        "ggml.bos_token_id",
        "ggml.eom_token_id",
        "ggml.eos_token_id",
        "ggml.eot_token_id",
        "ggml.fim_pad_token_id",
        "ggml.fim_rep_token_id",
        "ggml.fim_sep_token_id",
        "ggml.merges",
        "ggml.model",
        "ggml.pre",
        "ggml.scores",
        "ggml.token_type",
        "ggml.tokens",
        "ggml.unknown_token_id",
    }
)
# With one of these values a key changes nothing; with another it asks for what is not done here.
NEUTRAL_OF_ARCHITECTURE: dict[str, tuple[Any, ...]] = {
    "attention.causal": (True,),
    "attention.clamp_kqv": (0.0,),
    "attention.max_alibi_bias": (0.0,),
    "attention.output_scale": (0.0, 1.0),
    "attention.sliding_window": (0,),
    "attention.temperature_length": (0,),
    "attention.temperature_scale": (0.0,),
    "attention.value_scale": (0.0, 1.0),
    "attn_logit_softcapping": (0.0,),
    "embedding_scale": (0.0, 1.0),
    "expert_count": (0,),
    "expert_gating_func": (0,),
    "expert_group_count": (0,),
    "expert_group_used_count": (0,),
    "expert_shared_count": (0,),
    "expert_used_count": (0,),
    "expert_weights_norm": (False,),
    "expert_weights_scale": (0.0, 1.0),
    "final_logit_softcapping": (0.0,),
    "leading_dense_block_count": (0,),
    "logit_scale": (0.0, 1.0),
    "nextn_predict_layers": (0,),
    "pooling_type": (0,),
    "residual_scale": (0.0, 1.0),
    # `-1` says of a YaRN key that it is not set.
    "rope.scaling.yarn_attn_factor": (1.0, -1.0),
    "rope.scaling.yarn_ext_factor": (1.0, -1.0),
    "rope.scaling.yarn_log_multiplier": (0.0,),
    # The row order of the oldest converter, which is the one that `gguf_interleaves_rope` names.
    "tensor_data_layout": ("Meta AI original pth",),
    "use_parallel_residual": (False,),
}
NEUTRAL_OF_TOKENIZER: dict[str, tuple[Any, ...]] = {
    "ggml.add_sep_token": (False,),
    "ggml.normalizer.lowercase": (False,),
    "ggml.normalizer.strip_accents": (False,),
    "ggml.remove_extra_whitespaces": (False,),
    "ggml.suppress_tokens": ([],),
}
# What neither llama.cpp nor we read of a tokenizer when it continues a text, and
# notes.
UNREAD_OF_ARCHITECTURE = frozenset(
    {"attention.layer_norm_epsilon", "rope.scaling.finetuned"}
)
UNREAD_OF_TOKENIZER = frozenset(
    {
        "chat_templates",
        "ggml.cls_token_id",
        "ggml.fim_mid_token_id",
        "ggml.fim_pre_token_id",
        "ggml.fim_suf_token_id",
        "ggml.mask_token_id",
        "ggml.middle_token_id",
        "ggml.padding_token_id",
        "ggml.prefix_token_id",
        "ggml.seperator_token_id",
        "ggml.suffix_token_id",
        "ggml.token_type_count",
    }
)
NAMED_TEMPLATE = "chat_template."  # beside the default one, for tools and the like


def check_keys(
    file: GgufFile,
    architecture: str,
    used: Set[str] = frozenset(),
    neutral: Mapping[str, tuple[Any, ...]] | None = None,
) -> None:
    """Raises ModelError naming the first key that asks for what is not done here.

    Args:
        file: The header.
        architecture: The prefix of its keys.
        used: Keys that only some architectures use, and this one does.
        neutral: Values besides those of the table by which a key changes nothing in this one.
    """
    kind = file.metadata.get("general.type", "model")
    if kind != "model":
        raise ModelError(
            f"{file.path}: general.type={shown(kind)} is not supported; supported is 'model'"
        )
    without_effect = NEUTRAL_OF_ARCHITECTURE | dict(neutral or {})
    of_architecture = USED_OF_ARCHITECTURE | UNREAD_OF_ARCHITECTURE | used
    for key, value in file.metadata.items():
        prefix, _, rest = key.partition(".")
        if prefix == architecture:
            known = rest in of_architecture
            check_key(file, key, value, known, without_effect.get(rest))
        if prefix == "tokenizer":
            known = rest in USED_OF_TOKENIZER | UNREAD_OF_TOKENIZER
            known = known or rest.startswith(NAMED_TEMPLATE)
            check_key(file, key, value, known, NEUTRAL_OF_TOKENIZER.get(rest))


def check_key(
    file: GgufFile, key: str, value: Any, known: bool, neutral: tuple[Any, ...] | None
) -> None:
    """Raises ModelError unless the key is known, or has a value that changes nothing."""
    if known or (neutral is not None and value in neutral):
        return
    only = "" if neutral is None else f"; supported is {shown(neutral[0])}"
    raise ModelError(
        f"{file.path}: {key}={shown(value)} is not supported{only}; "
        "load a model without it"
    )


def field(file: GgufFile, key: str, kind: type, default: Any = None) -> Any:
    """One metadata value of the expected type; ModelError where it is absent or another."""
    value = file.metadata.get(key, default)
    if value is None:
        raise ModelError(
            f"{file.path}: metadata lacks {key}; the file is not a whole model"
        )
    # Python counts True as an int, and a file that says true for a length is corrupt.
    if not isinstance(value, kind) or isinstance(value, bool) != (kind is bool):
        raise ModelError(
            f"{file.path}: {key} must be one {kind.__name__}, got {type(value).__name__}; "
            "per-layer values are not supported"
        )
    return value


def string_list(file: GgufFile, key: str) -> list[str]:
    """A metadata array of strings."""
    values = field(file, key, list)
    if not all(isinstance(value, str) for value in values):
        raise ModelError(
            f"{file.path}: {key} must be an array of strings; the file is corrupt"
        )
    return values
