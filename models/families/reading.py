"""What configs say of their layers, in fields that several families share."""

from collections.abc import Mapping
from typing import Any

from models.layer_form import Experts


def both_biases(values: Mapping[str, Any]) -> dict[str, Any]:
    """`attention_bias` of all four projections."""
    biased = bool(values.get("attention_bias"))
    return {"attention_bias": biased, "attention_output_bias": biased}


def window_in_every_layer(values: Mapping[str, Any]) -> dict[str, Any]:
    """Mistral's and Phi-3's `sliding_window`."""
    window = values.get("sliding_window")
    if window is None:
        return {}
    layers = layer_count(values)
    return {
        "sliding_window": window,
        "layer_types": ("sliding_attention",) * layers,
    }


def window_in_upper_layers(values: Mapping[str, Any]) -> dict[str, Any]:
    """Qwen's `use_sliding_window`: layers from `max_window_layers` on have a window."""
    if not values.get("use_sliding_window"):
        return {}
    kinds = values.get("layer_types")
    if kinds is None:
        first = values.get("max_window_layers", 28)
        kinds = [
            "sliding_attention" if layer >= first else "full_attention"
            for layer in range(layer_count(values))
        ]
    return {
        "sliding_window": values.get("sliding_window"),
        "layer_types": tuple(kinds),
    }


def windows_between(values: Mapping[str, Any], every: int) -> dict[str, Any]:
    """Windows in all layers but each `every`-th, unless `layer_types` says otherwise."""
    kinds = values.get("layer_types")
    if kinds is None:
        kinds = [
            "full_attention" if (layer + 1) % every == 0 else "sliding_attention"
            for layer in range(layer_count(values))
        ]
    return {
        "sliding_window": values.get("sliding_window"),
        "layer_types": tuple(kinds),
    }


def partial_rotation(values: Mapping[str, Any]) -> dict[str, Any]:
    """`partial_rotary_factor`, which may stand among RoPE's parameters."""
    parameters = values.get("rope_parameters") or {}
    share = parameters.get(
        "partial_rotary_factor", values.get("partial_rotary_factor", 1)
    )
    heads = values.get("num_attention_heads")
    width = values.get("head_dim") or values["hidden_size"] // heads
    rotated = int(width * share)
    return {} if rotated == width else {"rotary_dim": rotated}


def layers_without_rope(values: Mapping[str, Any]) -> tuple[bool, ...]:
    """`no_rope_layers`: despite its name, 1 where a layer has RoPE."""
    stated = values.get("no_rope_layers")
    if stated:
        return tuple(bool(x) for x in stated)
    every = values.get("no_rope_layer_interval", 4)
    return tuple((layer + 1) % every != 0 for layer in range(layer_count(values)))


def layer_count(values: Mapping[str, Any]) -> int:
    """`num_hidden_layers`; 0 where that is no number of layers, which is refused elsewhere."""
    layers = values.get("num_hidden_layers")
    # Whoever reads the sizes refuses it with its name.
    return layers if isinstance(layers, int) and 0 <= layers < 10_000 else 0


def sigmoid_experts(values: Mapping[str, Any]) -> dict[str, Any]:
    """DeepSeek-V3's mixture, behind a few layers without one."""
    first = values["first_k_dense_replace"]
    has_experts = tuple(layer >= first for layer in range(layer_count(values)))
    experts = Experts(
        count=values["n_routed_experts"],
        chosen=values["num_experts_per_tok"],
        width=values["moe_intermediate_size"],
        shared_width=values["n_shared_experts"] * values["moe_intermediate_size"],
        score="sigmoid",
        selection_bias=True,
        groups=values["n_group"],
        chosen_groups=values["topk_group"],
        normalised=bool(values["norm_topk_prob"]),
        scale=float(values["routed_scaling_factor"]),
    )
    return {"expert_layers": has_experts, "experts": experts}


__all__ = [
    "both_biases",
    "layer_count",
    "layers_without_rope",
    "partial_rotation",
    "sigmoid_experts",
    "window_in_every_layer",
    "window_in_upper_layers",
    "windows_between",
]
