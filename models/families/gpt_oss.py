"""gpt-oss: sinks, windows in every other layer, experts with biases."""

from collections.abc import Mapping
from typing import Any

from models.families.accepted import ASSUMED, YES_OR_NO, plain_but
from models.families.reading import both_biases, windows_between
from models.families.shared import NORM_BEHIND_ATTENTION, TRANSFORMERS
from models.family import Family, Stored
from models.layer_form import Experts


def _gpt_oss(values: Mapping[str, Any]) -> dict[str, Any]:
    return {
        **both_biases(values),
        **windows_between(values, 2),
        "experts": Experts(
            count=values["num_local_experts"],
            chosen=values["num_experts_per_tok"],
            width=values["intermediate_size"],
            is_biased=True,
        ),
    }


GPT_OSS = Family(
    model_type="gpt_oss",
    architecture="GptOssForCausalLM",
    gguf_architecture="gpt-oss",
    source=f"{TRANSFORMERS}/gpt_oss; arXiv:2508.10925",
    activation="clamped_swiglu",
    has_sinks=True,
    stored={
        "router": Stored("mlp.router.weight"),
        "router_bias": Stored("mlp.router.bias", transposed=False),
        "expert_down": Stored("mlp.experts.down_proj", transposed=False),
        "expert_down_bias": Stored("mlp.experts.down_proj_bias", transposed=False),
    }
    | {
        name: Stored(
            "mlp.experts.gate_up_proj",
            transposed=False,
            parts=("expert_gate", "expert_up"),
            is_woven=True,
        )
        for name in ("expert_gate", "expert_up")
    }
    | {
        name: Stored(
            "mlp.experts.gate_up_proj_bias",
            transposed=False,
            parts=("expert_gate_bias", "expert_up_bias"),
            is_woven=True,
        )
        for name in ("expert_gate_bias", "expert_up_bias")
    },
    layer_kinds=frozenset({"full_attention", "sliding_attention"}),
    accepted_values=plain_but(
        "num_local_experts",
        attention_bias=YES_OR_NO,
        swiglu_limit=(7.0, None),
        swiglu_alpha=(1.702, None),
    ),
    default_theta=150_000.0,
    assumed_values=ASSUMED
    | {
        "attention_bias": True,
        "head_dim": 64,
        "num_key_value_heads": 8,
        "num_local_experts": 128,
        "num_experts_per_tok": 4,
        "sliding_window": 128,
    },
    sizes=_gpt_oss,
    stored_in_gguf=NORM_BEHIND_ATTENTION,
)

__all__ = ["GPT_OSS"]
