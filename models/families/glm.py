"""GLM-4.5 and 4.6: DeepSeek's mixture behind grouped heads."""

from collections.abc import Mapping
from typing import Any

from models.families.accepted import ASSUMED, YES_OR_NO, plain_but
from models.families.reading import partial_rotation, sigmoid_experts
from models.families.shared import (
    LLAMA_CPP,
    NEXT_TOKENS,
    NORM_BEHIND_ATTENTION,
    TRANSFORMERS,
)
from models.family import Family


def _glm4_moe(values: Mapping[str, Any]) -> dict[str, Any]:
    return {
        **partial_rotation(values),
        **sigmoid_experts(values),
        "attention_bias": bool(values.get("attention_bias")),
        "query_key_norm": "head" if values.get("use_qk_norm") else None,
    }


GLM4_MOE = Family(
    model_type="glm4_moe",
    architecture="Glm4MoeForCausalLM",
    gguf_architecture="glm4moe",
    source=f"{TRANSFORMERS}/glm4_moe; {LLAMA_CPP}, Glm4MoeModel",
    unread=NEXT_TOKENS,
    accepted_values=plain_but(
        "n_routed_experts",
        "partial_rotary_factor",
        attention_bias=YES_OR_NO,
        use_qk_norm=YES_OR_NO,
        norm_topk_prob=YES_OR_NO,
    ),
    assumed_values=ASSUMED
    | {
        "n_routed_experts": 128,
        "n_shared_experts": 1,
        "num_experts_per_tok": 8,
        "num_key_value_heads": 8,
        "moe_intermediate_size": 1408,
        "first_k_dense_replace": 1,
        "norm_topk_prob": True,
        "routed_scaling_factor": 1.0,
        "n_group": 1,
        "topk_group": 1,
        "partial_rotary_factor": 0.5,
    },
    sizes=_glm4_moe,
    stored_in_gguf=NORM_BEHIND_ATTENTION,
)

__all__ = ["GLM4_MOE"]
