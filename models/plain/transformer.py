"""The oracle: a Llama-style transformer in float32, as plain as it can be said in JAX.

Its attention is causal, or a variant's own functions (`models/attention_pattern.py`). Under
`jax.shard_map` it computes the same with each sequence cut over devices (`models/plain/shards.py`):

```python
mesh = jax.make_mesh((8,), ("sequence",), axis_types=(AxisType.Auto,))
model = Transformer(config, rngs, attention=[window, window, full])

@jax.shard_map(mesh=mesh, in_specs=P(None, "sequence"), out_specs=P(None, "sequence"))
def logits(tokens):
    return model(tokens, Shards(sequence="sequence"))
```
"""

import functools
from collections.abc import Callable
from typing import TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from models.attention_pattern import CAUSAL, Attention, Pattern, pattern_of
from models.config import ModelConfig
from models.family import Activation
from models.plain.attention import (
    Attend,
    Positions,
    attend,
    attend_as,
    contract,
)
from models.plain.kv_cache import KVCache
from models.plain.rope import length_limits, rope_tables
from models.plain.shards import WHOLE, Shards, around
from models.plain.weights import Weights, check_weights, random_weights

LayerWeights: TypeAlias = dict[str, jax.Array]
"""One layer's weights by name, without the axis of layers."""

Remember: TypeAlias = Callable[[jax.Array, jax.Array], tuple[jax.Array, jax.Array]]
"""From this call's keys and values, `[batch, kv_heads, seq, head_dim]`, to all that queries see."""

ACTIVATIONS: dict[Activation, Callable[[jax.Array], jax.Array]] = {
    "silu": jax.nn.silu,
}


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


