"""MiniMax-M2: norms over all heads, experts chosen by a sigmoid."""

from collections.abc import Mapping
from typing import Any

from models.families.accepted import ASSUMED, plain_but
from models.families.mistral import MIXTRAL_EXPERTS
from models.families.reading import partial_rotation
from models.families.shared import NEXT_TOKENS, TRANSFORMERS
from models.family import Family, Stored
from models.layer_form import Experts


def _minimax_m2(values: Mapping[str, Any]) -> dict[str, Any]:
    rotated = values.get("rotary_dim")
    experts = Experts(
        count=values["num_local_experts"],
        chosen=values["num_experts_per_tok"],
        width=values["intermediate_size"],
        score="sigmoid",
        selection_bias=True,
    )
    own: dict[str, Any] = {"experts": experts}
    return own | (
        partial_rotation(values) if rotated is None else {"rotary_dim": rotated}
    )


MINIMAX_M2 = Family(
    model_type="minimax_m2",
    architecture="MiniMaxM2ForCausalLM",
    gguf_architecture="minimax-m2",
    source=f"{TRANSFORMERS}/minimax_m2",
    query_key_norm="width",
    stored=MIXTRAL_EXPERTS
    | {"selection_bias": Stored("block_sparse_moe.e_score_correction_bias")},
    unread=NEXT_TOKENS,
    accepted_values=plain_but(
        "num_local_experts",
        "partial_rotary_factor",
        scoring_func=("sigmoid", None),
        use_qk_norm=(True, None),
        use_routing_bias=(True, None),
        shared_intermediate_size=(0, None),
    ),
    assumed_values=ASSUMED
    | {
        "num_local_experts": 256,
        "num_experts_per_tok": 8,
        "num_key_value_heads": 8,
        "head_dim": 128,
    },
    default_theta=5_000_000.0,
    sizes=_minimax_m2,
)

__all__ = ["MINIMAX_M2"]
