"""Every family of decoders that is known here, one file a line of them, and how to find one.

A new one is an entry, in its own file or its relatives', and its name in `FAMILIES`.
"""

import difflib
from collections.abc import Mapping
from typing import Any

from models.errors import ModelError, shown
from models.families.deepseek import DEEPSEEK_V3, KIMI_K2
from models.families.gemma import GEMMA2, GEMMA3
from models.families.glm import GLM4_MOE
from models.families.gpt_oss import GPT_OSS
from models.families.llama import LLAMA
from models.families.llama4 import LLAMA4
from models.families.minimax import MINIMAX_M2
from models.families.mistral import MISTRAL, MIXTRAL
from models.families.phi import PHI3
from models.families.qwen import QWEN2, QWEN3, QWEN3_MOE
from models.families.smollm import SMOLLM3
from models.family import Family

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


__all__ = ["FAMILIES", "by_gguf_architecture", "by_model_type"]
