"""Llama to its third generation."""

from models.families.accepted import ASSUMED, YES_OR_NO, plain_but
from models.families.reading import both_biases
from models.families.shared import LLAMA_CPP, TRANSFORMERS
from models.family import Family

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

__all__ = ["LLAMA"]
