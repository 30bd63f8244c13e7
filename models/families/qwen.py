"""Qwen's: biases in the second generation, norms of queries and keys in the third."""

from collections.abc import Mapping
from typing import Any

from models.families.accepted import ASSUMED, YES_OR_NO, plain_but
from models.families.reading import both_biases, layer_count, window_in_upper_layers
from models.families.shared import LLAMA_CPP, TRANSFORMERS
from models.family import Family
from models.layer_form import Experts


def _qwen3_moe(values: Mapping[str, Any]) -> dict[str, Any]:
    dense = values.get("mlp_only_layers") or []
    step = values.get("decoder_sparse_step", 1)
    has_experts = tuple(
        layer not in dense and (layer + 1) % step == 0
        for layer in range(layer_count(values))
    )
    return {
        **both_biases(values),
        **window_in_upper_layers(values),
        "expert_layers": has_experts,
        "experts": Experts(
            # transformers 5 writes the second name where it read the first.
            count=values.get("num_experts") or values["num_local_experts"],
            chosen=values["num_experts_per_tok"],
            width=values["moe_intermediate_size"],
            normalised=bool(values["norm_topk_prob"]),
        ),
    }


QWEN2 = Family(
    model_type="qwen2",
    architecture="Qwen2ForCausalLM",
    gguf_architecture="qwen2",
    source=f"{TRANSFORMERS}/qwen2; {LLAMA_CPP}, Qwen2Model",
    has_biases=True,
    layer_kinds=frozenset({"full_attention", "sliding_attention"}),
    # Its biases stand whatever `attention_bias` says, which Qwen2's class does not read.
    accepted_values=plain_but(use_sliding_window=YES_OR_NO),
    assumed_values=ASSUMED | {"sliding_window": 4096},
    sizes=window_in_upper_layers,
)
QWEN3 = Family(
    model_type="qwen3",
    architecture="Qwen3ForCausalLM",
    gguf_architecture="qwen3",
    source=f"{TRANSFORMERS}/qwen3; {LLAMA_CPP}, Qwen3Model",
    query_key_norm="head",
    layer_kinds=frozenset({"full_attention", "sliding_attention"}),
    accepted_values=plain_but(use_sliding_window=YES_OR_NO, attention_bias=YES_OR_NO),
    assumed_values=ASSUMED | {"sliding_window": 4096},
    states_head_dim=True,
    sizes=lambda values: both_biases(values) | window_in_upper_layers(values),
)
QWEN3_MOE = Family(
    model_type="qwen3_moe",
    architecture="Qwen3MoeForCausalLM",
    gguf_architecture="qwen3moe",
    source=f"{TRANSFORMERS}/qwen3_moe; {LLAMA_CPP}, Qwen3MoeModel",
    query_key_norm="head",
    layer_kinds=frozenset({"full_attention", "sliding_attention"}),
    accepted_values=plain_but(
        "num_experts",
        "num_local_experts",
        use_sliding_window=YES_OR_NO,
        attention_bias=YES_OR_NO,
        norm_topk_prob=YES_OR_NO,
        shared_expert_intermediate_size=(None, 0),
    ),
    assumed_values=ASSUMED
    | {
        "num_experts_per_tok": 8,
        "moe_intermediate_size": 768,
        "norm_topk_prob": False,
        "sliding_window": 4096,
    },
    states_head_dim=True,
    sizes=_qwen3_moe,
)

__all__ = ["QWEN2", "QWEN3", "QWEN3_MOE"]
