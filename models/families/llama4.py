"""Llama 4: chunks of attention, layers without RoPE, one expert a token."""

from collections.abc import Mapping
from typing import Any

from models.families.accepted import ASSUMED, YES_OR_NO, plain_but
from models.families.reading import layer_count, layers_without_rope
from models.families.shared import LLAMA_CPP, TRANSFORMERS
from models.family import Family, Stored
from models.layer_form import Experts, Temperature


def _llama4(values: Mapping[str, Any]) -> dict[str, Any]:
    layers = layer_count(values)
    rope_layers = layers_without_rope(values)
    chunk = values.get("attention_chunk_size")
    kinds = values.get("layer_types") or [
        "chunked_attention" if turns and chunk is not None else "full_attention"
        for turns in rope_layers
    ]
    step = values["interleave_moe_layer_step"]
    stated = values.get("moe_layers")
    chosen = range(step - 1, layers, step) if stated is None else stated
    tuned = values["attn_temperature_tuning"]
    return {
        "intermediate_size": values["intermediate_size_mlp"],
        "layer_types": tuple(kinds),
        "attention_chunk_size": chunk,
        "rope_layers": rope_layers,
        "query_key_norm": "unit" if values["use_qk_norm"] else None,
        "temperature": Temperature(values["floor_scale"], values["attn_scale"])
        if tuned
        else None,
        "expert_layers": tuple(layer in chosen for layer in range(layers)),
        "experts": Experts(
            count=values["num_local_experts"],
            chosen=values["num_experts_per_tok"],
            width=values["intermediate_size"],
            shared_width=values["intermediate_size"],
            score="sigmoid",
            normalised=False,
            on_input=True,
        ),
    }


LLAMA4 = Family(
    model_type="llama4_text",
    architecture="Llama4ForCausalLM",
    gguf_architecture="llama4",
    source=f"{TRANSFORMERS}/llama4; {LLAMA_CPP}, Llama4Model",
    interleaves_rope=frozenset({"hugging_face", "gguf"}),
    stored={
        "w_gate": Stored("feed_forward.gate_proj.weight"),
        "w_up": Stored("feed_forward.up_proj.weight"),
        "w_down": Stored("feed_forward.down_proj.weight"),
        "router": Stored("feed_forward.router.weight"),
        "expert_down": Stored("feed_forward.experts.down_proj", transposed=False),
        "shared_gate": Stored("feed_forward.shared_expert.gate_proj.weight"),
        "shared_up": Stored("feed_forward.shared_expert.up_proj.weight"),
        "shared_down": Stored("feed_forward.shared_expert.down_proj.weight"),
    }
    | {
        name: Stored(
            "feed_forward.experts.gate_up_proj",
            transposed=False,
            parts=("expert_gate", "expert_up"),
        )
        for name in ("expert_gate", "expert_up")
    },
    layer_kinds=frozenset({"full_attention", "chunked_attention"}),
    accepted_values=plain_but(
        "attention_chunk_size",
        "no_rope_layers",
        "num_local_experts",
        use_qk_norm=YES_OR_NO,
        attn_temperature_tuning=YES_OR_NO,
    ),
    default_theta=500_000.0,
    assumed_values=ASSUMED
    | {
        "head_dim": 128,
        "num_key_value_heads": 8,
        "num_experts_per_tok": 1,
        "num_local_experts": 16,
        "intermediate_size_mlp": 16384,
        "interleave_moe_layer_step": 1,
        "use_qk_norm": True,
        "attention_chunk_size": 8192,
        "attn_temperature_tuning": True,
        "floor_scale": 8192,
        "attn_scale": 0.1,
    },
    sizes=_llama4,
)

__all__ = ["LLAMA4"]
