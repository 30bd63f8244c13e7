"""What the metadata of each GGUF architecture says besides what all of them say.

Facts of llama.cpp: `src/models/*.cpp`, load_arch_hparams, has the keys, what they default to, and
what no key says; `conversion/*.py` (formerly `convert_hf_to_gguf.py`), what converters write.
"""

import dataclasses
import math
from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

import numpy as np

from models.config import FULL, WINDOW
from models.errors import ModelError, shown
from models.layer_form import Experts, Latent, Temperature
from models.loading.gguf_file import GgufFile
from models.loading.gguf_keys import field
from models.plain.rope import yarn_scale

Scaling: TypeAlias = dict[str, Any] | None
"""`ModelConfig.rope_scaling`."""

NO_GATING, SOFTMAX, SIGMOID, SOFTMAX_OF_CHOSEN = range(4)
"""Values of `expert_gating_func`."""


class Metadata:
    """The metadata of a file's architecture.

    Args:
        file: The header.
        architecture: The prefix of its keys, which callers leave out.
    """

    def __init__(self, file: GgufFile, architecture: str) -> None:
        self.file, self.architecture = file, architecture

    def size(self, key: str, default: int | None = None) -> int:
        """A whole number; ModelError where it is absent and has no default."""
        return field(self.file, f"{self.architecture}.{key}", int, default)

    def width(self, key: str, default: int | None = None) -> int:
        """A whole number from 1."""
        width = self.size(key, default)
        if width < 1:
            raise self.refused(key, "a whole number from 1")
        return width

    def number(self, key: str, default: float | None = None) -> float:
        """A finite float32, as the shortest decimal that is stored as it."""
        number = decimal(field(self.file, f"{self.architecture}.{key}", float, default))
        if not math.isfinite(number):
            raise self.refused(key, "a finite number")
        return number

    def flag(self, key: str, default: bool) -> bool:
        """A yes or no."""
        return field(self.file, f"{self.architecture}.{key}", bool, default)

    def value(self, key: str) -> Any:
        """Whatever the file says; None where it says nothing."""
        return self.file.metadata.get(f"{self.architecture}.{key}")

    def holds(self, tensor: str) -> bool:
        """Whether the first layer has this tensor, by which llama.cpp tells some variants."""
        return f"blk.0.{tensor}" in self.file.tensors

    def refused(self, key: str, supported: str) -> ModelError:
        """An error about what a key says, or does not say."""
        stated = self.value(key)
        what = "is missing" if stated is None else f"is {shown(stated)}"
        return ModelError(
            f"{self.file.path}: {self.architecture}.{key} {what}; supported is {supported}"
        )

    @property
    def layers(self) -> int:
        """Layers of the model; those behind them predict the token after the next."""
        layers = self.size("block_count") - self.size("nextn_predict_layers", 0)
        # Before anything is listed by layer: of a billion the names alone would fill the memory.
        if not 1 <= layers <= len(self.file.tensors):
            raise ModelError(
                f"{self.file.path}: claims {layers} layers, but holds {len(self.file.tensors)} "
                "tensors; the file is corrupt"
            )
        return layers


def decimal(value: float) -> float:
    """The shortest decimal of a float32, so that a stored 1e-5 reads back as 1e-5.

    As a float64 the stored number is 9.999999747378752e-06, and a config would not compare equal.
    """
    return float(str(np.float32(value)))


@dataclasses.dataclass(frozen=True, kw_only=True)
class GgufForm:
    """How one architecture's metadata becomes a config.

    Attributes:
        used: Keys that it reads besides those that all read.
        neutral: Values by which keys change nothing in it.
        rotates_part: Whether RoPE may turn a part of each head.
        sizes: Fields of `ModelConfig` besides the common ones, from the metadata and the scaling
            of RoPE that the common keys state.
    """

    used: frozenset[str] = frozenset()
    neutral: Mapping[str, tuple[Any, ...]] = dataclasses.field(default_factory=dict)
    rotates_part: bool = False
    sizes: Callable[[Metadata, Scaling], dict[str, Any]] = lambda data, scaling: {}


