"""RoPE's base and scaling out of a config.json, which may state them in three places.

Files of transformers 5 have `rope_parameters`; older ones `rope_theta` and `rope_scaling`, which
guides still tell people to add. As in transformers (`convert_rope_params_to_dict`) `rope_scaling`
counts where both are there; what it would overrule in silence is refused here with both values.
"""

from collections.abc import Mapping
from typing import Any

from models.errors import ModelError, shown
from models.rope_scaling import ORIGINAL, SCALING_FORMS

# Beside the fields of a form. `finetuned` is a note of YaRN's first files.
COMMON_FIELDS = {
    "rope_type",
    "type",
    "rope_theta",
    "partial_rotary_factor",
    "finetuned",
}
# All but the one that is a GGUF tensor.
FORMS = {kind: form for kind, form in SCALING_FORMS.items() if kind != "divisors"}


def of_all_layers(values: Mapping[str, Any], name: str) -> dict[str, Any]:
    """A config whose `rope_parameters` are stated by kind of layer, as one that states them once.

    Those of `full_attention` become the model's, and the base of `sliding_attention` becomes
    `rope_local_base_freq`, as older files of Gemma-3 have it.

    Raises:
        ModelError: Layers with a window scale RoPE, which no published model does.
    """
    stated = values.get("rope_parameters")
    if not isinstance(stated, Mapping) or "full_attention" not in stated:
        return dict(values)
    local = stated.get("sliding_attention") or {}
    if not isinstance(local, Mapping) or local.get("rope_type", "default") != "default":
        raise ModelError(
            f"{name}: rope_parameters.sliding_attention={shown(local)} is not supported; layers "
            "with a window must have RoPE of rope_type 'default'"
        )
    whole = stated["full_attention"]
    changed = {**values, "rope_parameters": whole}
    if "rope_theta" in local:
        changed["rope_local_base_freq"] = local["rope_theta"]
    return changed


def rope_fields(
    values: Mapping[str, Any],
    name: str,
    *,
    default_theta: float = 10_000.0,
    rotates_part: bool = False,
) -> tuple[Any, dict[str, Any] | None]:
    """RoPE's base and scaling; what they hold is checked by `ModelConfig`.

    Args:
        values: A config.json's contents.
        name: What errors call the model.
        default_theta: The base where the file states none.
        rotates_part: Whether RoPE may turn a part of each head, which another reads.

    Returns:
        `rope_theta`, and `ModelConfig.rope_scaling`.

    Raises:
        ModelError: The file contradicts itself, or states what its `rope_type` does not use.
    """
    stated = {
        field: rope_object(values, field, name)
        for field in ("rope_scaling", "rope_parameters")
    }
    place = "rope_scaling" if stated["rope_scaling"] else "rope_parameters"
    chosen = stated[place]
    kind = rope_type(chosen, place, name)
    if place == "rope_scaling" and stated["rope_parameters"]:
        check_not_overruled(stated, kind, name)
    theta = rope_theta(values, stated, name, default_theta)
    used = FORMS[kind].fields if kind in FORMS else ()
    # A `factor` beside no `rope_type` does nothing in transformers, and is surely meant to.
    for field in chosen.keys() - COMMON_FIELDS - set(used):
        raise ModelError(
            f"{name}: {place}.{field}={shown(chosen[field])} is nothing that rope_type "
            f"{shown(kind)} uses; supported are {['default', *FORMS]}; state the "
            "rope_type that is meant"
        )
    if not rotates_part and chosen.get("partial_rotary_factor", 1) != 1:
        raise ModelError(
            f"{name}: {place}.partial_rotary_factor={shown(chosen['partial_rotary_factor'])} is "
            "not supported; use full RoPE"
        )
    if kind == "default":
        return theta, None
    scaling: dict[str, Any] = {"rope_type": kind}
    scaling |= {field: chosen[field] for field in used if field in chosen}
    if ORIGINAL in used:
        scaling[ORIGINAL] = original_context(values, chosen, place, name)
    return theta, scaling


