"""The oracle: a decoder in float32, as plain as it can be said in JAX.

Its layers compute what their forms say (`models/layer_form.py`); where a variant of attention is
given, its own functions in place of the form's (`models/attention_pattern.py`). Under
`jax.shard_map` it computes the same with each sequence cut over devices (`models/plain/shards.py`):

```python
mesh = jax.make_mesh((8,), ("sequence",), axis_types=(AxisType.Auto,))
model = Transformer(config, rngs, attention=[window, window, full])

@jax.shard_map(mesh=mesh, in_specs=P(None, "sequence"), out_specs=P(None, "sequence"))
def logits(tokens):
    return model(tokens, Shards(sequence="sequence"))
```
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from kernels.attention.variant import Variant
from kernels.formats.formats import Format
from models.attention_pattern import Attention, Pattern, pattern_of
from models.config import ModelConfig
from models.family_attention import variant_of, with_scale
from models.layer_form import LayerForm, Rotation
from models.plain.attention import Positions, attend, attend_as, contract
from models.plain.held import taken_as
from models.plain.kv_cache import KVCache
from models.plain.mlp import LayerWeights, feed_forward
from models.plain.projections import project, rms_norm
from models.plain.rope import length_limits, rope_tables
from models.plain.shards import WHOLE, Shards, around
from models.plain.weights import (
    Weights,
    check_weights,
    random_weights,
    weights_of_run,
)
from models.precision import Taken

Remember: TypeAlias = Callable[[jax.Array, jax.Array], tuple[jax.Array, jax.Array]]
"""From this call's keys and values, `[batch, kv_heads, seq, features]`, to all that queries see."""

Tables: TypeAlias = dict[Rotation, tuple[jax.Array, jax.Array]]
"""Cosines and sines `[seq, pairs]` of each of a model's RoPEs."""


class Kind(NamedTuple):
    """What a layer computes: layers of one kind are traced once."""

    form: LayerForm
    variant: Variant | None  # in place of the form's attention


@dataclasses.dataclass(frozen=True)
class Call:
    """What all layers of one call share.

    Attributes:
        config: Sizes.
        positions: Of its tokens; RoPE's tables are those of no layer yet.
        tables: Of each RoPE.
        shards: Of its tokens over devices.
        held: What products of layers have activations in; all else is float32.
        cached: What keys and values, or the latents that they are made of, are held in, by token
            and head; None: float32.
    """

    config: ModelConfig
    positions: Positions
    tables: Tables
    shards: Shards = WHOLE
    held: Taken = Taken()
    cached: Format | None = None

    def of(self, form: LayerForm) -> Positions:
        """The positions, with the tables of a layer's RoPE."""
        rotation = form.attention.rotation
        if rotation is None:
            return self.positions
        cos, sin = self.tables[rotation]
        return dataclasses.replace(self.positions, cos=cos, sin=sin)


