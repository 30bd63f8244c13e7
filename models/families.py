"""Every family of decoders that is known here, one entry each, and how to find it."""

import difflib
from collections.abc import Mapping
from typing import Any

from models.errors import ModelError, shown
from models.family import Family, Stored
from models.layer_form import Experts, Latent, Temperature

TRANSFORMERS = (
    "https://github.com/huggingface/transformers/tree/main/src/transformers/models"
)
LLAMA_CPP = "https://github.com/ggml-org/llama.cpp/blob/master/convert_hf_to_gguf.py"

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


# --- what configs say of their layers ---


def both_biases(values: Mapping[str, Any]) -> dict[str, Any]:
    """`attention_bias` of all four projections."""
    biased = bool(values.get("attention_bias"))
    return {"attention_bias": biased, "attention_output_bias": biased}


def window_in_every_layer(values: Mapping[str, Any]) -> dict[str, Any]:
    """Mistral's and Phi-3's `sliding_window`."""
    window = values.get("sliding_window")
    if window is None:
        return {}
    layers = _layers(values)
    return {
        "sliding_window": window,
        "layer_types": ("sliding_attention",) * layers,
    }


def window_in_upper_layers(values: Mapping[str, Any]) -> dict[str, Any]:
    """Qwen's `use_sliding_window`: layers from `max_window_layers` on have a window."""
    if not values.get("use_sliding_window"):
        return {}
    kinds = values.get("layer_types")
    if kinds is None:
        first = values.get("max_window_layers", 28)
        kinds = [
            "sliding_attention" if layer >= first else "full_attention"
            for layer in range(_layers(values))
        ]
    return {
        "sliding_window": values.get("sliding_window"),
        "layer_types": tuple(kinds),
    }


def windows_between(values: Mapping[str, Any], every: int) -> dict[str, Any]:
    """Windows in all layers but each `every`-th, unless `layer_types` says otherwise."""
    kinds = values.get("layer_types")
    if kinds is None:
        kinds = [
            "full_attention" if (layer + 1) % every == 0 else "sliding_attention"
            for layer in range(_layers(values))
        ]
    return {
        "sliding_window": values.get("sliding_window"),
        "layer_types": tuple(kinds),
    }


def partial_rotation(values: Mapping[str, Any]) -> dict[str, Any]:
    """`partial_rotary_factor`, which may stand among RoPE's parameters."""
    parameters = values.get("rope_parameters") or {}
    share = parameters.get(
        "partial_rotary_factor", values.get("partial_rotary_factor", 1)
    )
    heads = values.get("num_attention_heads")
    width = values.get("head_dim") or values["hidden_size"] // heads
    rotated = int(width * share)
    return {} if rotated == width else {"rotary_dim": rotated}


def layers_without_rope(values: Mapping[str, Any]) -> tuple[bool, ...]:
    """`no_rope_layers`: despite its name, 1 where a layer has RoPE."""
    stated = values.get("no_rope_layers")
    if stated:
        return tuple(bool(x) for x in stated)
    every = values.get("no_rope_layer_interval", 4)
    return tuple((layer + 1) % every != 0 for layer in range(_layers(values)))


def _layers(values: Mapping[str, Any]) -> int:
    layers = values.get("num_hidden_layers")
    # Whoever reads the sizes refuses it with its name.
    return layers if isinstance(layers, int) and 0 <= layers < 10_000 else 0


def _smollm3(values: Mapping[str, Any]) -> dict[str, Any]:
    return {"rope_layers": layers_without_rope(values), **both_biases(values)}


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


def _phi3(values: Mapping[str, Any]) -> dict[str, Any]:
    return window_in_every_layer(values) | partial_rotation(values)


