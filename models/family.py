"""What sets one family of models apart from another: every such fact stands here, and only here.

A `Family` says which tensors a model has and what files call them, which values of a config it can
have, and which of the few forms its arithmetic takes. The oracle, the loaders, prefill and decode
ask it; none of them compares a family's name. So a family that computes nothing new is one more
entry of `FAMILIES`, and one that does needs its arithmetic besides, in the oracle and in the
kernels of both machines.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any, Literal, TypeAlias

from models.errors import ModelError, shown

Dimension: TypeAlias = Literal[
    "hidden_size",
    "intermediate_size",
    "query_width",
    "key_value_width",
    "head_dim",
    "vocab_size",
]
"""The length of one axis of a tensor: an attribute of `ModelConfig`."""

FileFormat: TypeAlias = Literal["hugging_face", "gguf"]
Activation: TypeAlias = Literal["silu"]

LAYER_PREFIX: dict[FileFormat, str] = {
    "hugging_face": "model.layers.{layer}.",
    "gguf": "blk.{layer}.",
}


@dataclasses.dataclass(frozen=True)
class Tensor:
    """One weight: its name here and in files, and its shape.

    Attributes:
        name: Our name, the key in the pytree of weights.
        hugging_face: Its name in safetensors; a layer's stands behind `model.layers.N.`.
        gguf: Its name in GGUF; a layer's stands behind `blk.N.`.
        shape: Our axes. A linear layer computes `y = x @ W`, so its `W` is `[inputs, outputs]`.
        transposed: Whether files hold the axes in reverse, as both formats do for linear layers
            (`[outputs, inputs]`). The embedding is a table and is held as it is used.
        rotated: Whether its outputs are heads that RoPE turns. GGUF files of some families hold
            those in another order, see `Family.gguf_interleaves_rope`.
    """

    name: str
    hugging_face: str
    gguf: str
    shape: tuple[Dimension, ...]
    transposed: bool = True
    rotated: bool = False

    def name_in(self, file_format: FileFormat) -> str:
        """What files of this format call it, without a layer's prefix."""
        return self.gguf if file_format == "gguf" else self.hugging_face


EMBEDDING = Tensor(
    "embed",
    "model.embed_tokens.weight",
    "token_embd.weight",
    ("vocab_size", "hidden_size"),
    transposed=False,
)
FINAL_NORM = Tensor(
    "norm",
    "model.norm.weight",
    "output_norm.weight",
    ("hidden_size",),
)
# Left out where the embedding is also the output head.
OUTPUT_HEAD = Tensor(
    "head",
    "lm_head.weight",
    "output.weight",
    ("hidden_size", "vocab_size"),
)

ATTENTION = (
    Tensor(
        "attn_norm",
        "input_layernorm.weight",
        "attn_norm.weight",
        ("hidden_size",),
    ),
    Tensor(
        "wq",
        "self_attn.q_proj.weight",
        "attn_q.weight",
        ("hidden_size", "query_width"),
        rotated=True,
    ),
    Tensor(
        "wk",
        "self_attn.k_proj.weight",
        "attn_k.weight",
        ("hidden_size", "key_value_width"),
        rotated=True,
    ),
    Tensor(
        "wv",
        "self_attn.v_proj.weight",
        "attn_v.weight",
        ("hidden_size", "key_value_width"),
    ),
    Tensor(
        "wo",
        "self_attn.o_proj.weight",
        "attn_output.weight",
        ("query_width", "hidden_size"),
    ),
)
# q and k of every head are RMS-normalised before RoPE, all heads by the same weights.
QUERY_KEY_NORMS = (
    Tensor("q_norm", "self_attn.q_norm.weight", "attn_q_norm.weight", ("head_dim",)),
    Tensor("k_norm", "self_attn.k_norm.weight", "attn_k_norm.weight", ("head_dim",)),
)
GATED_MLP = (
    Tensor(
        "mlp_norm",
        "post_attention_layernorm.weight",
        "ffn_norm.weight",
        ("hidden_size",),
    ),
    Tensor(
        "w_gate",
        "mlp.gate_proj.weight",
        "ffn_gate.weight",
        ("hidden_size", "intermediate_size"),
    ),
    Tensor(
        "w_up",
        "mlp.up_proj.weight",
        "ffn_up.weight",
        ("hidden_size", "intermediate_size"),
    ),
    Tensor(
        "w_down",
        "mlp.down_proj.weight",
        "ffn_down.weight",
        ("intermediate_size", "hidden_size"),
    ),
)

