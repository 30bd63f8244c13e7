"""The weights of decoders: their names here and in files, and their shapes.

A layer's weights follow from its form (`tensors_of`). Names in files are those of most families;
a family whose files have others says so (`Family.stored`).
"""

import dataclasses
from typing import Literal, TypeAlias

from models.layer_form import AttentionForm, Experts, LayerForm

Dimension: TypeAlias = Literal[
    "hidden_size",
    "intermediate_size",
    "query_width",
    "key_value_width",
    "head_dim",
    "vocab_size",
    "num_attention_heads",
    "query_rank",
    "latent_rank",
    "latent_width",
    "latent_query_width",
    "latent_pair_width",
    "latent_output_width",
    "experts",
    "expert_width",
    "shared_width",
]
"""The length of one axis of a tensor: an attribute of `ModelConfig`."""

FileFormat: TypeAlias = Literal["hugging_face", "gguf"]

LAYER_PREFIX: dict[FileFormat, str] = {
    "hugging_face": "model.layers.{layer}.",
    "gguf": "blk.{layer}.",
}


@dataclasses.dataclass(frozen=True)
class Tensor:
    """One weight: its name here and in files, and its shape.

    Attributes:
        name: Our name, the key in the pytree of weights.
        hugging_face: Its name in safetensors; a layer's stands behind `model.layers.N.`. Where it
            has `{expert}`, each expert has a tensor of its own.
        gguf: Its name in GGUF; a layer's stands behind `blk.N.`.
        shape: Our axes. A linear layer computes `y = x @ W`, so its `W` is `[inputs, outputs]`.
        transposed: Whether files hold the last two axes in reverse, as both formats do for linear
            layers (`[outputs, inputs]`). The embedding is a table and is held as it is used.
        rotated: Whether its outputs are heads that RoPE turns, whose files may hold them in another
            order, see `Family.interleaves_rope`.
        is_norm: Whether it scales what a norm has brought to unit size, so that it is about 1.
        is_added: Whether it is added to something, as a bias is, so that it is about 0.
    """

    name: str
    hugging_face: str
    gguf: str
    shape: tuple[Dimension, ...]
    transposed: bool = True
    rotated: bool = False
    is_norm: bool = False
    is_added: bool = False

    def name_in(self, file_format: FileFormat) -> str:
        """What files of this format call it, without a layer's prefix."""
        return self.gguf if file_format == "gguf" else self.hugging_face


def norm(name: str, hugging_face: str, gguf: str, width: Dimension) -> Tensor:
    """The weights of an RMSNorm."""
    stored = f"{hugging_face}.weight", f"{gguf}.weight"
    return Tensor(name, *stored, (width,), is_norm=True)


def linear(
    name: str, hugging_face: str, gguf: str, *shape: Dimension, rotated: bool = False
) -> Tensor:
    """The weights of linear layers, inputs and outputs last."""
    stored = f"{hugging_face}.weight", f"{gguf}.weight"
    return Tensor(name, *stored, shape, rotated=rotated)


def bias(
    name: str, hugging_face: str, gguf: str, *shape: Dimension, rotated: bool = False
) -> Tensor:
    """The biases of linear layers."""
    stored = f"{hugging_face}.bias", f"{gguf}.bias"
    return Tensor(
        name, *stored, shape, transposed=False, rotated=rotated, is_added=True
    )


EMBEDDING = Tensor(
    "embed",
    "model.embed_tokens.weight",
    "token_embd.weight",
    ("vocab_size", "hidden_size"),
    transposed=False,
)
FINAL_NORM = norm("norm", "model.norm", "output_norm", "hidden_size")
# Left out where the embedding is also the output head.
OUTPUT_HEAD = linear("head", "lm_head", "output", "hidden_size", "vocab_size")

