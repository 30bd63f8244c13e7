"""SmolLM3: layers without RoPE. (SmolLM2 is a Llama.)"""

from collections.abc import Mapping
from typing import Any

from models.families.accepted import YES_OR_NO, plain_but
from models.families.reading import both_biases, layers_without_rope
from models.families.shared import LLAMA_CPP, TRANSFORMERS
from models.family import Family


def _smollm3(values: Mapping[str, Any]) -> dict[str, Any]:
    return {"rope_layers": layers_without_rope(values), **both_biases(values)}


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

__all__ = ["SMOLLM3"]
