"""Makes the reference models: random weights, and the logits Hugging Face computes from them.

Run `python tests/models/make_reference.py` where `torch` and `transformers` are installed; it
rewrites `tests/models/data/*/`. It imports nothing of this project, so the two stay independent.
"""

import json
import pathlib
import platform
from typing import Any

DATA = pathlib.Path(__file__).parent / "data"
SEED = 20
SHAPE = (2, 40)  # batch and sequence of the reference input
LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 10000.0,
    "factor": 4.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,  # short, so that every band of the scaling is met
}
COMMON: dict[str, Any] = {
    "vocab_size": 96,
    "max_position_embeddings": 128,
    "num_hidden_layers": 3,
    "bos_token_id": 0,
    "eos_token_id": 1,
}
CASES: dict[str, dict[str, Any]] = {
    "llama_gqa_tied_llama3": {
        "model_type": "llama",
        "hidden_size": 48,
        "intermediate_size": 80,
        "num_attention_heads": 6,
        "num_key_value_heads": 2,
        "tie_word_embeddings": True,
        "rope_parameters": LLAMA3,
        "rms_norm_eps": 1e-5,
    },
    "llama_mha_untied": {
        "model_type": "llama",
        "hidden_size": 32,
        "intermediate_size": 72,
        "num_attention_heads": 4,
        "num_key_value_heads": 4,
        "tie_word_embeddings": False,
        "rope_parameters": {"rope_type": "default", "rope_theta": 500000.0},
        "rms_norm_eps": 1e-6,
    },
    "qwen3_gqa_untied": {
        "model_type": "qwen3",
        "hidden_size": 40,
        "intermediate_size": 64,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 16,  # wider than hidden_size / heads, as Qwen3's is
        "tie_word_embeddings": False,
        "rope_parameters": {"rope_type": "default", "rope_theta": 1000000.0},
        "rms_norm_eps": 1e-6,
    },
    "qwen3_gqa_tied": {
        "model_type": "qwen3",
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_attention_heads": 4,
        "num_key_value_heads": 1,
        "head_dim": 12,
        "tie_word_embeddings": True,
        "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0},
        "rms_norm_eps": 1e-6,
    },
    "mistral_window": {
        "model_type": "mistral",
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "sliding_window": 9,
        "rms_norm_eps": 1e-6,
    },
    "qwen2_biases_window": {
        "model_type": "qwen2",
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "use_sliding_window": True,
        "sliding_window": 7,
        "max_window_layers": 1,
        "rms_norm_eps": 1e-6,
    },
    "qwen3_moe": {
        "model_type": "qwen3_moe",
        "hidden_size": 32,
        "intermediate_size": 48,
        "moe_intermediate_size": 16,
        "num_experts": 6,
        "num_experts_per_tok": 2,
        "norm_topk_prob": True,
        "mlp_only_layers": [1],
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 12,
        "rms_norm_eps": 1e-6,
    },
    "mixtral": {
        "model_type": "mixtral",
        "hidden_size": 32,
        "intermediate_size": 24,
        "num_local_experts": 4,
        "num_experts_per_tok": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "rms_norm_eps": 1e-6,
    },
    "minimax_m2": {
        "model_type": "minimax_m2",
        "hidden_size": 32,
        "intermediate_size": 16,
        "num_local_experts": 6,
        "num_experts_per_tok": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 12,
        "rope_parameters": {
            "rope_type": "default",
            "rope_theta": 10000.0,
            "partial_rotary_factor": 0.5,
        },
        "rms_norm_eps": 1e-6,
    },
    "gemma2": {
        "model_type": "gemma2",
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 12,
        "query_pre_attn_scalar": 20,
        "sliding_window": 8,
        # Low enough to bend the scores and logits of random weights.
        "attn_logit_softcapping": 3.0,
        "final_logit_softcapping": 2.0,
        "rms_norm_eps": 1e-6,
    },
    "gemma3": {
        "model_type": "gemma3_text",
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 12,
        "query_pre_attn_scalar": 20,
        "sliding_window": 8,
        "layer_types": [
            "sliding_attention",
            "sliding_attention",
            "full_attention",
            "sliding_attention",
        ],
        "rope_parameters": {
            "full_attention": {
                "rope_type": "linear",
                "rope_theta": 500000.0,
                "factor": 4.0,
            },
            "sliding_attention": {"rope_type": "default", "rope_theta": 10000.0},
        },
        "rms_norm_eps": 1e-6,
    },
    "phi3_partial": {
        "model_type": "phi3",
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "sliding_window": 11,
        "rope_parameters": {
            "rope_type": "default",
            "rope_theta": 10000.0,
            "partial_rotary_factor": 0.5,
        },
        "pad_token_id": 0,
        "rms_norm_eps": 1e-5,
    },
    "smollm3": {
        "model_type": "smollm3",
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "no_rope_layers": [1, 0, 1, 0],
        "pad_token_id": 0,
        "rms_norm_eps": 1e-6,
    },
    "glm4_moe": {
        "model_type": "glm4_moe",
        "hidden_size": 32,
        "intermediate_size": 48,
        "moe_intermediate_size": 16,
        "n_routed_experts": 8,
        "n_shared_experts": 1,
        "num_experts_per_tok": 3,
        "n_group": 1,
        "topk_group": 1,
        "routed_scaling_factor": 2.5,
        "first_k_dense_replace": 1,
        "attention_bias": True,
        "use_qk_norm": True,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 16,
        "rope_parameters": {
            "rope_type": "default",
            "rope_theta": 10000.0,
            "partial_rotary_factor": 0.5,
        },
        "rms_norm_eps": 1e-5,
    },
    "gpt_oss": {
        "model_type": "gpt_oss",
        "hidden_size": 32,
        "intermediate_size": 16,
        "num_local_experts": 4,
        "num_experts_per_tok": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 16,
        "sliding_window": 8,
        "rope_parameters": {
            "rope_type": "yarn",
            "rope_theta": 150000.0,
            "factor": 4.0,
            "beta_fast": 32.0,
            "beta_slow": 1.0,
            "truncate": False,
            "original_max_position_embeddings": 32,
        },
        "rms_norm_eps": 1e-5,
    },
    "deepseek_v3": {
        "model_type": "deepseek_v3",
        "hidden_size": 32,
        "intermediate_size": 48,
        "moe_intermediate_size": 16,
        "n_routed_experts": 8,
        "n_shared_experts": 2,
        "num_experts_per_tok": 3,
        "n_group": 4,
        "topk_group": 2,
        "routed_scaling_factor": 2.5,
        "first_k_dense_replace": 1,
        "num_attention_heads": 4,
        "num_key_value_heads": 4,
        "q_lora_rank": 24,
        "kv_lora_rank": 20,
        "qk_nope_head_dim": 12,
        "qk_rope_head_dim": 8,
        "v_head_dim": 10,
        "rope_parameters": {
            "rope_type": "yarn",
            "rope_theta": 10000.0,
            "factor": 4.0,
            "beta_fast": 32.0,
            "beta_slow": 1.0,
            "mscale": 1.0,
            "mscale_all_dim": 1.0,
            "original_max_position_embeddings": 32,
        },
        "rms_norm_eps": 1e-6,
    },
    "llama4": {
        "model_type": "llama4_text",
        "hidden_size": 32,
        "intermediate_size": 16,
        "intermediate_size_mlp": 48,
        "num_hidden_layers": 4,
        "num_local_experts": 4,
        "num_experts_per_tok": 1,
        "interleave_moe_layer_step": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 12,
        "attention_chunk_size": 16,
        "floor_scale": 8,
        "attn_scale": 0.3,
        "rope_parameters": {"rope_type": "default", "rope_theta": 500000.0},
        "rms_norm_eps": 1e-5,
    },
}


