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
}


def build(case: dict[str, Any]) -> tuple[Any, Any, Any]:
    """The Hugging Face model of a case, its input ids `[batch, seq]` and its float32 logits."""
    import torch  # pyright: ignore[reportMissingImports]
    import transformers  # pyright: ignore[reportMissingImports]

    torch.manual_seed(SEED)
    classes = {"llama": "Llama", "qwen3": "Qwen3"}
    family = classes[case["model_type"]]
    values = {
        key: value for key, value in (COMMON | case).items() if key != "model_type"
    }
    config = getattr(transformers, f"{family}Config")(
        **values, attn_implementation="eager"
    )
    model = (
        getattr(transformers, f"{family}ForCausalLM")(config).to(torch.float32).eval()
    )
    with torch.no_grad():
        for parameter in model.parameters():
            # The default scale (0.02) leaves attention nearly uniform, which hides mistakes.
            if parameter.ndim == 1:
                parameter.copy_(1.0 + 0.2 * torch.randn_like(parameter))
            else:
                parameter.copy_(
                    torch.randn_like(parameter) * parameter.shape[1] ** -0.5
                )
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
