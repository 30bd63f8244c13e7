"""What a config may say, of all that could make it another model than the one that runs."""

from typing import Any

# None stands for a field that the file leaves out, and for a JSON null.
PLAIN: dict[str, tuple[Any, ...]] = {
    "attention_bias": (False, None),
    "mlp_bias": (False, None),
    "use_sliding_window": (False, None),
    "partial_rotary_factor": (1, None),
    "is_encoder_decoder": (False, None),
    # What other families' configs say. Under the names of these families transformers would pass
    # over it, and the model that the file describes would not be the one that runs.
    "add_cross_attention": (False, None),
    "attention_chunk_size": (None,),
    "attention_multiplier": (None,),
    "attn_logit_softcapping": (None,),
    "clip_qkv": (None,),
    "embedding_multiplier": (1, None),
    "final_logit_softcapping": (None,),
    "is_causal": (True, None),
    "logit_scale": (1, None),
    "logits_scaling": (1, None),
    "n_routed_experts": (0, None),
    "no_rope_layers": (None,),
    "num_experts": (0, None),
    "num_local_experts": (0, None),
    "per_layer_config": (None,),
    "query_pre_attn_scalar": (None,),
    "residual_multiplier": (1, None),
    "rope_interleaved": (False, None),
    "use_bidirectional_attention": (False, None),
    # A model inside another's config: which of the two is meant cannot be told.
    "audio_config": (None,),
    "text_config": (None,),
    "vision_config": (None,),
}
"""Fields that change a result, with the values of a model that is as plain as Llama."""

YES_OR_NO: tuple[Any, ...] = (False, True, None)
"""What a field may say that a family reads as a switch."""

ASSUMED = {"tie_word_embeddings": False}


def plain_but(*fields: str, **accepted: tuple[Any, ...]) -> dict[str, tuple[Any, ...]]:
    """`PLAIN` without the fields that a family gives a meaning to, and with others."""
    kept = {name: values for name, values in PLAIN.items() if name not in fields}
    return kept | accepted


__all__ = ["ASSUMED", "PLAIN", "YES_OR_NO", "plain_but"]
