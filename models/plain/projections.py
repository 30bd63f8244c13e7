"""Queries, keys and values of a layer's tokens: projected, normalised, turned."""

from typing import TypeAlias

import jax
import jax.numpy as jnp

from kernels.formats.formats import Format
from models.config import ModelConfig
from models.layer_form import AttentionForm
from models.plain.attention import Positions, contract
from models.plain.held import taken_as
from models.plain.mlp import LayerWeights

Projected: TypeAlias = tuple[jax.Array, jax.Array, jax.Array]
"""Queries `[batch, seq, heads, key_dim]`, keys alike of the KV heads, values of `value_dim`."""


def rms_norm(x: jax.Array, weight: jax.Array | None, eps: float) -> jax.Array:
    """Scales the last axis to unit root mean square, then by `weight` `[x.shape[-1]]` if any."""
    mean_square = jnp.mean(jnp.square(x), axis=-1, keepdims=True)
    normalised = x * jax.lax.rsqrt(mean_square + eps)
    if weight is None:
        return normalised
    return normalised * jnp.expand_dims(weight, range(x.ndim - 1))


def rotate(x: jax.Array, cos: jax.Array, sin: jax.Array) -> jax.Array:
    """RoPE: turns pairs of `x` `[batch, seq, heads, features]` by `[seq, pairs]`.

    Of the first `2 · pairs` features, pair `i` is elements `i` and `i + pairs`, as in Hugging
    Face's files; the others stay as they are.
    """
    pairs = cos.shape[-1]
    cos = cos[None, :, None, :]
    sin = sin[None, :, None, :]
    first, second, rest = jnp.split(x, [pairs, 2 * pairs], axis=-1)
    turned_first = first * cos - second * sin
    turned_second = second * cos + first * sin
    return jnp.concatenate([turned_first, turned_second, rest], axis=-1)


def project(
    config: ModelConfig,
    form: AttentionForm,
    weights: LayerWeights,
    normed: jax.Array,
    positions: Positions,
    held: Format | None = None,
    cached: Format | None = None,
) -> Projected:
    """Queries, keys and values of `normed` `[batch, seq, d]`, itself as products take it.

    Args:
        config: Sizes.
        form: Of the layer's attention.
        weights: Of the layer.
        normed: What the residual stream's norm gives.
        positions: Of the tokens.
        held: What products have latents in; None: float32.
        cached: What keys and values, or a latent and its turned key, are held in as they join the
            cache, by token and head; None: float32.
    """
    if form.latent is None:
        q, k, v = _grouped(config, form, weights, normed, positions)
        k, v = taken_as(cached, k), taken_as(cached, v)
    else:
        q, k, v = _latent(config, form, weights, normed, positions, held, cached)
    if form.temperature is not None:
        tuned = form.temperature
        steps = jnp.floor((positions.q.astype(jnp.float32) + 1) / tuned.floor)
        scale = jnp.log1p(steps) * tuned.slope + 1
        q = q * scale[None, :, None, None]
    return q, k, v


def _linear(
    weights: LayerWeights, x: jax.Array, name: str, bias: str | None = None
) -> jax.Array:
    projected = contract("bsd,de->bse", x, weights[name])
    return projected if bias is None else projected + weights[bias][None, None]


def _grouped(
    config: ModelConfig,
    form: AttentionForm,
    weights: LayerWeights,
    normed: jax.Array,
    positions: Positions,
) -> Projected:
    """Each projected by itself; `heads / kv_heads` queries share a key and a value."""
    eps = config.rms_norm_eps

    def of_heads(x: jax.Array) -> jax.Array:
        return x.reshape(*x.shape[:2], -1, config.head_dim)

    biases = ("bq", "bk", "bv") if form.is_biased else (None,) * 3
    q, k, v = (
        _linear(weights, normed, name, bias)
        for name, bias in zip(("wq", "wk", "wv"), biases)
    )
    if form.qk_norm == "width":
        q = rms_norm(q, weights["q_norm"], eps)
        k = rms_norm(k, weights["k_norm"], eps)
    q, k, v = of_heads(q), of_heads(k), of_heads(v)
    # Before RoPE, as Qwen3 does: the weights of the norm differ by element, so after it they would
    # scale what a rotation has mixed.
    if form.qk_norm == "head":
        q = rms_norm(q, weights["q_norm"], eps)
        k = rms_norm(k, weights["k_norm"], eps)
    if form.rotation is not None:
        q = rotate(q, positions.cos, positions.sin)
        k = rotate(k, positions.cos, positions.sin)
    if form.qk_norm == "unit":
        q, k = rms_norm(q, None, eps), rms_norm(k, None, eps)
    return q, k, v


def _latent(
    config: ModelConfig,
    form: AttentionForm,
    weights: LayerWeights,
    normed: jax.Array,
    positions: Positions,
    held: Format | None,
    cached: Format | None,
) -> Projected:
    """Keys and values of all heads, made of one latent a token (expanded)."""
    latent, eps = form.latent, config.rms_norm_eps
    assert latent is not None
    batch, seq, _ = normed.shape

    def of_heads(x: jax.Array) -> jax.Array:
        return x.reshape(batch, seq, config.num_attention_heads, -1)

    if latent.query_rank is None:
        q = _linear(weights, normed, "wq")
    else:
        down = _linear(weights, normed, "wq_down")
        made = taken_as(held, rms_norm(down, weights["query_norm"], eps))
        q = _linear(weights, made, "wq_up")
    plain, turned = jnp.split(of_heads(q), [latent.plain], axis=-1)
    turned = rotate(turned, positions.cos, positions.sin)
    q = jnp.concatenate([plain, turned], axis=-1)

    down = _linear(weights, normed, "wkv_down")
    rank, shared = jnp.split(down, [latent.rank], axis=-1)
    rank = taken_as(cached, rms_norm(rank, weights["latent_norm"], eps))
    pair = _linear(weights, taken_as(held, rank), "wkv_up")
    keys, values = jnp.split(of_heads(pair), [latent.plain], axis=-1)
    # One turned part for all heads.
    shared = rotate(shared[:, :, None], positions.cos, positions.sin)
    shared = taken_as(cached, shared)
    shared = jnp.broadcast_to(shared, (*keys.shape[:3], latent.turned))
    return q, jnp.concatenate([keys, shared], axis=-1), values


__all__ = ["project", "rms_norm", "rotate"]
