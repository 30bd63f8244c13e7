"""Where families are described, and names of tensors that several of them share."""

from models.family import Stored

TRANSFORMERS = (
    "https://github.com/huggingface/transformers/tree/main/src/transformers/models"
)
LLAMA_CPP = "https://github.com/ggml-org/llama.cpp/blob/master/convert_hf_to_gguf.py"

# Tensors of the layers behind the last, which predict the token after the next.
NEXT_TOKENS = ("model.layers.{layers}.",)
# Of the norm before the MLP, where GGUF files call it as Hugging Face's do.
NORM_BEHIND_ATTENTION = {
    "mlp_norm": Stored("post_attention_norm.weight", transposed=False),
}

__all__ = ["LLAMA_CPP", "NEXT_TOKENS", "NORM_BEHIND_ATTENTION", "TRANSFORMERS"]
