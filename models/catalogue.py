"""Sizes of named models, each with its source."""

from typing import Any

from models.config import ModelConfig
from models.errors import ModelError

LLAMA_3_1_SCALING: dict[str, Any] = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}
COPIES = "config.json as copied in ai-dynamo/aiconfigurator@095f58a, model_configs/"

SMOLLM2_135M = ModelConfig(
    name="smollm2-135m",
    model_type="llama",
    hidden_size=576,
    intermediate_size=1536,
    num_hidden_layers=30,
    num_attention_heads=9,
    num_key_value_heads=3,
    head_dim=64,
    vocab_size=49152,
    max_position_embeddings=8192,
    rope_theta=100000.0,
    rope_scaling=None,
    rms_norm_eps=1e-5,
    tie_word_embeddings=True,
    source="HuggingFaceTB/SmolLM2-135M config.json, as quoted by four independent repositories",
)
LLAMA_3_1_8B = ModelConfig(
    name="llama-3.1-8b",
    model_type="llama",
    hidden_size=4096,
    intermediate_size=14336,
    num_hidden_layers=32,
    num_attention_heads=32,
    num_key_value_heads=8,
    head_dim=128,
    vocab_size=128256,
    max_position_embeddings=131072,
    rope_theta=500000.0,
    rope_scaling=LLAMA_3_1_SCALING,
    rms_norm_eps=1e-5,
    tie_word_embeddings=False,
    source=f"meta-llama/Llama-3.1-8B {COPIES}",
)
LLAMA_3_1_70B = ModelConfig(
    name="llama-3.1-70b",
    model_type="llama",
    hidden_size=8192,
    intermediate_size=28672,
    num_hidden_layers=80,
    num_attention_heads=64,
    num_key_value_heads=8,
    head_dim=128,
    vocab_size=128256,
    max_position_embeddings=131072,
    rope_theta=500000.0,
    rope_scaling=LLAMA_3_1_SCALING,
    rms_norm_eps=1e-5,
    tie_word_embeddings=False,
    source=f"meta-llama/Llama-3.1-70B {COPIES}",
)
QWEN3_0_6B = ModelConfig(
    name="qwen3-0.6b",
    model_type="qwen3",
    hidden_size=1024,
    intermediate_size=3072,
    num_hidden_layers=28,
    num_attention_heads=16,
    num_key_value_heads=8,
    head_dim=128,
    vocab_size=151936,
    max_position_embeddings=40960,
    rope_theta=1000000.0,
    rope_scaling=None,
    rms_norm_eps=1e-6,
    tie_word_embeddings=True,
    source=f"Qwen/Qwen3-0.6B {COPIES}",
)
QWEN3_32B = ModelConfig(
    name="qwen3-32b",
    model_type="qwen3",
    hidden_size=5120,
    intermediate_size=25600,
    num_hidden_layers=64,
    num_attention_heads=64,
    num_key_value_heads=8,
    head_dim=128,
    vocab_size=151936,
    max_position_embeddings=40960,
    rope_theta=1000000.0,
    rope_scaling=None,
    rms_norm_eps=1e-6,
    tie_word_embeddings=False,
    source=f"Qwen/Qwen3-32B {COPIES}",
)
MISTRAL_NEMO_12B = ModelConfig(
    name="mistral-nemo-12b",
    model_type="mistral",
    hidden_size=5120,
    intermediate_size=14336,
    num_hidden_layers=40,
    num_attention_heads=32,
    num_key_value_heads=8,
    head_dim=128,
    vocab_size=131072,
    max_position_embeddings=128000,
    rope_theta=1000000.0,
    rope_scaling=None,
    rms_norm_eps=1e-5,
    tie_word_embeddings=False,
    source="mistralai/Mistral-Nemo-Base-2407 config.json as copied in "
    "kevinstephano/thunder_model_blocks, mistral/mistral_config.py",
)
TINY = ModelConfig(
    name="tiny",
    model_type="llama",
    hidden_size=96,
    intermediate_size=256,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
    head_dim=24,
    vocab_size=1024,
    max_position_embeddings=1024,
    rope_theta=10000.0,
    rope_scaling=None,
    rms_norm_eps=1e-5,
    tie_word_embeddings=True,
    source="this project, experiments/train_tiny/",
)
CATALOGUE = {
    config.name: config
    for config in (
        SMOLLM2_135M,
        LLAMA_3_1_8B,
        LLAMA_3_1_70B,
        QWEN3_0_6B,
        QWEN3_32B,
        MISTRAL_NEMO_12B,
        TINY,
    )
}


def find(name: str) -> ModelConfig:
    """The named config; raises ModelError listing the known names."""
    if name not in CATALOGUE:
        raise ModelError(
            f"no model named {name!r} in the catalogue; known are {list(CATALOGUE)}"
        )
    return CATALOGUE[name]