# --- parts that several have ---

OF_EXPERTS = frozenset(
    {"expert_count", "expert_used_count", "expert_feed_forward_length"}
)
OF_WINDOWS = frozenset({"attention.sliding_window", "attention.sliding_window_pattern"})
OF_SIGMOID_EXPERTS = OF_EXPERTS | {
    "expert_gating_func",
    "expert_group_count",
    "expert_group_used_count",
    "expert_shared_count",
    "expert_weights_norm",
    "expert_weights_scale",
    "leading_dense_block_count",
    "nextn_predict_layers",
}


def experts(data: Metadata, **others: Any) -> Experts:
    """A mixture of which the keys state the sizes."""
    return Experts(
        count=data.size("expert_count"),
        chosen=data.size("expert_used_count"),
        width=data.size("expert_feed_forward_length", data.size("feed_forward_length")),
        **others,
    )


def sigmoid_experts(data: Metadata, gating: int = NO_GATING) -> dict[str, Any]:
    """DeepSeek-V3's mixture, behind a few layers without one.

    Args:
        data: The metadata.
        gating: Taken where the file does not say how scores are made.
    """
    if data.size("expert_gating_func", gating) != SIGMOID:
        raise data.refused("expert_gating_func", f"{SIGMOID}, a sigmoid")
    first = data.size("leading_dense_block_count", 0)
    shared = data.size("expert_shared_count", 0)
    width = data.size("expert_feed_forward_length")
    mixture = experts(
        data,
        shared_width=shared * width,
        score="sigmoid",
        selection_bias=True,
        # Older converters write no groups, and llama.cpp then has none.
        groups=data.size("expert_group_count", 1),
        chosen_groups=data.size("expert_group_used_count", 1),
        normalised=data.flag("expert_weights_norm", False),
        # 0 stands for no scale.
        scale=data.number("expert_weights_scale", 1.0) or 1.0,
    )
    has_experts = tuple(layer >= first for layer in range(data.layers))
    return {"expert_layers": has_experts, "experts": mixture}


def windows(data: Metadata, period: int, window: int | None = None) -> dict[str, Any]:
    """Windows in all layers but each `period`-th, unless the file says which layers have one.

    Args:
        data: The metadata.
        period: Taken where the file states no pattern. Of 3, layers 0, 1, 3, 4 have a window.
        window: Taken where the file states none; None: it must. 0 is no window at all.
    """
    size = data.size("attention.sliding_window", window)
    if size == 0:
        return {}
    key = "attention.sliding_window_pattern"
    stated = data.value(key)
    if isinstance(stated, list):
        if len(stated) < data.layers or not set(stated) <= {0, 1}:
            raise data.refused(key, f"a yes or no for each of {data.layers} layers")
        has_window = [bool(each) for each in stated[: data.layers]]
    else:
        every = data.width(key, period)
        has_window = [(layer + 1) % every != 0 for layer in range(data.layers)]
    kinds = tuple(WINDOW if windowed else FULL for windowed in has_window)
    return {"sliding_window": size, "layer_types": kinds}


def one_base(data: Metadata) -> None:
    """Raises ModelError where layers with a window have a RoPE of their own."""
    base = data.number("rope.freq_base", 10_000.0)
    if data.number("rope.freq_base_swa", base) != base:
        raise data.refused("rope.freq_base_swa", f"rope.freq_base, {base}")


def gemma_scale(data: Metadata, layers: int) -> float:
    """Of scores, by the width of a head; but of the 27B model, told by its layers, of a share.

    Gemma 2 27B has 46 layers, 32 heads of 128 and a width of 4608: `(4608 / 32) ** -0.5`.
    """
    share = data.width("embedding_length") // data.width("attention.head_count")
    width = data.width("attention.key_length", share)
    return (share if data.layers == layers else width) ** -0.5


# --- architectures ---