def layer_block(
    call: Call, kind: Kind, weights: LayerWeights, x: jax.Array, remember: Remember
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """One layer on `x` `[batch, seq, d]`; also returns the keys and values it saw."""
    form, eps = kind.form, call.config.rms_norm_eps
    positions = call.of(form)
    normed = rms_norm(x, weights["attn_norm"], eps)
    normed = taken_as(call.held.weights, normed)
    own = call.config, form.attention, weights, normed, positions
    q, k, v = project(*own, call.held.weights, call.cached)
    keys, values = remember(k.swapaxes(1, 2), v.swapaxes(1, 2))
    mixed = mixed_values(call, kind, weights, (q, keys, values), positions)
    mixed = taken_as(call.held.weights, mixed)
    out = contract("bse,ed->bsd", mixed, weights["wo"])
    if form.attention.output_is_biased:
        out = out + weights["bo"][None, None]
    x = x + output_normed(form, weights, out, "attn_output_norm", eps)
    normed = rms_norm(x, weights["mlp_norm"], eps)
    out = feed_forward(form, weights, normed, call.held)
    return x + output_normed(form, weights, out, "mlp_output_norm", eps), keys, values


def mixed_values(
    call: Call,
    kind: Kind,
    weights: LayerWeights,
    qkv: tuple[jax.Array, jax.Array, jax.Array],
    positions: Positions,
) -> jax.Array:
    """Attention's output before its projection, `[batch, seq, heads * value_dim]`."""
    form, variant = kind.form.attention, kind.variant
    axis = call.shards.sequence
    if variant is None and axis is None:
        return attend(form, *qkv, positions, weights.get("sinks"))
    others = None if axis is None else around(axis)
    if variant is None:
        variant = variant_of(form, weights.get("sinks"))
    variant = with_scale(variant, form.scale)
    return attend_as(variant, *qkv, positions=positions, around=others)


def output_normed(
    form: LayerForm, weights: LayerWeights, out: jax.Array, name: str, eps: float
) -> jax.Array:
    """What is added to the residual stream: as it is, or normalised."""
    return rms_norm(out, weights[name], eps) if form.has_output_norms else out


def embed(config: ModelConfig, weights: Weights, tokens: jax.Array) -> jax.Array:
    """The residual stream `[batch, seq, d]` before the first layer."""
    stream = jnp.take(weights["embed"], tokens, axis=0)
    return stream if config.embedding_scale == 1 else stream * config.embedding_scale


def unembed(config: ModelConfig, weights: Weights, x: jax.Array) -> jax.Array:
    """Logits `[batch, seq, vocab]` from the residual stream after the last layer."""
    normed = rms_norm(x, weights["norm"], config.rms_norm_eps)
    if config.tie_word_embeddings:
        logits = contract("bsd,vd->bsv", normed, weights["embed"])
    else:
        logits = contract("bsd,dv->bsv", normed, weights["head"])
    if config.logit_soft_cap is None:
        return logits
    return config.logit_soft_cap * jnp.tanh(logits / config.logit_soft_cap)


def kinds_of(config: ModelConfig, pattern: Pattern | None) -> list[Kind]:
    """What each layer computes."""
    layers = config.num_hidden_layers
    if pattern is None:
        return [Kind(form, None) for form in config.forms]
    chosen = pattern.kinds(layers)
    return [
        Kind(form, pattern.causal[number]) for form, number in zip(config.forms, chosen)
    ]


Layer: TypeAlias = Callable[[Kind, LayerWeights, jax.Array, Any], tuple[jax.Array, Any]]
"""One layer: its kind, its weights, the residual stream, and what is given to each layer; returns
the stream, and what each layer returns."""


def through_layers(
    config: ModelConfig,
    weights: Weights,
    pattern: Pattern | None,
    layer: Layer,
    x: jax.Array,
    given: Any,
) -> tuple[jax.Array, Any]:
    """The residual stream through all layers.

    Layers of equal weights are traced and compiled once, however many there are, with every kind
    among them: DeepSeek-V3's 61 layers are two loops, of 3 and of 58.

    Args:
        config: Sizes.
        weights: Of the model.
        pattern: Of variants over the layers.
        layer: One of them.
        x: The residual stream before the first.
        given: For each layer, stacked.

    Returns:
        The stream behind the last layer, and what each returns, stacked.
    """
    kinds = kinds_of(config, pattern)
    returned = []
    for run in config.runs:
        own = kinds[run.start : run.stop]
        distinct = list(dict.fromkeys(own))
        numbers = jnp.asarray([distinct.index(kind) for kind in own], jnp.int32)
        cases = [functools.partial(layer, kind) for kind in distinct]

        def step(x: jax.Array, one: Any, cases: Any = cases) -> tuple[jax.Array, Any]:
            layer_weights, number, own_given = one
            if len(cases) == 1:
                return cases[0](layer_weights, x, own_given)
            return jax.lax.switch(number, cases, layer_weights, x, own_given)

        stacked = weights_of_run(config, weights, run), numbers, part(given, run)
        x, each = jax.lax.scan(step, x, stacked)
        returned.append(each)
    return x, jax.tree.map(lambda *parts: jnp.concatenate(parts), *returned)


def part(stacked: Any, run: range) -> Any:
    """The entries of some layers."""
    return jax.tree.map(lambda x: x[run.start : run.stop], stacked)


def forward(
    config: ModelConfig,
    weights: Weights,
    tokens: jax.Array,
    attention: Attention = None,
    shards: Shards = WHOLE,
    held: Taken = Taken(),
) -> jax.Array:
    """Logits of every position, each seeing itself and what came before.

    Args:
        config: The model's sizes; static under `jit`.
        weights: The canonical pytree (`models/plain/weights.py`), float32.
        tokens: int32 `[batch, seq]`.
        attention: A variant for all layers, or several as a pattern over them; static under `jit`.
        shards: Over which axes of the mesh `tokens` are sharded, within `jax.shard_map`.
        held: What products of layers have activations in, see `models.plain.held`; static under
            `jit`.

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
    tables: Tables = {}
    for rotation in config.rotations:
        of_all = rope_tables(config, np.arange(whole), whole, rotation)
        cos, sin = (
            jax.lax.dynamic_slice_in_dim(jnp.asarray(table), first, seq)
            for table in of_all
        )
        tables[rotation] = cos, sin
    own = first + jnp.arange(seq, dtype=jnp.int32)
    b = shards.first_sequence(batch) + jnp.arange(batch, dtype=jnp.int32)
    positions = Positions(own, own, b=b, q=own, k=own)
    call = Call(config, positions, tables, shards, held)

    def layer(
        kind: Kind, layer_weights: LayerWeights, x: jax.Array, given: None
    ) -> tuple[jax.Array, None]:
        x, _, _ = layer_block(call, kind, layer_weights, x, lambda k, v: (k, v))
        return x, None

    x = embed(config, weights, tokens)
    x, _ = through_layers(config, weights, pattern, layer, x, None)
    return unembed(config, weights, x)


def tables_of_capacity(
    config: ModelConfig, rotation: Rotation, capacity: int, length: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """One RoPE's tables `[capacity, pairs]` of a whole cache, for a sequence of a traced length.

    Of the whole capacity, because the start may be traced and RoPE's angles may not; LongRoPE's
    for both of its sets of frequencies.
    """
    positions = np.arange(capacity)
    cos, sin = map(jnp.asarray, rope_tables(config, positions, 0, rotation))
    # Which set a sequence needs is known when it runs, but both are constants of the trace.
    short_length, _ = length_limits(config)
    if short_length is not None and rotation.is_scaled:
        behind = short_length + 1
        long_cos, long_sin = rope_tables(config, positions, behind, rotation)
        long = length > short_length
        cos, sin = jnp.where(long, long_cos, cos), jnp.where(long, long_sin, sin)
    return cos, sin


def extend(
    config: ModelConfig,
    weights: Weights,
    tokens: jax.Array,
    cache: KVCache,
    attention: Attention = None,
    held: Taken = Taken(),
    cached: Format | None = None,
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
        held: As for `forward`.
        cached: What keys and values join the cache in, by token and head, before they are attended
            to; static under `jit`; None: float32.

    Returns:
        Logits float32 `[batch, seq, vocab]`, and the cache with `seq` more positions.
    """
    pattern = pattern_of(attention, config.num_hidden_layers)
    (batch, seq), start = tokens.shape, cache.length
    slots = jnp.arange(cache.capacity, dtype=jnp.int32)
    own = start + jnp.arange(seq, dtype=jnp.int32)
    tables: Tables = {}
    for rotation in config.rotations:
        of_all = tables_of_capacity(config, rotation, cache.capacity, start + seq)
        cos, sin = (jax.lax.dynamic_slice_in_dim(table, start, seq) for table in of_all)
        tables[rotation] = cos, sin
    b = jnp.arange(batch, dtype=jnp.int32)
    positions = Positions(own, own, b=b, q=own, k=slots)
    call = Call(config, positions, tables, held=held, cached=cached)

    def layer(
        kind: Kind,
        layer_weights: LayerWeights,
        x: jax.Array,
        old: tuple[jax.Array, jax.Array],
    ) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
        old_k, old_v = old

        def remember(k: jax.Array, v: jax.Array) -> tuple[jax.Array, jax.Array]:
            # Where there is no room, JAX moves the start back, over keys that are in use: `fits`,
            # below, makes NaN of every logit then.
            put = jax.lax.dynamic_update_slice_in_dim
            return put(old_k, k, start, axis=2), put(old_v, v, start, axis=2)

        x, keys, values = layer_block(call, kind, layer_weights, x, remember)
        return x, (keys, values)

    x = embed(config, weights, tokens)
    given = cache.k, cache.v
    x, (k, v) = through_layers(config, weights, pattern, layer, x, given)
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
