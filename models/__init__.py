"""Whole transformers: sizes, weights, text, the float32 oracle, and both machines.

What `__all__` lists is what researchers import; a longer path is nobody's API.

```python
import models

tiny = models.load("tiny")
model = models.from_weights(tiny.config, tiny.weights)
prompt = tiny.tokenizer.encode("Return the")
tokens, logits = models.generate(model, prompt, 12)
print(tiny.tokenizer.decode(tokens))
```
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from models.catalogue import CATALOGUE, find
    from models.config import ModelConfig
    from models.errors import ModelError
    from models.families import FAMILIES
    from models.family import Family
    from models.loading.load import Loaded, load
    from models.machines.decode import Decoder
    from models.machines.disaggregated import Disaggregated
    from models.machines.prefill import Prefill
    from models.plain.oracle import generate
    from models.plain.transformer import Transformer, from_weights

# Imported on first use: sizes and files need neither JAX nor Flax, which take over a second.
PLACES = {
    "CATALOGUE": "models.catalogue",
    "Decoder": "models.machines.decode",
    "Disaggregated": "models.machines.disaggregated",
    "FAMILIES": "models.families",
    "Family": "models.family",
    "Loaded": "models.loading.load",
    "ModelConfig": "models.config",
    "ModelError": "models.errors",
    "Prefill": "models.machines.prefill",
    "Transformer": "models.plain.transformer",
    "find": "models.catalogue",
    "from_weights": "models.plain.transformer",
    "generate": "models.plain.oracle",
    "load": "models.loading.load",
}


def __getattr__(name: str) -> Any:
    if name not in PLACES:
        raise AttributeError(f"module 'models' has no attribute {name!r}")
    return getattr(importlib.import_module(PLACES[name]), name)


__all__ = [
    "CATALOGUE",
    "Decoder",
    "Disaggregated",
    "FAMILIES",
    "Family",
    "Loaded",
    "ModelConfig",
    "ModelError",
    "Prefill",
    "Transformer",
    "find",
    "from_weights",
    "generate",
    "load",
]
