"""Reads a Hugging Face config.json, refusing by name whatever the transformer does not do."""

from collections.abc import Mapping
from typing import Any

from models.config import ARCHITECTURES, LLAMA3_FIELDS, ModelConfig
from models.errors import ModelError

# Fields that would change the result if they held anything but these values.
REQUIRED_VALUES: dict[str, tuple[Any, ...]] = {
    "hidden_act": ("silu", None),
    "attention_bias": (False, None),
    "mlp_bias": (False, None),
    "use_sliding_window": (False, None),
    "partial_rotary_factor": (1, None),
    "quantization_config": (None,),
    "is_encoder_decoder": (False, None),
}
ROPE_THETA_DEFAULT = 10000.0  # what transformers assumes where the file is silent
REQUIRED_FIELDS = (
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "vocab_size",
    "max_position_embeddings",
    "rms_norm_eps",
)


def from_hf(values: Mapping[str, Any], name: str, source: str) -> ModelConfig:
    """Turns the contents of a Hugging Face `config.json` into a `ModelConfig`.

    Args:
        values: The parsed JSON object; both the `rope_theta`/`rope_scaling` fields and the newer
            `rope_parameters` are understood.
        name: What reports shall call the model.
        source: Where the file came from.

    Raises:
        ModelError: The file asks for something that the transformer does not do.
    """
    if not isinstance(values, Mapping):
        raise ModelError(
            f"{name}: config.json must hold an object, got {type(values).__name__}"
        )
    check_supported(values, name)
    missing = [field for field in REQUIRED_FIELDS if field not in values]
    if missing:
        raise ModelError(
            f"{name}: config.json lacks {', '.join(missing)}; complete the file"
        )
    theta, scaling = rope_fields(values, name)
    heads = values["num_attention_heads"]
    return ModelConfig(
        name=name,
        model_type=values["model_type"],
        hidden_size=values["hidden_size"],
        intermediate_size=values["intermediate_size"],
        num_hidden_layers=values["num_hidden_layers"],
        num_attention_heads=heads,
        num_key_value_heads=heads_or(values.get("num_key_value_heads"), heads),
        head_dim=head_dim_or_default(values, name),
        vocab_size=values["vocab_size"],
        max_position_embeddings=values["max_position_embeddings"],
        rope_theta=theta,
        rope_scaling=scaling,
        rms_norm_eps=values["rms_norm_eps"],
        tie_word_embeddings=bool(values.get("tie_word_embeddings", False)),
        source=source,
    )


def heads_or(value: Any, otherwise: Any) -> Any:
    """`value`, or `otherwise` where the file is silent."""
    return otherwise if value is None else value


def check_supported(values: Mapping[str, Any], name: str) -> None:
    """Raises ModelError naming the first field that asks for an unsupported model."""
    family = values.get("model_type")
    supported = (
        f"supported are {sorted(ARCHITECTURES)} with full attention, SiLU and no biases"
    )
    if not isinstance(family, str) or family not in ARCHITECTURES:
        raise ModelError(f"{name}: model_type {family!r} is not supported; {supported}")
    architectures = values.get("architectures") or [ARCHITECTURES[family]]
    if architectures != [ARCHITECTURES[family]]:
        raise ModelError(
            f"{name}: architectures {architectures!r} do not fit model_type {family!r}; {supported}"
        )
    for field, allowed in REQUIRED_VALUES.items():
        if values.get(field) not in allowed:
            raise ModelError(
                f"{name}: {field}={values[field]!r} is not supported; {supported}"
            )
    # Qwen3 configs state a window's width even where no layer uses it.
    if values.get("sliding_window") is not None and family == "llama":
        raise ModelError(
            f"{name}: sliding_window={values['sliding_window']!r} is not supported; {supported}"
        )
    layer_types = values.get("layer_types") or []
    if not isinstance(layer_types, list) or set(map(str, layer_types)) - {
        "full_attention"
    }:
        raise ModelError(
            f"{name}: layer_types {layer_types!r} are not supported; {supported}"
        )


def head_dim_or_default(values: Mapping[str, Any], name: str) -> Any:
    """`head_dim`, or hidden_size / num_attention_heads where the file is silent."""
    if values.get("head_dim") is not None:
        return values["head_dim"]
    if values["model_type"] == "qwen3":
        raise ModelError(
            f"{name}: config.json lacks head_dim, which qwen3 needs; complete it"
        )
    hidden = values["hidden_size"]
    heads = values["num_attention_heads"]
    if (
        not isinstance(hidden, int)
        or not isinstance(heads, int)
        or heads < 1
        or hidden % heads
    ):
        raise ModelError(
            f"{name}: hidden_size must be a multiple of num_attention_heads where head_dim is not "
            f"given, got {hidden!r} and {heads!r}; add head_dim"
        )
    return hidden // heads


def rope_fields(
    values: Mapping[str, Any], name: str
) -> tuple[float, dict[str, Any] | None]:
    """RoPE's base and scaling, from either spelling of the file."""
    parameters = values.get("rope_parameters") or values.get("rope_scaling") or {}
    if not isinstance(parameters, Mapping):
        raise ModelError(f"{name}: rope_scaling must be an object, got {parameters!r}")
    theta = parameters.get("rope_theta", values.get("rope_theta", ROPE_THETA_DEFAULT))
    kind = parameters.get("rope_type", parameters.get("type", "default"))
    if kind == "default":
        return theta, None
    if parameters.get("partial_rotary_factor", 1) != 1:
        raise ModelError(
            f"{name}: partial_rotary_factor is not supported; use full RoPE"
        )
    scaling = {"rope_type": kind} | {
        f: parameters[f] for f in LLAMA3_FIELDS if f in parameters
    }
    return theta, scaling
