"""Phi-3: Llama's layers, stored in fewer tensors."""

from collections.abc import Mapping
from typing import Any

from models.families.accepted import ASSUMED, plain_but
from models.families.reading import partial_rotation, window_in_every_layer
from models.families.shared import LLAMA_CPP, TRANSFORMERS
from models.family import Family, Stored


def _phi3(values: Mapping[str, Any]) -> dict[str, Any]:
    return window_in_every_layer(values) | partial_rotation(values)


PHI3 = Family(
    model_type="phi3",
    architecture="Phi3ForCausalLM",
    gguf_architecture="phi3",
    source=f"{TRANSFORMERS}/phi3; {LLAMA_CPP}, Phi3MiniModel",
    stored={
        name: Stored("self_attn.qkv_proj.weight", parts=("wq", "wk", "wv"))
        for name in ("wq", "wk", "wv")
    }
    | {
        name: Stored("mlp.gate_up_proj.weight", parts=("w_gate", "w_up"))
        for name in ("w_gate", "w_up")
    },
    layer_kinds=frozenset({"full_attention", "sliding_attention"}),
    accepted_values=plain_but("partial_rotary_factor"),
    assumed_values=ASSUMED,
    sizes=_phi3,
    stored_in_gguf={
        name: Stored("attn_qkv.weight", parts=("wq", "wk", "wv"))
        for name in ("wq", "wk", "wv")
    }
    | {
        name: Stored("ffn_up.weight", parts=("w_gate", "w_up"))
        for name in ("w_gate", "w_up")
    },
)

__all__ = ["PHI3"]