def _qwen3_moe(values: Mapping[str, Any]) -> dict[str, Any]:
    dense = values.get("mlp_only_layers") or []
    step = values.get("decoder_sparse_step", 1)
    has_experts = tuple(
        layer not in dense and (layer + 1) % step == 0
        for layer in range(_layers(values))
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


def _mixtral(values: Mapping[str, Any]) -> dict[str, Any]:
    experts = Experts(
        count=values["num_local_experts"],
        chosen=values["num_experts_per_tok"],
        width=values["intermediate_size"],
    )
    return {**window_in_every_layer(values), "experts": experts}


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


def _sigmoid_experts(values: Mapping[str, Any]) -> dict[str, Any]:
    """DeepSeek-V3's mixture, behind a few layers without one."""
    first = values["first_k_dense_replace"]
    has_experts = tuple(layer >= first for layer in range(_layers(values)))
    experts = Experts(
        count=values["n_routed_experts"],
        chosen=values["num_experts_per_tok"],
        width=values["moe_intermediate_size"],
        shared_width=values["n_shared_experts"] * values["moe_intermediate_size"],
        score="sigmoid",
        selection_bias=True,
        groups=values["n_group"],
        chosen_groups=values["topk_group"],
        normalised=bool(values["norm_topk_prob"]),
        scale=float(values["routed_scaling_factor"]),
    )
    return {"expert_layers": has_experts, "experts": experts}


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


def _glm4_moe(values: Mapping[str, Any]) -> dict[str, Any]:
    return {
        **partial_rotation(values),
        **_sigmoid_experts(values),
        "attention_bias": bool(values.get("attention_bias")),
        "query_key_norm": "head" if values.get("use_qk_norm") else None,
    }


def _deepseek_v3(values: Mapping[str, Any]) -> dict[str, Any]:
    latent = Latent(
        query_rank=values["q_lora_rank"],
        rank=values["kv_lora_rank"],
        plain_width=values["qk_nope_head_dim"],
        turned_width=values["qk_rope_head_dim"],
        value_width=values["v_head_dim"],
    )
    return {
        **_sigmoid_experts(values),
        "latent": latent,
        "head_dim": latent.turned_width,
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


def _llama4(values: Mapping[str, Any]) -> dict[str, Any]:
    layers = _layers(values)
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


# --- families ---

# Tensors of the layers behind the last, which predict the token after the next.
NEXT_TOKENS = ("model.layers.{layers}.",)
# Of the norm before the MLP, where GGUF files call it as Hugging Face's do.
NORM_BEHIND_ATTENTION = {
    "mlp_norm": Stored("post_attention_norm.weight", transposed=False),
}

LLAMA = Family(
    model_type="llama",
    architecture="LlamaForCausalLM",
    gguf_architecture="llama",
    source=f"{TRANSFORMERS}/llama; {LLAMA_CPP}, LlamaModel.permute",
    interleaves_rope=frozenset({"gguf"}),
    accepted_values=plain_but(sliding_window=(None,), attention_bias=YES_OR_NO),
    assumed_values=ASSUMED,
    sizes=both_biases,
)
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
SMOLLM3 = Family(
    model_type="smollm3",
    architecture="SmolLM3ForCausalLM",
    gguf_architecture="smollm3",
    source=f"{TRANSFORMERS}/smollm3; {LLAMA_CPP}, SmolLM3Model",
    accepted_values=plain_but("no_rope_layers", attention_bias=YES_OR_NO),
    default_theta=2_000_000.0,
    assumed_values={
        "tie_word_embeddings": True,
        "num_key_value_heads": 4,
    },
    sizes=_smollm3,
    interleaves_rope=frozenset({"gguf"}),
)
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
FAMILIES = {
    family.model_type: family
    for family in (
        LLAMA,
        MISTRAL,
        QWEN2,
        QWEN3,
        QWEN3_MOE,
        MIXTRAL,
        MINIMAX_M2,
        GEMMA2,
        GEMMA3,
        PHI3,
        SMOLLM3,
        GPT_OSS,
        GLM4_MOE,
        DEEPSEEK_V3,
        KIMI_K2,
        LLAMA4,
    )
}


def by_model_type(model_type: Any, where: str) -> Family:
    """The family that Hugging Face's configs call `model_type`.

    Args:
        model_type: From a file, so of any type.
        where: What the error calls the model.

    Raises:
        ModelError: There is none; the message names the nearest and lists those there are.
    """
    if not isinstance(model_type, str) or model_type not in FAMILIES:
        raise ModelError(
            f"{where}: model_type {shown(model_type)} is not supported"
            f"{_nearest(model_type, FAMILIES)}; supported are {sorted(FAMILIES)}"
        )
    return FAMILIES[model_type]


def by_gguf_architecture(architecture: str, where: str) -> Family:
    """The family whose GGUF files say this `general.architecture`; errors as `by_model_type`'s."""
    known = {
        family.gguf_architecture: family
        for family in FAMILIES.values()
        if family.gguf_architecture is not None
    }
    if architecture not in known:
        raise ModelError(
            f"{where}: architecture {shown(architecture)} is not supported"
            f"{_nearest(architecture, known)}; supported are {sorted(known)}"
        )
    return known[architecture]


def _nearest(asked: Any, known: Mapping[str, Family]) -> str:
    """The known name that is most like the one asked for, in words; nothing if none is."""
    if not isinstance(asked, str):
        return ""
    like = difflib.get_close_matches(asked, list(known), n=1, cutoff=0.5)
    return f", the nearest is {like[0]!r}" if like else ""
