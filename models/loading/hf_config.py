"""Reads a Hugging Face config.json, refusing by name whatever the transformer does not do."""

from collections.abc import Mapping
from typing import Any

from models.config import ModelConfig
from models.errors import ModelError, shown
from models.families import by_model_type
from models.family import Family
from models.loading.hf_quantised import quantisation_of
from models.loading.hf_rope import of_all_layers, rope_fields

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
    family = by_model_type(values.get("model_type"), name)
    check_supported(values, family, name)
    missing = [field for field in REQUIRED_FIELDS if field not in values]
    if missing:
        raise ModelError(
            f"{name}: config.json lacks {', '.join(missing)}; complete the file"
        )
    # A field that is left out has the value that the model's class in transformers gives it: of
    # Mistral's KV heads 8, though of Llama's as many as there are heads.
    values = {**family.assumed_values, **values}
    if family.rope_by_layer_kind:
        values = of_all_layers(values, name)
    rotates_part = "partial_rotary_factor" not in family.accepted_values
    theta, scaling = rope_fields(
        values, name, default_theta=family.default_theta, rotates_part=rotates_part
    )
    heads = values["num_attention_heads"]
    key_value_heads = values.get("num_key_value_heads")
    own = sizes_of_family(values, family, name)
    if "head_dim" not in own:
        own["head_dim"] = head_dim_or_default(values, family, name)
    common = {
        "intermediate_size": values["intermediate_size"],
        "rope_theta": theta,
        "rope_scaling": scaling,
    }
    return ModelConfig(
        name=name,
        model_type=family.model_type,
        hidden_size=values["hidden_size"],
        num_hidden_layers=values["num_hidden_layers"],
        num_attention_heads=heads,
        num_key_value_heads=heads if key_value_heads is None else key_value_heads,
        vocab_size=values["vocab_size"],
        max_position_embeddings=values["max_position_embeddings"],
        rms_norm_eps=values["rms_norm_eps"],
        tie_word_embeddings=values["tie_word_embeddings"],
        source=source,
        **{**common, **own},
    )


def sizes_of_family(
    values: Mapping[str, Any], family: Family, name: str
) -> dict[str, Any]:
    """The sizes that its family reads by itself; ModelError where one is missing or no number."""
    try:
        return family.sizes(values)
    except KeyError as error:
        raise ModelError(
            f"{name}: config.json lacks {error.args[0]}, which {family.model_type} needs; "
            "complete the file"
        ) from None
    except (TypeError, ValueError, ZeroDivisionError, AttributeError) as error:
        raise ModelError(
            f"{name}: config.json has a size that is none of {family.model_type} ({error}); "
            "correct the config"
        ) from None


def check_supported(values: Mapping[str, Any], family: Family, name: str) -> None:
    """Raises ModelError naming the first field that asks for what the family does not do here."""
    architectures = values.get("architectures") or [family.architecture]
    if architectures != [family.architecture]:
        raise ModelError(
            f"{name}: architectures {shown(architectures)} do not fit model_type "
            f"{family.model_type!r}; supported is {family.architecture}"
        )
    stated = {**family.assumed_values, **values}
    activation = {"hidden_act": (family.hidden_act, None)}
    for field, accepted in {**activation, **family.accepted_values}.items():
        if stated.get(field) not in accepted:
            raise ModelError(
                f"{name}: {field}={shown(stated[field])} is not supported; "
                f"supported is {accepted[0]!r}"
            )
    if not isinstance(stated["tie_word_embeddings"], bool):
        raise ModelError(
            f"{name}: tie_word_embeddings must be true or false, got "
            f"{shown(stated['tie_word_embeddings'])}; correct the config"
        )
    check_layer_types(values, family, name)
    quantisation_of(values, name)


def check_layer_types(values: Mapping[str, Any], family: Family, name: str) -> None:
    """Raises ModelError where `layer_types` names other layers than the family has, or too few."""
    layer_types = values.get("layer_types")
    if layer_types is None:
        return
    kinds = set(map(str, layer_types)) if isinstance(layer_types, list) else None
    if kinds is None or not kinds <= family.layer_kinds:
        raise ModelError(
            f"{name}: layer_types {shown(layer_types)} are not supported; "
            f"supported are {sorted(family.layer_kinds)}"
        )
    if len(layer_types) != values.get("num_hidden_layers"):
        raise ModelError(
            f"{name}: layer_types names {len(layer_types)} layers and num_hidden_layers is "
            f"{shown(values.get('num_hidden_layers'))}; they must agree"
        )


def head_dim_or_default(values: Mapping[str, Any], family: Family, name: str) -> Any:
    """`head_dim`, or hidden_size / num_attention_heads where the file may be silent."""
    if values.get("head_dim") is not None:
        return values["head_dim"]
    if family.states_head_dim:
        raise ModelError(
            f"{name}: config.json lacks head_dim, which {family.model_type} needs; complete it"
        )
    hidden = values["hidden_size"]
    heads = values["num_attention_heads"]
    whole = isinstance(hidden, int) and isinstance(heads, int) and heads >= 1
    if not whole or hidden % heads:
        raise ModelError(
            f"{name}: hidden_size must be a multiple of num_attention_heads where head_dim is not "
            f"given, got {shown(hidden)} and {shown(heads)}; add head_dim"
        )
    return hidden // heads
