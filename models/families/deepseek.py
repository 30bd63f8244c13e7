"""DeepSeek-V3 and what computes as it does: latent attention, many small experts."""

from collections.abc import Mapping
from typing import Any

from models.families.accepted import ASSUMED, YES_OR_NO, plain_but
from models.families.reading import sigmoid_experts
from models.families.shared import NEXT_TOKENS, TRANSFORMERS
from models.family import Family
from models.layer_form import Latent


def _deepseek_v3(values: Mapping[str, Any]) -> dict[str, Any]:
    latent = Latent(
        query_rank=values["q_lora_rank"],
        rank=values["kv_lora_rank"],
        plain=values["qk_nope_head_dim"],
        turned=values["qk_rope_head_dim"],
        value_dim=values["v_head_dim"],
    )
    return {
        **sigmoid_experts(values),
        "latent": latent,
        "head_dim": latent.turned,
        "attention_scale": latent.key_width**-0.5 * _yarn_of_scores(values),
    }


def _yarn_of_scores(values: Mapping[str, Any]) -> float:
    """What DeepSeek multiplies scores by where YaRN stretches the context: a square, of about 2."""
    from models.plain.rope import yarn_scale

    scaling = values.get("rope_scaling") or values.get("rope_parameters") or {}
    multiplier = scaling.get("mscale_all_dim")
    if not multiplier or scaling.get("rope_type", scaling.get("type")) != "yarn":
        return 1.0
    return yarn_scale(scaling["factor"], multiplier) ** 2


LATENT_MODELS: dict[str, Any] = {
    "interleaves_rope": frozenset({"hugging_face", "gguf"}),
    "unread": NEXT_TOKENS,
    "accepted_values": plain_but(
        "n_routed_experts",
        norm_topk_prob=YES_OR_NO,
        rope_interleave=(True, None),
        scoring_func=("sigmoid", None),
        topk_method=("noaux_tc", None),
        moe_layer_freq=(1, None),
    ),
    "sizes": _deepseek_v3,
}
DEEPSEEK_V3_ASSUMED = ASSUMED | {
    "n_routed_experts": 256,
    "n_shared_experts": 1,
    "num_experts_per_tok": 8,
    "moe_intermediate_size": 2048,
    "first_k_dense_replace": 3,
    "norm_topk_prob": True,
    "routed_scaling_factor": 2.5,
    "n_group": 8,
    "topk_group": 4,
    "q_lora_rank": 1536,
    "kv_lora_rank": 512,
    "qk_nope_head_dim": 128,
    "qk_rope_head_dim": 64,
    "v_head_dim": 128,
}
DEEPSEEK_V3 = Family(
    model_type="deepseek_v3",
    architecture="DeepseekV3ForCausalLM",
    gguf_architecture="deepseek2",
    source=f"{TRANSFORMERS}/deepseek_v3; arXiv:2412.19437",
    assumed_values=DEEPSEEK_V3_ASSUMED,
    **LATENT_MODELS,
)
# What DeepSeek-V3 computes, under a name of its own.
KIMI_K2 = Family(
    model_type="kimi_k2",
    architecture="DeepseekV3ForCausalLM",
    gguf_architecture=None,
    source="moonshotai/Kimi-K2-Instruct config.json; arXiv:2507.20534",
    assumed_values=DEEPSEEK_V3_ASSUMED,
    **LATENT_MODELS,
)

__all__ = ["DEEPSEEK_V3", "DEEPSEEK_V3_ASSUMED", "KIMI_K2", "LATENT_MODELS"]