ATTENTION_NORM = norm("attn_norm", "input_layernorm", "attn_norm", "hidden_size")
OUTPUT_PROJECTION = linear(
    "wo", "self_attn.o_proj", "attn_output", "query_width", "hidden_size"
)
ATTENTION = (
    ATTENTION_NORM,
    linear(
        "wq", "self_attn.q_proj", "attn_q", "hidden_size", "query_width", rotated=True
    ),
    linear(
        "wk",
        "self_attn.k_proj",
        "attn_k",
        "hidden_size",
        "key_value_width",
        rotated=True,
    ),
    linear("wv", "self_attn.v_proj", "attn_v", "hidden_size", "key_value_width"),
    OUTPUT_PROJECTION,
)
QUERY_KEY_VALUE_BIASES = (
    bias("bq", "self_attn.q_proj", "attn_q", "query_width", rotated=True),
    bias("bk", "self_attn.k_proj", "attn_k", "key_value_width", rotated=True),
    bias("bv", "self_attn.v_proj", "attn_v", "key_value_width"),
)
OUTPUT_BIAS = bias("bo", "self_attn.o_proj", "attn_output", "hidden_size")
# q and k of every head are RMS-normalised before RoPE, all heads by the same weights.
QUERY_KEY_NORMS = (
    norm("q_norm", "self_attn.q_norm", "attn_q_norm", "head_dim"),
    norm("k_norm", "self_attn.k_norm", "attn_k_norm", "head_dim"),
)
# All heads together, each feature by a weight of its own.
WIDE_QUERY_KEY_NORMS = (
    norm("q_norm", "self_attn.q_norm", "attn_q_norm", "query_width"),
    norm("k_norm", "self_attn.k_norm", "attn_k_norm", "key_value_width"),
)
SINKS = Tensor(
    "sinks",
    "self_attn.sinks",
    "attn_sinks.weight",
    ("num_attention_heads",),
    transposed=False,
    is_added=True,
)
# Of a latent: what a token leaves in the cache, and what heads make of it.
LATENT_CACHED = linear(
    "wkv_down",
    "self_attn.kv_a_proj_with_mqa",
    "attn_kv_a_mqa",
    "hidden_size",
    "latent_width",
)
LATENT_NORM = norm(
    "latent_norm", "self_attn.kv_a_layernorm", "attn_kv_a_norm", "latent_rank"
)
LATENT_PAIR = linear(
    "wkv_up", "self_attn.kv_b_proj", "attn_kv_b", "latent_rank", "latent_pair_width"
)
LATENT_OUTPUT = linear(
    "wo", "self_attn.o_proj", "attn_output", "latent_output_width", "hidden_size"
)
LATENT_QUERY = linear(
    "wq", "self_attn.q_proj", "attn_q", "hidden_size", "latent_query_width"
)
LATENT_QUERIES = (
    linear("wq_down", "self_attn.q_a_proj", "attn_q_a", "hidden_size", "query_rank"),
    norm("query_norm", "self_attn.q_a_layernorm", "attn_q_a_norm", "query_rank"),
    linear(
        "wq_up", "self_attn.q_b_proj", "attn_q_b", "query_rank", "latent_query_width"
    ),
)

