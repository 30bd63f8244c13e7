"""Sizes of published models: parameters and cache, also of those that nothing here computes.

Of a family in `models.families` they follow from its `ModelConfig`. Of the others, whose attention
selects, compresses or recurs, what their layers hold is counted here from the config alone; each
says where its layers are described.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

from models.config import ModelConfig
from models.families import FAMILIES
from models.families.deepseek import KIMI_K2
from models.loading.hf_config import from_hf

Values: TypeAlias = Mapping[str, Any]
"""A config.json's contents."""


@dataclasses.dataclass(frozen=True)
class Outline:
    """What a model holds.

    Attributes:
        parameters: All of them, each once.
        active: Those that a token meets: of the experts those that are chosen.
        cache_growing: Values that each token of a sequence adds to its cache.
        cache_most: Values that a sequence holds besides, at most: of windows, chunks, states.
        config: Of a family that is computed here; None: sizes alone are known.
    """

    parameters: int
    active: int
    cache_growing: float
    cache_most: int = 0
    config: ModelConfig | None = None


def outline(name: str, values: Values) -> Outline:
    """What a model holds.

    Args:
        name: What errors call it.
        values: Its config.json's contents.

    Raises:
        ModelError: Its family is none that is known.
    """
    kind = values.get("model_type")
    if isinstance(kind, str) and kind in COUNTED:
        return COUNTED[kind](name, values)
    return of_config(from_hf(computed_values(values), name, name))


def computed_values(values: Values) -> dict[str, Any]:
    """A text model's config out of a multimodal model's, whose `architectures` names both."""
    kind = values.get("model_type")
    if not isinstance(kind, str) or kind not in FAMILIES:
        return dict(values)
    return {**values, "architectures": [FAMILIES[kind].architecture]}


def of_config(config: ModelConfig) -> Outline:
    """What a model of a computed family holds."""
    growing = most = 0
    if config.latent is not None:
        each = config.latent.cached_width
    else:
        each = 2 * config.key_value_width
    for form in config.forms:
        reach = form.attention.window or form.attention.chunk
        if reach is None:
            growing += each
        else:
            most += each * reach
    return Outline(config.parameters, config.active_parameters, growing, most, config)


# --- families that are counted only ---


def sparse_latent(name: str, values: Values) -> Outline:
    """DeepSeek-V3.2 and GLM-5: latent attention to the tokens that an indexer chooses.

    DeepSeek-AI, *DeepSeek-V3.2* (2025, arXiv:2512.02556), section 2. Beside what DeepSeek-V3 has, a
    layer's indexer has queries from the latent of queries, one key a token with a LayerNorm, and
    weights of its heads; layers whose entry in `indexer_types` is "shared" use another's.
    """
    stated = {
        key: value
        for key, value in values.items()
        if key not in ("architectures", "rope_parameters", "layer_types", "head_dim")
    }
    stated |= {"model_type": KIMI_K2.model_type, "rope_theta": 10_000.0}
    dense = of_config(from_hf(stated, name, name))
    heads, width = values["index_n_heads"], values["index_head_dim"]
    queries = values["q_lora_rank"] * heads * width
    keys = values["hidden_size"] * width + 2 * width
    of_indexer = queries + keys + values["hidden_size"] * heads
    kinds = values.get("indexer_types") or ["full"] * values["num_hidden_layers"]
    indexers = kinds.count("full")
    more = indexers * of_indexer
    return Outline(
        dense.parameters + more,
        dense.active + more,
        dense.cache_growing + indexers * width,
    )


def compressed(name: str, values: Values) -> Outline:
    """DeepSeek-V4: attention to a window and to compressed tokens, and hyper-connections.

    Hugging Face's transformers, models/deepseek_v4. One key, which is the value too, serves all
    heads; `compress_ratios` says of how many tokens a layer makes one, 0 where it makes none.
    Ratios of 4 overlap, so that their compressor is twice as wide, and have an indexer.
    """
    hidden, head = values["hidden_size"], values["head_dim"]
    heads, layers = values["num_attention_heads"], values["num_hidden_layers"]
    query_rank, groups = values["q_lora_rank"], values["o_groups"]
    grouped = groups * values["o_lora_rank"]
    queries = hidden * query_rank + query_rank + query_rank * heads * head
    keys = hidden * head + head
    outputs = heads * head // groups * grouped + grouped * hidden
    streams = values["hc_mult"]
    mixes = streams * streams + 2 * streams
    connections = 2 * (mixes * streams * hidden + mixes + 3)
    expert = 3 * hidden * values["moe_intermediate_size"]
    router = hidden * values["n_routed_experts"]
    shared = values["n_shared_experts"] * expert
    every = (
        queries + keys + outputs + heads + 2 * hidden + router + shared + connections
    )
    index_heads, index_head = values["index_n_heads"], values["index_head_dim"]
    own = growing = 0
    for ratio in values["compress_ratios"][:layers]:
        if not ratio:
            continue
        overlaps = ratio == 4
        width = head * 2 if overlaps else head
        own += ratio * width + 2 * hidden * width + head
        growing += head / ratio
        if overlaps:
            index_width = 2 * index_head
            own += ratio * index_width + 2 * hidden * index_width + index_head
            own += query_rank * index_heads * index_head + hidden * index_heads
            growing += index_head / ratio
    head_of_streams = streams * streams * hidden + streams + 1
    tables = 2 * values["vocab_size"] * hidden + hidden + head_of_streams
    fixed = layers * every + own + tables
    return Outline(
        fixed + layers * values["n_routed_experts"] * expert,
        fixed + layers * values["num_experts_per_tok"] * expert,
        growing,
        layers * head * values["sliding_window"],
    )