def is_output_first(name: str) -> bool:
    """Whether a parameter is held as `[..., outputs, inputs]`, as Linear layers hold it."""
    # gpt-oss and Llama 4 hold their experts the other way round.
    return not name.endswith(("experts.gate_up_proj", "experts.down_proj"))


def build(case: dict[str, Any]) -> tuple[Any, Any, Any]:
    """The Hugging Face model of a case, its input ids `[batch, seq]` and its float32 logits."""
    import torch  # pyright: ignore[reportMissingImports]
    import transformers  # pyright: ignore[reportMissingImports]

    torch.manual_seed(SEED)
    values = {
        key: value for key, value in (COMMON | case).items() if key != "model_type"
    }
    config = transformers.AutoConfig.for_model(
        case["model_type"], **values, attn_implementation="eager"
    )
    model = transformers.AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    model = model.eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            # The default scale (0.02) leaves attention nearly uniform, which hides mistakes.
            if parameter.ndim == 1 and "norm" in name:
                parameter.copy_(1.0 + 0.2 * torch.randn_like(parameter))
            elif name.endswith(("bias", "sinks")):
                parameter.copy_(0.5 * torch.randn_like(parameter))
            else:
                inputs = parameter.shape[-1 if is_output_first(name) else -2]
                parameter.copy_(torch.randn_like(parameter) * inputs**-0.5)
        for name, buffer in model.named_buffers():
            # Of a size that changes which experts are chosen.
            if name.endswith("e_score_correction_bias"):
                buffer.copy_(0.3 * torch.randn_like(buffer))
        ids = torch.randint(0, values["vocab_size"], SHAPE)
        logits = model(ids, use_cache=False).logits
    return model, ids, logits


def store(name: str, case: dict[str, Any]) -> None:
    """Writes one case's folder."""
    import safetensors.torch
    import torch  # pyright: ignore[reportMissingImports]
    import transformers  # pyright: ignore[reportMissingImports]

    model, ids, logits = build(case)
    folder = DATA / name
    model.save_pretrained(folder)
    (folder / "generation_config.json").unlink(missing_ok=True)
    tensors = {"input_ids": ids.to(torch.int32), "logits": logits.contiguous()}
    safetensors.torch.save_file(tensors, folder / "reference.safetensors")
    provenance = {
        "made_by": "tests/models/make_reference.py",
        "seed": SEED,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "attention": "eager",
        "dtype": "float32",
    }
    (folder / "provenance.json").write_text(json.dumps(provenance, indent=1) + "\n")


if __name__ == "__main__":
    for case_name, case_values in CASES.items():
        store(case_name, case_values)
        print(f"wrote {DATA / case_name}")
