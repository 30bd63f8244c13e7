"""The oracle: a Llama-style transformer in float32, as plain as it can be said in JAX."""

import dataclasses
from collections.abc import Callable
from typing import TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from models.config import ModelConfig
from models.family import Activation
from models.plain.kv_cache import KVCache
from models.plain.rope import length_limits, rope_tables
from models.plain.weights import Weights, check_weights, random_weights

LayerWeights: TypeAlias = dict[str, jax.Array]
"""One layer's weights by name, without the axis of layers."""

Remember: TypeAlias = Callable[[jax.Array, jax.Array], tuple[jax.Array, jax.Array]]
"""From this call's keys and values, `[batch, kv_heads, seq, head_dim]`, to all that queries see."""

ACTIVATIONS: dict[Activation, Callable[[jax.Array], jax.Array]] = {
    "silu": jax.nn.silu,
}


@dataclasses.dataclass(frozen=True)
class Positions:
    """Where a call's tokens stand.

    Attributes:
        cos: float32 `[seq, head_dim / 2]`, of RoPE.
        sin: As `cos`.
        live: bool `[seq, keys]`, which key each query may see.
    """

    cos: jax.Array
    sin: jax.Array
    live: jax.Array


def contract(subscripts: str, *operands: jax.Array) -> jax.Array:
    """An einsum whose products and sums are float32 on every backend."""
    # By default a GPU multiplies float32 in TF32 and a TPU in bfloat16: no oracle then.
    return jnp.einsum(
        subscripts,
        *operands,
        precision=jax.lax.Precision.HIGHEST,
        preferred_element_type=jnp.float32,
    )


def rms_norm(x: jax.Array, weight: jax.Array, eps: float) -> jax.Array:
    """Scales the last axis to unit root mean square, then by `weight` `[x.shape[-1]]`."""
    mean_square = jnp.mean(jnp.square(x), axis=-1, keepdims=True)
    normalised = x * jax.lax.rsqrt(mean_square + eps)
    return normalised * jnp.expand_dims(weight, range(x.ndim - 1))


def rotate(x: jax.Array, cos: jax.Array, sin: jax.Array) -> jax.Array:
    """RoPE: turns each pair of `x` `[batch, seq, heads, head_dim]` by `[seq, head_dim / 2]`.

    Pair `i` is elements `i` and `i + head_dim / 2`, as in Hugging Face's files.
    """
    cos = cos[None, :, None, :]
    sin = sin[None, :, None, :]
    first, second = jnp.split(x, 2, axis=-1)
    turned_first = first * cos - second * sin
    turned_second = second * cos + first * sin
    return jnp.concatenate([turned_first, turned_second], axis=-1)