def recurrent_latent(name: str, values: Values) -> Outline:
    """Kimi-K3: layers of a gated linear recurrence (KDA), and some of latent attention.

    Kimi Team, *Kimi Linear* (2025, arXiv:2510.26692), section 3, and the config's own fields: gates
    of full rank, experts in a narrower space with a projection into and out of it. Norms, biases
    and the recurrence's decay, under a thousandth of it all, are left out.
    """
    hidden, heads = values["hidden_size"], values["num_attention_heads"]
    linear = values["linear_attn_config"]
    width = linear["num_heads"] * linear["head_dim"]
    # Queries, keys, values, gate and output; a short convolution over the first three.
    of_recurrence = 5 * hidden * width
    of_recurrence += 3 * width * linear["short_conv_kernel_size"]
    query = values["qk_nope_head_dim"] + values["qk_rope_head_dim"]
    pair = values["qk_nope_head_dim"] + values["v_head_dim"]
    cached = values["kv_lora_rank"] + values["qk_rope_head_dim"]
    of_latent = values["q_lora_rank"] * (hidden + heads * query) + hidden * cached
    of_latent += values["kv_lora_rank"] * heads * pair
    # The output projection and the output's gate.
    of_latent += 2 * heads * values["v_head_dim"] * hidden
    layers, dense = values["num_hidden_layers"], values["first_k_dense_replace"]
    narrow = values["routed_expert_hidden_size"]
    expert = 3 * narrow * values["moe_intermediate_size"]
    shared = 3 * hidden * values["moe_intermediate_size"] * values["num_shared_experts"]
    every = 2 * hidden * narrow + hidden * values["num_experts"] + shared
    fixed = len(linear["kda_layers"]) * of_recurrence
    fixed += len(linear["full_attn_layers"]) * of_latent
    fixed += (layers - dense) * every + dense * 3 * hidden * values["intermediate_size"]
    fixed += 2 * values["vocab_size"] * hidden
    state = linear["num_heads"] * linear["head_dim"] ** 2
    return Outline(
        fixed + (layers - dense) * values["num_experts"] * expert,
        fixed + (layers - dense) * values["num_experts_per_token"] * expert,
        len(linear["full_attn_layers"]) * cached,
        len(linear["kda_layers"]) * state,
    )


def gemma4(name: str, values: Values) -> Outline:
    """Gemma 4 with experts: an MLP and a mixture side by side; global layers' keys are values too.

    Hugging Face's transformers, models/gemma4.
    """
    hidden, heads = values["hidden_size"], values["num_attention_heads"]
    kinds, layers = values["layer_types"], values["num_hidden_layers"]
    whole = kinds.count("full_attention")
    width, wide = values["head_dim"], values["global_head_dim"]
    kv, few = values["num_key_value_heads"], values["num_global_key_value_heads"]
    local = hidden * width * (2 * heads + 2 * kv) + 2 * width
    far = hidden * wide * (2 * heads + few) + 2 * wide
    dense = 3 * hidden * values["intermediate_size"]
    expert = 3 * hidden * values["moe_intermediate_size"]
    experts = values["num_experts"]
    # Seven norms; of the router a scale of its input, and of each expert.
    every = dense + 8 * hidden + hidden * experts + experts
    fixed = (layers - whole) * local + whole * far + layers * every
    fixed += values["vocab_size"] * hidden + hidden
    return Outline(
        fixed + layers * experts * expert,
        fixed + layers * values["top_k_experts"] * expert,
        whole * few * wide,
        (layers - whole) * 2 * kv * width * values["sliding_window"],
    )


COUNTED: dict[str, Callable[[str, Values], Outline]] = {
    "deepseek_v32": sparse_latent,
    "glm_moe_dsa": sparse_latent,
    "deepseek_v4": compressed,
    "kimi_linear": recurrent_latent,
    "gemma4_text": gemma4,
}


__all__ = ["COUNTED", "Outline", "computed_values", "of_config", "outline"]
