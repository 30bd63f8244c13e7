"""Gemma's: norms of outputs too, windows in most layers, soft-capped scores."""

from collections.abc import Mapping
from typing import Any

from models.families.accepted import plain_but
from models.families.reading import windows_between
from models.families.shared import LLAMA_CPP, TRANSFORMERS
from models.family import Family, Stored


def _gemma_scores(values: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "attention_scale": values["query_pre_attn_scalar"] ** -0.5,
        "attention_soft_cap": values.get("attn_logit_softcapping"),
        "logit_soft_cap": values.get("final_logit_softcapping"),
    }


def _gemma2(values: Mapping[str, Any]) -> dict[str, Any]:
    return _gemma_scores(values) | windows_between(values, 2)


def _gemma3(values: Mapping[str, Any]) -> dict[str, Any]:
    local = values.get("rope_local_base_freq", 10_000.0)
    return {
        **_gemma_scores(values),
        "rope_local_theta": local,
        **windows_between(values, values.get("sliding_window_pattern", 6)),
    }


# What both generations share.
GEMMA: dict[str, Any] = {
    "activation": "gelu_tanh",
    "hidden_act": "gelu_pytorch_tanh",
    "has_output_norms": True,
    "norms_from_zero": True,
    "scales_embedding": True,
    "stored": {
        "mlp_norm": Stored("pre_feedforward_layernorm.weight", transposed=False),
    },
    "layer_kinds": frozenset({"full_attention", "sliding_attention"}),
    "accepted_values": plain_but(
        "attn_logit_softcapping",
        "final_logit_softcapping",
        "query_pre_attn_scalar",
        hidden_activation=("gelu_pytorch_tanh", None),
    ),
}
GEMMA_ASSUMED = {
    "tie_word_embeddings": True,
    "head_dim": 256,
    "num_key_value_heads": 4,
    "query_pre_attn_scalar": 256,
    "sliding_window": 4096,
}
GEMMA2 = Family(
    model_type="gemma2",
    architecture="Gemma2ForCausalLM",
    gguf_architecture="gemma2",
    source=f"{TRANSFORMERS}/gemma2; {LLAMA_CPP}, Gemma2Model",
    assumed_values=GEMMA_ASSUMED
    | {"attn_logit_softcapping": 50.0, "final_logit_softcapping": 30.0},
    sizes=_gemma2,
    **GEMMA,
)
GEMMA3 = Family(
    model_type="gemma3_text",
    architecture="Gemma3ForCausalLM",
    gguf_architecture="gemma3",
    source=f"{TRANSFORMERS}/gemma3; {LLAMA_CPP}, Gemma3Model",
    query_key_norm="head",
    rope_by_layer_kind=True,
    default_theta=1_000_000.0,
    assumed_values=GEMMA_ASSUMED,
    sizes=_gemma3,
    **GEMMA,
)

__all__ = ["GEMMA", "GEMMA2", "GEMMA3", "GEMMA_ASSUMED"]