# None stands for a field that the file leaves out, and for a JSON null.
NO_BIAS_NO_WINDOW: dict[str, tuple[Any, ...]] = {
    "attention_bias": (False, None),
    "mlp_bias": (False, None),
    "use_sliding_window": (False, None),
    "partial_rotary_factor": (1, None),
    "quantization_config": (None,),
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


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class Family:
    """The facts of one family of decoders.

    Attributes:
        model_type: What Hugging Face's `config.json` calls it.
        architecture: The one class of Hugging Face's that computes it.
        gguf_architecture: `general.architecture` of its GGUF files; None where they pass for
            another family's.
        source: Where these facts can be read.
        layer_tensors: The weights of one layer; every layer has the same ones.
        outer_tensors: The weights before the first layer and after the last.
        activation: Of the gated MLP, under Hugging Face's name; `hidden_act` must say it.
        gguf_interleaves_rope: Whether GGUF holds the two rows of a RoPE pair side by side:
            rows `0, 4, 1, 5, 2, 6, 3, 7` of a head of 8, whose pairs are `(0, 4)`, `(1, 5)`, ….
            Otherwise rows stand as in Hugging Face's files.
        layer_kinds: What an entry of `layer_types` may say.
        accepted_values: Config fields that change the result, with the values we compute; a file
            with another value is refused by name.
        assumed_values: What transformers takes for a field that the file leaves out.
        states_head_dim: Whether a config must state `head_dim`. Otherwise it may leave it out for
            `hidden_size / num_attention_heads`.
    """

    model_type: str
    architecture: str
    gguf_architecture: str | None
    source: str
    layer_tensors: tuple[Tensor, ...]
    outer_tensors: tuple[Tensor, ...] = (EMBEDDING, FINAL_NORM, OUTPUT_HEAD)
    activation: Activation = "silu"
    gguf_interleaves_rope: bool = False
    layer_kinds: frozenset[str] = frozenset({"full_attention"})
    accepted_values: Mapping[str, tuple[Any, ...]]
    assumed_values: Mapping[str, Any]
    states_head_dim: bool = False

    @property
    def qk_norm(self) -> bool:
        """Whether q and k are RMS-normalised per head before RoPE."""
        return QUERY_KEY_NORMS[0] in self.layer_tensors

    def outer(self, tied: bool) -> tuple[Tensor, ...]:
        """The weights outside the layers; without the head where the embedding serves as one."""
        return tuple(t for t in self.outer_tensors if not (tied and t is OUTPUT_HEAD))

    def names_in(
        self, file_format: FileFormat, layers: int, tied: bool
    ) -> dict[str, str]:
        """Our name -> the file's, for every tensor of a model; `layers.N.wq` is layer N's."""
        names = {t.name: t.name_in(file_format) for t in self.outer(tied)}
        for layer in range(layers):
            prefix = LAYER_PREFIX[file_format].format(layer=layer)
            for tensor in self.layer_tensors:
                name = f"layers.{layer}.{tensor.name}"
                names[name] = prefix + tensor.name_in(file_format)
        return names


TRANSFORMERS = (
    "https://github.com/huggingface/transformers/tree/main/src/transformers/models"
)
LLAMA_CPP = "https://github.com/ggml-org/llama.cpp/blob/master/convert_hf_to_gguf.py"
ASSUMED = {"tie_word_embeddings": False}

LLAMA = Family(
    model_type="llama",
    architecture="LlamaForCausalLM",
    gguf_architecture="llama",
    source=f"{TRANSFORMERS}/llama; {LLAMA_CPP}, LlamaModel.permute",
    layer_tensors=(*ATTENTION, *GATED_MLP),
    gguf_interleaves_rope=True,
    accepted_values=NO_BIAS_NO_WINDOW | {"sliding_window": (None,)},
    assumed_values=ASSUMED,
)
QWEN3 = Family(
    model_type="qwen3",
    architecture="Qwen3ForCausalLM",
    gguf_architecture="qwen3",
    source=f"{TRANSFORMERS}/qwen3; {LLAMA_CPP}, Qwen3Model",
    layer_tensors=(*ATTENTION, *QUERY_KEY_NORMS, *GATED_MLP),
    # A window's width may stand in the file where `use_sliding_window` is off.
    accepted_values=NO_BIAS_NO_WINDOW,
    assumed_values=ASSUMED,
    states_head_dim=True,
)
# What Llama computes, under names of its own. Its windowed models (Mistral 7B v0.1) are refused.
MISTRAL = Family(
    model_type="mistral",
    architecture="MistralForCausalLM",
    gguf_architecture=None,
    source=f"{TRANSFORMERS}/mistral; {LLAMA_CPP}, LlamaModel registers MistralForCausalLM",
    layer_tensors=(*ATTENTION, *GATED_MLP),
    accepted_values=NO_BIAS_NO_WINDOW | {"sliding_window": (None,)},
    assumed_values=ASSUMED | {"sliding_window": 4096, "num_key_value_heads": 8},
)
FAMILIES = {family.model_type: family for family in (LLAMA, QWEN3, MISTRAL)}


def by_model_type(model_type: Any, where: str) -> Family:
    """The family that Hugging Face's configs call `model_type`.

    Args:
        model_type: From a file, so of any type.
        where: What the error calls the model.

    Raises:
        ModelError: There is none; the message lists those there are.
    """
    if not isinstance(model_type, str) or model_type not in FAMILIES:
        raise ModelError(
            f"{where}: model_type {shown(model_type)} is not supported; "
            f"supported are {sorted(FAMILIES)}"
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
            f"{where}: architecture {shown(architecture)} is not supported; "
            f"supported are {sorted(known)}"
        )
    return known[architecture]