def attention_block(
    config: ModelConfig,
    weights: LayerWeights,
    x: jax.Array,
    positions: Positions,
    attend: Attend,
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
    mixed = attend(q, keys, values)
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


def attend_of(
    pattern: Pattern | None, kind: jax.Array, positions: Positions, shards: Shards
) -> Attend:
    """Attention of a layer.

    Args:
        pattern: Of all layers; None: causal.
        kind: Which of the pattern's distinct variants the layer has, int32 scalar.
        positions: Of the call's tokens.
        shards: Of the call's tokens over devices.
    """
    if pattern is None and shards.sequence is None:
        return functools.partial(attend, positions=positions)
    others = None if shards.sequence is None else around(shards.sequence)
    cases = [
        functools.partial(attend_as, variant, positions=positions, around=others)
        for variant in ((CAUSAL,) if pattern is None else pattern.causal)
    ]
    if len(cases) == 1:
        return cases[0]
    return functools.partial(jax.lax.switch, kind, cases)


def kinds_of(config: ModelConfig, pattern: Pattern | None) -> jax.Array:
    """Which variant each layer has, int32 `[layers]`."""
    layers = config.num_hidden_layers
    if pattern is None:
        return jnp.zeros(layers, jnp.int32)
    return jnp.asarray(pattern.kinds(layers))


def forward(
    config: ModelConfig,
    weights: Weights,
    tokens: jax.Array,
    attention: Attention = None,
    shards: Shards = WHOLE,
) -> jax.Array:
    """Logits of every position, each seeing itself and what came before.

    Args:
        config: The model's sizes; static under `jit`.
        weights: The canonical pytree (`models/plain/weights.py`), float32.
        tokens: int32 `[batch, seq]`.
        attention: A variant for all layers, or several as a pattern over them; static under `jit`.
        shards: Over which axes of the mesh `tokens` are sharded, within `jax.shard_map`.

    Returns:
        float32 `[batch, seq, vocab]`, sharded as the tokens.

    Raises:
        ModelError: `attention` is none of a model of so many layers.
        CannotLower: A variant that no machine can carry out, with its line.
    """
    pattern = pattern_of(attention, config.num_hidden_layers)
    batch, seq = tokens.shape
    whole = shards.whole_length(seq)
    first = shards.first_token(seq)
    cos, sin = map(jnp.asarray, rope_tables(config, np.arange(whole), whole))
    own = first + jnp.arange(seq, dtype=jnp.int32)
    positions = Positions(
        jax.lax.dynamic_slice_in_dim(cos, first, seq),
        jax.lax.dynamic_slice_in_dim(sin, first, seq),
        b=shards.first_sequence(batch) + jnp.arange(batch, dtype=jnp.int32),
        q=own,
        k=own,
    )

    def layer(
        x: jax.Array, one: tuple[LayerWeights, jax.Array]
    ) -> tuple[jax.Array, None]:
        layer_weights, kind = one
        itself = lambda k, v: (k, v)  # noqa: E731
        attend = attend_of(pattern, kind, positions, shards)
        x, _, _ = attention_block(config, layer_weights, x, positions, attend, itself)
        return mlp_block(config, layer_weights, x), None

    # One layer is traced and compiled, however many there are, with every distinct variant.
    layers = weights["layers"], kinds_of(config, pattern)
    x, _ = jax.lax.scan(layer, embed(weights, tokens), layers)
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
    config: ModelConfig,
    weights: Weights,
    tokens: jax.Array,
    cache: KVCache,
    attention: Attention = None,
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
        attention: As for `forward`.

    Returns:
        Logits float32 `[batch, seq, vocab]`, and the cache with `seq` more positions.
    """
    pattern = pattern_of(attention, config.num_hidden_layers)
    (batch, seq), start = tokens.shape, cache.length
    slots = jnp.arange(cache.capacity, dtype=jnp.int32)
    own = start + jnp.arange(seq, dtype=jnp.int32)
    cos, sin = tables_of_capacity(config, cache.capacity, start + seq)
    positions = Positions(
        jax.lax.dynamic_slice_in_dim(cos, start, seq),
        jax.lax.dynamic_slice_in_dim(sin, start, seq),
        b=jnp.arange(batch, dtype=jnp.int32),
        q=own,
        k=slots,
    )

    def layer(
        x: jax.Array, one: tuple[LayerWeights, jax.Array, jax.Array, jax.Array]
    ) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
        layer_weights, old_k, old_v, kind = one

        def remember(k: jax.Array, v: jax.Array) -> tuple[jax.Array, jax.Array]:
            # Where there is no room, JAX moves the start back, over keys that are in use: `fits`,
            # below, makes NaN of every logit then.
            put = jax.lax.dynamic_update_slice_in_dim
            return put(old_k, k, start, axis=2), put(old_v, v, start, axis=2)

        attend = attend_of(pattern, kind, positions, WHOLE)
        x, keys, values = attention_block(
            config, layer_weights, x, positions, attend, remember
        )
        return mlp_block(config, layer_weights, x), (keys, values)

    stacked = (weights["layers"], cache.k, cache.v, kinds_of(config, pattern))
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
        attention: A variant for all layers, or several as a pattern that is repeated over them, of
            which none looks ahead (`models/attention_pattern.py`); None: causal attention.

    Raises:
        ModelError: `weights` do not fit `config`, or `attention` is none of it.
        CannotLower: A variant that no machine can carry out, with its line.
    """

    def __init__(
        self,
        config: ModelConfig,
        rngs: nnx.Rngs | None = None,
        *,
        weights: Weights | None = None,
        attention: Attention = None,
    ) -> None:
        if weights is None:
            if rngs is None:
                raise TypeError("Transformer needs rngs or weights, got neither")
            seed = int(jax.random.bits(rngs.params(), dtype=jnp.uint32))
            weights = random_weights(config, seed)
        check_weights(config, weights)
        self.config = config
        self.attention = pattern_of(attention, config.num_hidden_layers)
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

    def __call__(self, tokens: jax.Array, shards: Shards = WHOLE) -> jax.Array:
        """Logits float32 `[batch, seq, vocab]` of `tokens` int32 `[batch, seq]`; see `forward`."""
        return forward(self.config, weights(self), tokens, self.attention, shards)

    def extend(self, tokens: jax.Array, cache: KVCache) -> tuple[jax.Array, KVCache]:
        """Logits of `tokens` int32 `[batch, seq]` after the cache, and the longer cache."""
        return extend(self.config, weights(self), tokens, cache, self.attention)


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


def from_weights(
    config: ModelConfig, weights: Weights, attention: Attention = None
) -> Transformer:
    """A model on given weights; jax arrays are kept, not copied."""
    return Transformer(config, weights=weights, attention=attention)