def _llama(data: Metadata, scaling: Scaling) -> dict[str, Any]:
    """Llama, or Mixtral, which goes under its name."""
    if data.size("expert_count", 0) == 0:
        return {}
    return {"model_type": "mixtral", "experts": experts(data)}


def _gemma2(data: Metadata, scaling: Scaling) -> dict[str, Any]:
    one_base(data)
    return {
        "attention_scale": gemma_scale(data, layers=46),
        "attention_soft_cap": data.number("attn_logit_softcapping", 50.0) or None,
        "logit_soft_cap": data.number("final_logit_softcapping", 30.0) or None,
        **windows(data, 2, window=4096),
    }


def _gemma3(data: Metadata, scaling: Scaling) -> dict[str, Any]:
    return {
        "attention_scale": gemma_scale(data, layers=62),
        # Not scaled there, whatever scales it elsewhere.
        "rope_local_theta": data.number("rope.freq_base_swa", 10_000.0),
        **windows(data, 6),
    }


def _phi3(data: Metadata, scaling: Scaling) -> dict[str, Any]:
    """llama.cpp passes over the window; the model has it, in every layer."""
    window = data.size("attention.sliding_window", 0)
    if window == 0:
        return {}
    return {"sliding_window": window, "layer_types": (WINDOW,) * data.layers}


def _smollm3(data: Metadata, scaling: Scaling) -> dict[str, Any]:
    return {"rope_layers": three_of_four(data)}


def three_of_four(data: Metadata) -> tuple[bool, ...]:
    """Layers 0, 1, 2, 4, … have RoPE; there is no key for it."""
    return tuple((layer + 1) % 4 != 0 for layer in range(data.layers))


def _gpt_oss(data: Metadata, scaling: Scaling) -> dict[str, Any]:
    one_base(data)
    if scaling is not None and scaling["rope_type"] == "yarn":
        # Its configs say so, no key does, and llama.cpp rounds the ramp's ends all the same.
        scaling = scaling | {"truncate": False}
    return {
        "rope_scaling": scaling,
        "attention_bias": True,
        "attention_output_bias": True,
        "experts": experts(data, is_biased=True),
        **windows(data, 2),
    }


def _glm4_moe(data: Metadata, scaling: Scaling) -> dict[str, Any]:
    return {
        "attention_bias": data.holds("attn_q.bias"),
        "query_key_norm": "head" if data.holds("attn_q_norm.weight") else None,
        **sigmoid_experts(data, gating=SIGMOID),
    }


def _deepseek2(data: Metadata, scaling: Scaling) -> dict[str, Any]:
    """DeepSeek-V3 and Kimi-K2; of DeepSeek-V2 scores are a softmax.

    Where values and keys are made of the latent on the fly, `key_length` is what a token leaves in
    the cache and `key_length_mla` a head's key; older files have a head's key in the first.
    """
    turned = data.size("rope.dimension_count")
    key = data.width("attention.key_length_mla", data.size("attention.key_length"))
    value = data.size("attention.value_length_mla", data.size("attention.value_length"))
    latent = Latent(
        query_rank=data.size("attention.q_lora_rank", 0) or None,
        rank=data.size("attention.kv_lora_rank"),
        plain=key - turned,
        turned=turned,
        value_dim=value,
    )
    scale = key**-0.5
    if scaling is not None and scaling["rope_type"] == "yarn":
        attention = data.number("rope.scaling.attn_factor", 1.0)
        if attention != 1:
            raise data.refused("rope.scaling.attn_factor", "1")
        # The key holds a tenth of `mscale_all_dim`, which scales scores, and cosines not at all.
        multiplier = 10 * data.number("rope.scaling.yarn_log_multiplier", 0.0)
        scale *= yarn_scale(scaling["factor"], decimal(multiplier)) ** 2
        scaling = scaling | {"attention_factor": 1.0}
    return {
        "rope_scaling": scaling,
        "attention_scale": scale,
        "latent": latent,
        "head_dim": turned,
        # Files of the first kind count one, since all heads share the latent.
        "num_key_value_heads": data.size("attention.head_count"),
        **sigmoid_experts(data),
    }