def rope_object(values: Mapping[str, Any], field: str, name: str) -> dict[str, Any]:
    """One of the two objects, without its nulls; empty where the file has none."""
    found = values.get(field)
    if found is None:
        return {}
    if not isinstance(found, Mapping):
        raise ModelError(
            f"{name}: {field} must be an object, got {shown(found)}; correct the config"
        )
    for key, value in found.items():
        if isinstance(value, Mapping):
            raise ModelError(
                f"{name}: {field}.{key}={shown(value)} is RoPE of one layer type, which is not "
                "supported; supported is one RoPE for all layers"
            )
    return {key: value for key, value in found.items() if value is not None}


def rope_type(parameters: Mapping[str, Any], place: str, name: str) -> str:
    """The kind of scaling, from `rope_type` or its older name `type`."""
    names = [parameters[key] for key in ("rope_type", "type") if key in parameters]
    if not names:
        return "default"
    if names[0] != names[-1]:
        raise ModelError(
            f"{name}: {place}.rope_type={shown(names[0])} and {place}.type={shown(names[1])} must "
            "agree; remove one of them"
        )
    known = ["default", *FORMS]
    if not isinstance(names[0], str) or names[0] not in known:
        raise ModelError(
            f"{name}: {place}.rope_type={shown(names[0])} is not supported; "
            f"supported are {known}"
        )
    return names[0]


def check_not_overruled(
    stated: Mapping[str, Mapping[str, Any]], kind: str, name: str
) -> None:
    """Raises ModelError where `rope_parameters` scales too, and otherwise than `rope_scaling`."""
    scaling, parameters = stated["rope_scaling"], stated["rope_parameters"]
    # Example: somebody adds YaRN as `rope_scaling`, by a guide, to a config whose `rope_parameters`
    # scale as Llama 3. transformers would take the one and drop the other in silence.
    other_kind = rope_type(parameters, "rope_parameters", name)
    both = (scaling.keys() & parameters.keys()) - {"type", "rope_type"}
    differing = [key for key in sorted(both) if scaling[key] != parameters[key]]
    if other_kind not in ("default", kind):
        differing.insert(0, "rope_type")
    lost = parameters.keys() - scaling.keys() - COMMON_FIELDS
    if differing or lost:
        field = [*differing, *sorted(lost)][0]
        raise ModelError(
            f"{name}: rope_scaling.{field}={shown(scaling.get(field))} and "
            f"rope_parameters.{field}={shown(parameters.get(field))} must agree; remove one of the "
            "two objects"
        )


def rope_theta(
    values: Mapping[str, Any],
    stated: Mapping[str, Mapping[str, Any]],
    name: str,
    default_theta: float,
) -> Any:
    """RoPE's base, from wherever the file states it."""
    places = {
        f"{place}.rope_theta": parameters["rope_theta"]
        for place, parameters in stated.items()
        if "rope_theta" in parameters
    }
    if "rope_theta" in values:
        places["rope_theta"] = values["rope_theta"]
    if not places:
        return default_theta
    (first, theta), *others = places.items()
    for place, other in others:
        if other != theta:
            raise ModelError(
                f"{name}: {first}={shown(theta)} and {place}={shown(other)} must agree; "
                "remove one of them"
            )
    # A base of 500,000 that is dropped becomes 10,000: every angle is another.
    if first == "rope_parameters.rope_theta" and stated["rope_scaling"]:
        # transformers would drop it with the rest of rope_parameters.
        check_default_theta(theta, name, default_theta)
    return theta


def check_default_theta(theta: Any, name: str, default_theta: float) -> None:
    """Raises ModelError unless a base that `rope_scaling` hides is the one taken without it."""
    if theta != default_theta:
        raise ModelError(
            f"{name}: rope_parameters.rope_theta={shown(theta)} is hidden by rope_scaling, "
            f"which has none ({default_theta} is then taken); write rope_theta into rope_scaling"
        )


def original_context(
    values: Mapping[str, Any], chosen: Mapping[str, Any], place: str, name: str
) -> Any:
    """The context before scaling: of the scaling, of the config as a whole, or all of it."""
    outer = values.get(ORIGINAL)
    inner = chosen.get(ORIGINAL)
    if outer is not None and inner is not None and outer != inner:
        raise ModelError(
            f"{name}: {ORIGINAL}={shown(outer)} and {place}.{ORIGINAL}={shown(inner)} must agree; "
            "remove one of them"
        )
    stated = inner if inner is not None else outer
    return values["max_position_embeddings"] if stated is None else stated