def attend(q: jax.Array, k: jax.Array, v: jax.Array, live: jax.Array) -> jax.Array:
    """Grouped-query attention.

    Args:
        q: `[batch, seq, heads, head_dim]`.
        k: `[batch, kv_heads, keys, head_dim]`; `heads / kv_heads` neighbours share one.
        v: As `k`.
        live: bool `[seq, keys]`, which key each query may see.

    Returns:
        `[batch, seq, heads * head_dim]`.
    """
    batch, seq, heads, head_dim = q.shape
    kv_heads = k.shape[1]
    # Axes: b batch, s query position, t key position, g KV head, r query head of it, d element.
    grouped = q.reshape(batch, seq, kv_heads, heads // kv_heads, head_dim)
    scores = contract("bsgrd,bgtd->bgrst", grouped, k) * head_dim**-0.5
    # -inf weighs exactly 0, whatever the scores beside it; no row is all -inf, as a query sees
    # itself.
    scores = jnp.where(live[None, None, None], scores, -jnp.inf)
    shares = jax.nn.softmax(scores, axis=-1)
    mixed = contract("bgrst,bgtd->bsgrd", shares, v)
    return mixed.reshape(batch, seq, heads * head_dim)


def attention_block(
    config: ModelConfig,
    weights: LayerWeights,
    x: jax.Array,
    positions: Positions,
    remember: Remember,
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Attention of one layer on `x` `[batch, seq, d]`; also returns the keys and values it saw."""
    batch, seq = x.shape[:2]
    normed = rms_norm(x, weights["attn_norm"], config.rms_norm_eps)

    def heads_of(name: str) -> jax.Array:
        projected = contract("bsd,de->bse", normed, weights[name])
        return projected.reshape(batch, seq, -1, config.head_dim)

    q = heads_of("wq")
    k = heads_of("wk")
    v = heads_of("wv")
    # Before RoPE, as Qwen3 does: the weights of the norm differ by element, so after it they would
    # scale what a rotation has mixed.
    if config.family.qk_norm:
        q = rms_norm(q, weights["q_norm"], config.rms_norm_eps)
        k = rms_norm(k, weights["k_norm"], config.rms_norm_eps)
    q = rotate(q, positions.cos, positions.sin)
    k = rotate(k, positions.cos, positions.sin)
    keys, values = remember(k.swapaxes(1, 2), v.swapaxes(1, 2))
    mixed = attend(q, keys, values, positions.live)
    return x + contract("bse,ed->bsd", mixed, weights["wo"]), keys, values


def mlp_block(config: ModelConfig, weights: LayerWeights, x: jax.Array) -> jax.Array:
    """The gated MLP of one layer on `x` `[batch, seq, d]`; SwiGLU where the activation is SiLU."""
    activation = ACTIVATIONS[config.family.activation]
    normed = rms_norm(x, weights["mlp_norm"], config.rms_norm_eps)
    gate = activation(contract("bsd,df->bsf", normed, weights["w_gate"]))
    up = contract("bsd,df->bsf", normed, weights["w_up"])
    return x + contract("bsf,fd->bsd", gate * up, weights["w_down"])


def embed(weights: Weights, tokens: jax.Array) -> jax.Array:
    """The residual stream `[batch, seq, d]` before the first layer."""
    return jnp.take(weights["embed"], tokens, axis=0)


def unembed(config: ModelConfig, weights: Weights, x: jax.Array) -> jax.Array:
    """Logits `[batch, seq, vocab]` from the residual stream after the last layer."""
    normed = rms_norm(x, weights["norm"], config.rms_norm_eps)
    if config.tie_word_embeddings:
        return contract("bsd,vd->bsv", normed, weights["embed"])
    return contract("bsd,dv->bsv", normed, weights["head"])


def forward(config: ModelConfig, weights: Weights, tokens: jax.Array) -> jax.Array:
    """Logits of every position, each seeing itself and what came before.

    Args:
        config: The model's sizes; static under `jit`.
        weights: The canonical pytree (`models/plain/weights.py`), float32.
        tokens: int32 `[batch, seq]`.

    Returns:
        float32 `[batch, seq, vocab]`.
    """
    seq = tokens.shape[1]
    cos, sin = rope_tables(config, np.arange(seq), seq)
    causal = jnp.tril(jnp.ones((seq, seq), bool))
    positions = Positions(jnp.asarray(cos), jnp.asarray(sin), causal)

    def layer(x: jax.Array, layer_weights: LayerWeights) -> tuple[jax.Array, None]:
        itself = lambda k, v: (k, v)  # noqa: E731
        x, _, _ = attention_block(config, layer_weights, x, positions, itself)
        return mlp_block(config, layer_weights, x), None

    # One layer is traced and compiled, however many there are.
    x, _ = jax.lax.scan(layer, embed(weights, tokens), weights["layers"])
    return unembed(config, weights, x)


def tables_of_capacity(
    config: ModelConfig, capacity: int, length: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """RoPE's tables of a whole cache for a sequence of a traced length, each `[capacity, pairs]`.

    Of the whole capacity, because the start may be traced and RoPE's angles may not; LongRoPE's
    for both of its sets of frequencies.
    """
    positions = np.arange(capacity)
    cos, sin = map(jnp.asarray, rope_tables(config, positions, 0))
    # Which set a sequence needs is known when it runs, but both are constants of the trace.
    short_length, _ = length_limits(config)
    if short_length is not None:
        long_cos, long_sin = rope_tables(config, positions, short_length + 1)
        long = length > short_length
        cos, sin = jnp.where(long, long_cos, cos), jnp.where(long, long_sin, sin)
    return cos, sin


def extend(
    config: ModelConfig, weights: Weights, tokens: jax.Array, cache: KVCache
) -> tuple[jax.Array, KVCache]:
    """Logits of `tokens` that follow what the cache holds: a whole prompt, or one token.

    Where the cache has no room for them, every logit is NaN: the length may be traced, so that an
    exception cannot be raised here. So it is behind `max_position_embeddings` where RoPE's scaling
    is dynamic, whose frequencies then depend on the length.

    Args:
        config: The model's sizes; static under `jit`.
        weights: The canonical pytree, float32.
        tokens: int32 `[batch, seq]`.
        cache: Keys and values so far.

    Returns:
        Logits float32 `[batch, seq, vocab]`, and the cache with `seq` more positions.
    """
    seq, start = tokens.shape[1], cache.length
    slots = jnp.arange(cache.capacity, dtype=jnp.int32)
    own = start + jnp.arange(seq, dtype=jnp.int32)
    cos, sin = tables_of_capacity(config, cache.capacity, start + seq)
    positions = Positions(
        jax.lax.dynamic_slice_in_dim(cos, start, seq),
        jax.lax.dynamic_slice_in_dim(sin, start, seq),
        # Slots behind a query's own hold zeros or, within a prompt, its future.
        live=slots[None, :] <= own[:, None],
    )

    def layer(
        x: jax.Array, one: tuple[LayerWeights, jax.Array, jax.Array]
    ) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
        layer_weights, old_k, old_v = one

        def remember(k: jax.Array, v: jax.Array) -> tuple[jax.Array, jax.Array]:
            # Where there is no room, JAX moves the start back, over keys that are in use: `fits`,
            # below, makes NaN of every logit then.
            put = jax.lax.dynamic_update_slice_in_dim
            return put(old_k, k, start, axis=2), put(old_v, v, start, axis=2)

        x, keys, values = attention_block(config, layer_weights, x, positions, remember)
        return mlp_block(config, layer_weights, x), (keys, values)

    stacked = (weights["layers"], cache.k, cache.v)
    x, (k, v) = jax.lax.scan(layer, embed(weights, tokens), stacked)
    _, last_length = length_limits(config)
    fits = start + seq <= min(cache.capacity, last_length or cache.capacity)
    logits = jnp.where(fits, unembed(config, weights, x), jnp.nan)
    return logits, KVCache(k=k, v=v, length=start + seq)


class Transformer(nnx.Module):
    """A Flax module that owns the weights; its arithmetic is `forward` and `extend` above.

    Args:
        config: The model's sizes.
        rngs: Seeds random weights from its `params` stream; not needed where `weights` are given.
        weights: The canonical pytree; jax arrays are kept, not copied.

    Raises:
        ModelError: `weights` do not fit `config`.
    """

    def __init__(
        self,
        config: ModelConfig,
        rngs: nnx.Rngs | None = None,
        *,
        weights: Weights | None = None,
    ) -> None:
        if weights is None:
            if rngs is None:
                raise TypeError("Transformer needs rngs or weights, got neither")
            seed = int(jax.random.bits(rngs.params(), dtype=jnp.uint32))
            weights = random_weights(config, seed)
        check_weights(config, weights)
        self.config = config
        self.layers = nnx.Dict(
            {
                name: nnx.Param(jnp.asarray(stacked))
                for name, stacked in weights["layers"].items()
            }
        )
        self.embed = nnx.Param(jnp.asarray(weights["embed"]))
        self.norm = nnx.Param(jnp.asarray(weights["norm"]))
        if not config.tie_word_embeddings:
            self.head = nnx.Param(jnp.asarray(weights["head"]))

    def __call__(self, tokens: jax.Array) -> jax.Array:
        """Logits float32 `[batch, seq, vocab]` of `tokens` int32 `[batch, seq]`."""
        return forward(self.config, weights(self), tokens)

    def extend(self, tokens: jax.Array, cache: KVCache) -> tuple[jax.Array, KVCache]:
        """Logits of `tokens` int32 `[batch, seq]` after the cache, and the longer cache."""
        return extend(self.config, weights(self), tokens, cache)


def weights(model: Transformer) -> Weights:
    """The canonical pytree of a model's weights, without copying them."""
    tree: Weights = {
        "embed": model.embed[...],
        "norm": model.norm[...],
        "layers": {name: param[...] for name, param in model.layers.items()},
    }
    if not model.config.tie_word_embeddings:
        tree["head"] = model.head[...]
    return tree


def from_weights(config: ModelConfig, weights: Weights) -> Transformer:
    """A model on given weights; jax arrays are kept, not copied."""
    return Transformer(config, weights=weights)