def _llama4(data: Metadata, scaling: Scaling) -> dict[str, Any]:
    """No key states the chunks, the queries' temperature, nor which model has norms."""
    rope_layers = three_of_four(data)
    step = data.width("interleave_moe_layer_step")
    width = data.size("expert_feed_forward_length")
    mixture = experts(
        data,
        shared_width=width,
        score="sigmoid",
        normalised=False,
        on_input=True,
    )
    return {
        "layer_types": tuple(
            "chunked_attention" if turns else FULL for turns in rope_layers
        ),
        "attention_chunk_size": 8192,
        "rope_layers": rope_layers,
        # Maverick, of 128 experts, has none.
        "query_key_norm": None if mixture.count == 128 else "unit",
        "temperature": Temperature(floor=8192, slope=0.1),
        "expert_layers": tuple((layer + 1) % step == 0 for layer in range(data.layers)),
        "experts": mixture,
    }


def _minimax_m2(data: Metadata, scaling: Scaling) -> dict[str, Any]:
    if data.size("expert_gating_func", NO_GATING) != SIGMOID:
        raise data.refused("expert_gating_func", f"{SIGMOID}, a sigmoid")
    return {"experts": experts(data, score="sigmoid", selection_bias=True)}


SOFTMAX_GATING = {"expert_gating_func": (NO_GATING, SOFTMAX)}
FORMS = {
    "llama": GgufForm(used=OF_EXPERTS, neutral=SOFTMAX_GATING, sizes=_llama),
    "qwen2": GgufForm(),
    "qwen3": GgufForm(),
    "qwen3moe": GgufForm(
        used=OF_EXPERTS,
        # Chosen weights add up to 1 whatever the key says.
        neutral=SOFTMAX_GATING | {"expert_weights_norm": (True,)},
        sizes=lambda data, scaling: {"experts": experts(data)},
    ),
    "gemma2": GgufForm(
        used=OF_WINDOWS
        | {"attn_logit_softcapping", "final_logit_softcapping", "rope.freq_base_swa"},
        sizes=_gemma2,
    ),
    "gemma3": GgufForm(used=OF_WINDOWS | {"rope.freq_base_swa"}, sizes=_gemma3),
    "phi3": GgufForm(
        used=frozenset({"attention.sliding_window"}), rotates_part=True, sizes=_phi3
    ),
    "smollm3": GgufForm(sizes=_smollm3),
    "gpt-oss": GgufForm(
        used=OF_EXPERTS | OF_WINDOWS | {"rope.freq_base_swa"},
        neutral={"expert_gating_func": (NO_GATING, SOFTMAX_OF_CHOSEN)},
        sizes=_gpt_oss,
    ),
    "glm4moe": GgufForm(used=OF_SIGMOID_EXPERTS, rotates_part=True, sizes=_glm4_moe),
    "deepseek2": GgufForm(
        used=OF_SIGMOID_EXPERTS
        | {
            "attention.key_length_mla",
            "attention.kv_lora_rank",
            "attention.q_lora_rank",
            "attention.value_length_mla",
            "rope.scaling.yarn_log_multiplier",
        },
        sizes=_deepseek2,
    ),
    "llama4": GgufForm(
        used=OF_EXPERTS | {"interleave_moe_layer_step"},
        neutral={
            # Of another window llama.cpp makes 8192, and of 0 another model.
            "attention.sliding_window": (8192,),
            "expert_gating_func": (NO_GATING, SIGMOID),
        },
        sizes=_llama4,
    ),
    "minimax-m2": GgufForm(
        used=OF_EXPERTS | {"expert_gating_func"}, rotates_part=True, sizes=_minimax_m2
    ),
}
"""By `general.architecture`."""

__all__ = ["FORMS", "GgufForm", "Metadata", "decimal"]