MLP_NORM = norm("mlp_norm", "post_attention_layernorm", "ffn_norm", "hidden_size")
GATED_MLP = (
    MLP_NORM,
    linear("w_gate", "mlp.gate_proj", "ffn_gate", "hidden_size", "intermediate_size"),
    linear("w_up", "mlp.up_proj", "ffn_up", "hidden_size", "intermediate_size"),
    linear("w_down", "mlp.down_proj", "ffn_down", "intermediate_size", "hidden_size"),
)
OUTPUT_NORMS = (
    norm(
        "attn_output_norm",
        "post_attention_layernorm",
        "post_attention_norm",
        "hidden_size",
    ),
    norm(
        "mlp_output_norm", "post_feedforward_layernorm", "post_ffw_norm", "hidden_size"
    ),
)
ROUTER = linear("router", "mlp.gate", "ffn_gate_inp", "hidden_size", "experts")
ROUTER_BIAS = bias("router_bias", "mlp.gate", "ffn_gate_inp", "experts")
SELECTION_BIAS = Tensor(
    "selection_bias",
    "mlp.gate.e_score_correction_bias",
    "exp_probs_b.bias",
    ("experts",),
    transposed=False,
    is_added=True,
)
EXPERTS = (
    linear(
        "expert_gate",
        "mlp.experts.{expert}.gate_proj",
        "ffn_gate_exps",
        "experts",
        "hidden_size",
        "expert_width",
    ),
    linear(
        "expert_up",
        "mlp.experts.{expert}.up_proj",
        "ffn_up_exps",
        "experts",
        "hidden_size",
        "expert_width",
    ),
    linear(
        "expert_down",
        "mlp.experts.{expert}.down_proj",
        "ffn_down_exps",
        "experts",
        "expert_width",
        "hidden_size",
    ),
)
EXPERT_BIASES = (
    bias(
        "expert_gate_bias",
        "mlp.experts.{expert}.gate_proj",
        "ffn_gate_exps",
        "experts",
        "expert_width",
    ),
    bias(
        "expert_up_bias",
        "mlp.experts.{expert}.up_proj",
        "ffn_up_exps",
        "experts",
        "expert_width",
    ),
    bias(
        "expert_down_bias",
        "mlp.experts.{expert}.down_proj",
        "ffn_down_exps",
        "experts",
        "hidden_size",
    ),
)
SHARED_EXPERT = (
    linear(
        "shared_gate",
        "mlp.shared_experts.gate_proj",
        "ffn_gate_shexp",
        "hidden_size",
        "shared_width",
    ),
    linear(
        "shared_up",
        "mlp.shared_experts.up_proj",
        "ffn_up_shexp",
        "hidden_size",
        "shared_width",
    ),
    linear(
        "shared_down",
        "mlp.shared_experts.down_proj",
        "ffn_down_shexp",
        "shared_width",
        "hidden_size",
    ),
)


def outer_tensors(tied: bool) -> tuple[Tensor, ...]:
    """The weights outside the layers; without the head where the embedding serves as one."""
    outside = (EMBEDDING, FINAL_NORM)
    return outside if tied else (*outside, OUTPUT_HEAD)


def tensors_of(form: LayerForm) -> tuple[Tensor, ...]:
    """The weights of a layer of that form."""
    attention = _of_attention(form.attention)
    if form.has_output_norms:
        attention = (*attention, *OUTPUT_NORMS)
    if form.experts is None:
        return (*attention, *GATED_MLP)
    return (*attention, MLP_NORM, *_of_experts(form.experts))


def _of_attention(form: AttentionForm) -> tuple[Tensor, ...]:
    if form.latent is not None:
        has_rank = form.latent.query_rank is not None
        queries = LATENT_QUERIES if has_rank else (LATENT_QUERY,)
        latent = LATENT_CACHED, LATENT_NORM, LATENT_PAIR
        return (ATTENTION_NORM, *queries, *latent, LATENT_OUTPUT)
    tensors = ATTENTION
    if form.qk_norm == "head":
        tensors = (*tensors, *QUERY_KEY_NORMS)
    if form.qk_norm == "width":
        tensors = (*tensors, *WIDE_QUERY_KEY_NORMS)
    if form.is_biased:
        tensors = (*tensors, *QUERY_KEY_VALUE_BIASES)
    if form.output_is_biased:
        tensors = (*tensors, OUTPUT_BIAS)
    return (*tensors, SINKS) if form.has_sinks else tensors


def _of_experts(experts: Experts) -> tuple[Tensor, ...]:
    tensors = (ROUTER, *EXPERTS)
    if experts.selection_bias:
        tensors = (*tensors, SELECTION_BIAS)
    if experts.is_biased:
        tensors = (*tensors, ROUTER_BIAS, *EXPERT_BIASES)
    return (*tensors, *SHARED_EXPERT) if experts.shared_width else tensors


__all__ = [
    "ATTENTION",
    "EMBEDDING",
    "EXPERTS",
    "FINAL_NORM",
    "GATED_MLP",
    "LAYER_PREFIX",
    "OUTPUT_HEAD",
    "QUERY_KEY_NORMS",
    "SINKS",
    "Dimension",
    "FileFormat",
    "Tensor",
    "outer_tensors",
    "tensors_of",
]
