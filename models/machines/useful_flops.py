"""FLOPs that a prefill asks for, from a model's sizes alone: the closed form beside the clock."""

from models.config import ModelConfig
from models.layer_form import LayerForm


def useful_flops(config: ModelConfig, tokens: int, pairs: int | None = None) -> int:
    """Matrix products of a prefill: every layer for every token, one token's logits.

    Of a mixture of experts those count that a token chooses, with the router.

    Causal attention has `n (n + 1) / 2` scores a head, each of as many multiply-adds as a key has
    features, and as a value has. A multiply-add counts 2. Keys and values that are made of latents
    are made once of each token, wherever they are attended to.

    Args:
      config: sizes.
      tokens: of the prompt.
      pairs: of a query and a key that are attended, over all heads and layers; None: the causal
        ones.
    """
    hidden, heads = config.hidden_size, config.num_attention_heads
    qkv = _attention_weights(config)
    output = heads * config.value_dim * hidden
    layers = config.num_hidden_layers
    mlp = sum(_mlp_weights(form, config) for form in config.forms)
    linear = 2 * (layers * (qkv + output) + mlp) * tokens
    if pairs is None:
        pairs = layers * heads * tokens * (tokens + 1) // 2
    attention = 2 * pairs * (config.key_dim + config.value_dim)
    logits = 2 * hidden * config.vocab_size
    # Llama 3.1 8B, 4,096 tokens: 61.6 TFLOPs, 4.4 of them of attention.
    return linear + attention + logits


def _attention_weights(config: ModelConfig) -> int:
    """Weights that a token is multiplied by for its queries, keys and values."""
    hidden, latent = config.hidden_size, config.latent
    if latent is None:
        return hidden * (config.query_width + 2 * config.key_value_width)
    queries, rank = config.latent_query_width, latent.query_rank
    of_queries = hidden * queries if rank is None else rank * (hidden + queries)
    of_latents = hidden * latent.cached_width + latent.rank * config.latent_pair_width
    return of_queries + of_latents


def _mlp_weights(form: LayerForm, config: ModelConfig) -> int:
    """Weights that a token is multiplied by in a layer's second half."""
    hidden, experts = config.hidden_size, form.experts
    if experts is None:
        return 3 * hidden * config.intermediate_size
    width = experts.chosen * experts.width + experts.shared_width
    return hidden * (3 * width + experts.count)


__all__ = ["useful_flops"]
