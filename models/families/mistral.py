"""Mistral's: Llama's layers with a window, and Mixtral's experts."""

from collections.abc import Mapping
from typing import Any

from models.families.accepted import ASSUMED, PLAIN, plain_but
from models.families.reading import window_in_every_layer
from models.families.shared import LLAMA_CPP, TRANSFORMERS
from models.family import Family, Stored
from models.layer_form import Experts


def _mixtral(values: Mapping[str, Any]) -> dict[str, Any]:
    experts = Experts(
        count=values["num_local_experts"],
        chosen=values["num_experts_per_tok"],
        width=values["intermediate_size"],
    )
    return {**window_in_every_layer(values), "experts": experts}


MISTRAL = Family(
    model_type="mistral",
    architecture="MistralForCausalLM",
    gguf_architecture=None,
    source=f"{TRANSFORMERS}/mistral; {LLAMA_CPP}, LlamaModel registers MistralForCausalLM",
    layer_kinds=frozenset({"full_attention", "sliding_attention"}),
    accepted_values=PLAIN,
    assumed_values=ASSUMED | {"sliding_window": 4096, "num_key_value_heads": 8},
    sizes=window_in_every_layer,
)
MIXTRAL_EXPERTS = {
    "router": Stored("block_sparse_moe.gate.weight"),
    "expert_gate": Stored("block_sparse_moe.experts.{expert}.w1.weight"),
    "expert_up": Stored("block_sparse_moe.experts.{expert}.w3.weight"),
    "expert_down": Stored("block_sparse_moe.experts.{expert}.w2.weight"),
}
MIXTRAL = Family(
    model_type="mixtral",
    architecture="MixtralForCausalLM",
    gguf_architecture=None,
    source=f"{TRANSFORMERS}/mixtral",
    layer_kinds=frozenset({"full_attention", "sliding_attention"}),
    stored=MIXTRAL_EXPERTS,
    accepted_values=plain_but("num_local_experts"),
    default_theta=1_000_000.0,
    assumed_values=ASSUMED
    | {
        "num_local_experts": 8,
        "num_experts_per_tok": 2,
        "num_key_value_heads": 8,
    },
    sizes=_mixtral,
    interleaves_rope=frozenset({"gguf"}),
)

__all__ = ["MISTRAL", "MIXTRAL", "MIXTRAL_EXPERTS"]
