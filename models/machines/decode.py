"""Decode on a wafer: one token at a time through every layer's region, in numbers and in cycles.

The layers' program is written for one region; running calls it for one layer after another, and the
clock is read from that same program.

Each layer's weights and cache are buffers of their own. Those of a `scan` are parts of stacked ones
at an index that is known as it runs: XLA on a CPU (JAX 0.10) reads that index anew for every
element, and so computes one element at a time.
"""

from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.typing import ArrayLike

from emu import Device, strict_jit
from emu.annotations import DType, PyTree
from emu.report.bands import Bound
from emu.wse import WSE3
from kernels.attention.layers import DecoderVariant
from kernels.wse.decode import layout
from kernels.wse.decode.plan import WaferPlan, plan_wafer
from kernels.wse.decode.token import StepReading, TokenClock, Trace, layer_phase
from models.attention_pattern import Attention, pattern_of
from models.family_attention import own_attention
from models.machines.layer_weights import check_forms, check_layer_weights
from models.plain.rope import rope_tables

LayerCache: TypeAlias = dict[str, jax.Array]
"""`k` `[rows, cols, dims, slots]` and `v` `[rows, cols, slots, dims]` of one layer."""

Cache: TypeAlias = list[LayerCache]
"""Of all layers, in order."""

# Which dimension of one layer's cache, `[rows, cols, ...]`, is the slots.
SLOT_AXIS = {"k": 3, "v": 2}


def variants_of(
    attention: Attention, layers: int
) -> tuple[tuple[DecoderVariant, ...], tuple[int, ...]]:
    """The distinct variants of a model's layers, none if they are causal, and which each has."""
    pattern = pattern_of(attention, layers)
    if pattern is None:
        return (), ()
    # Not `pattern.causal`: a cache holds no key behind its token, so nobody need look.
    variants = tuple(DecoderVariant(x.reading, x.scale) for x in pattern.distinct)
    return variants, tuple(pattern.kinds(layers).tolist())


class Decoder:
    """A model resident on one wafer.

    Attributes:
      plan: which region does what, and the bytes of its PEs.
      clock: the programs of embedding, layer and head, and their readings.
    """

    def __init__(
        self,
        config: Any,
        weights: Mapping[str, Any],
        context: int,
        dtype: DType = "float32",
        device: Device | None = None,
        placed: WaferPlan | None = None,
        attention: Attention = None,
    ):
        """Lays the weights out, once.

        Args:
          config: sizes under their Hugging Face names.
          weights: `embed` [V, d], `norm` [d], `head` [d, V] unless tied, and `layers`, stacked.
          context: most tokens, prompt included.
          dtype: of weights and cache: float32, bfloat16 or float16.
          device: the wafer; a WSE-3 by default.
          placed: regions to use, with their variants; by default the fastest by estimate that fit.
          attention: a variant for all layers, or several as a pattern over them; None: the model's
            own.

        Raises:
          CannotLower: a variant's arithmetic that a PE has not, with its line.
          DoesNotFit: the model and the cache do not fit one wafer.
          ModelError: `attention` is none of a model of so many layers.
        """
        check_forms(config, "decode")
        if attention is None:
            attention = own_attention(config, weights)
        self.config = config
        self.context = context
        self.dtype = jnp.dtype(dtype)
        device = device or WSE3.at()
        self.plan = placed or plan_wafer(
            config,
            context,
            self.dtype.name,
            device,
            *variants_of(attention, config.num_hidden_layers),
        )
        self.clock = TokenClock(self.plan, device)
        self._weights = self._lay_out(weights)
        # A step computes the last token of a sequence that is just as long.
        cos, sin = rope_tables(config, np.arange(context), np.arange(context) + 1)
        self._cos = layout.turn_tiles(cos, self.plan.layer)
        self._sin = layout.turn_tiles(sin, self.plan.layer)
        # One before every layer, the last before the head.
        self._gaps = [jnp.int32(gap) for gap in self.plan.gaps]
        self._embed: Any = strict_jit(self._embedding)
        # The cache is updated in place: its buffers are donated.
        self._layers: list[Any] = [
            strict_jit(self._layer_of(kind), donate_argnames="cache")
            for kind in range(len(self.plan.variants))
        ]
        self._head: Any = strict_jit(self._prediction)

    def _lay_out(self, weights: Mapping[str, Any]) -> dict[str, Any]:
        """Every weight on its PEs, `[rows, cols, ...]`; those of layers by layer."""
        check_layer_weights(weights["layers"], "decode")
        layers = layout.layer_weights(weights["layers"], self.plan.layer)
        # As `[d, vocabulary]`, the head's own layout: where both are tied, one table serves as
        # both.
        tables = {"embed": np.asarray(weights["embed"]).T}
        if not self.plan.tied:
            tables["head"] = weights["head"]
        placed: dict[str, Any] = {
            name: self._stored(layout.head_table(table, self.plan.head))
            for name, table in tables.items()
        }
        placed["norm"] = self._stored(layout.head_norm(weights["norm"], self.plan.head))
        placed["layers"] = self._by_layer(layers)
        return placed

    def _stored(self, values: ArrayLike) -> jax.Array:
        return jnp.asarray(values, self.dtype)

    def _by_layer(
        self, stacked: Mapping[str, np.ndarray]
    ) -> list[dict[str, jax.Array]]:
        """Arrays `[layers, ...]` by name as those of each layer."""
        return [
            {name: self._stored(tiles[n]) for name, tiles in stacked.items()}
            for n in range(self.config.num_hidden_layers)
        ]

    # --- values ---

    def cache_from(self, k: np.ndarray, v: np.ndarray) -> Cache:
        """A prefilled cache on its PEs.

        Args:
          k: keys after RoPE, `[layers, n, kv_heads, head_dim]`, n at most `context`.
          v: values, alike.
        """
        if k.shape[1] > self.context:
            raise ValueError(f"{k.shape[1]} tokens for a context of {self.context}")
        tiles = layout.cache_tiles(k, v, self.plan.layer)
        return self._by_layer(tiles)

    def empty_cache(self) -> Cache:
        """A cache without tokens."""
        config = self.config
        heads = (config.num_key_value_heads, config.head_dim)
        none = np.zeros((config.num_hidden_layers, 0, *heads), np.float32)
        return self.cache_from(none, none)

    def step(
        self, token_id: ArrayLike, pos: int, cache: Cache
    ) -> tuple[int, jax.Array, Cache]:
        """Runs one token.

        Args:
          token_id: the token at position `pos`.
          pos: how many tokens the cache holds.
          cache: is consumed; use the one returned.

        Returns:
          The next token's id, the logits, float32 `[vocab]`, and the cache.
        """
        self._check(pos)
        token = jnp.asarray(token_id, jnp.int32).reshape(1)
        where, given = self._at(pos)
        *gaps, last_gap = self._gaps
        weights = self._weights
        x = self._embed(weights["embed"], token)
        grown: Cache = []
        layers = zip(weights["layers"], cache, gaps, self.plan.kinds, strict=True)
        for of_layer, old, gap, kind in layers:
            x, new = self._layers[kind](x, of_layer, old, *where, gap, *given[kind])
            grown.append(new)
        best, logits = self._head(x, weights["norm"], self._head_table, last_gap)
        return int(best), logits, grown

    def compile(self) -> None:
        """Compiles a step ahead of the first one."""
        weights = self._weights
        token = jax.ShapeDtypeStruct((1,), jnp.int32)
        cache, *_ = jax.eval_shape(self.empty_cache)
        where, given = self._at(0)
        *_, gap = self._gaps
        x = jax.eval_shape(self._embed, weights["embed"], token)
        self._embed = self._embed.lower(weights["embed"], token).compile()
        first, *_ = weights["layers"]
        self._layers = [
            run.lower(x, first, cache, *where, gap, *own).compile()
            for run, own in zip(self._layers, given, strict=True)
        ]
        head = self._head.lower(x, weights["norm"], self._head_table, gap)
        self._head = head.compile()

    @property
    def _head_table(self) -> jax.Array:
        return self._weights["embed" if self.plan.tied else "head"]

    def _at(self, pos: int) -> tuple[tuple[PyTree, ...], list[tuple[PyTree, ...]]]:
        """What layers are told of a position: its rotation and itself; and each variant's own."""
        variants = self.plan.variants
        given = [() if variant is None else variant.given(pos) for variant in variants]
        where = jnp.asarray(self._cos[pos]), jnp.asarray(self._sin[pos]), jnp.int32(pos)
        return where, given

    def _check(self, pos: int) -> None:
        if not 0 <= pos < self.context:
            raise ValueError(
                f"position {pos} is outside the context of {self.context} tokens"
            )

    def _embedding(self, table: jax.Array, token: jax.Array) -> jax.Array:
        """The residual stream before the first layer, `[rows, depth]`."""
        return self.clock.programs["embed"].batched(table, token)[:, 0]

    def _layer_of(self, kind: int) -> Callable[..., tuple[jax.Array, LayerCache]]:
        """A layer with that variant of attention: the residual stream behind it, and its cache."""
        run = self.clock.programs[layer_phase(kind)].batched
        rows = jnp.int32(self.plan.layer.rows)

        def layer(
            x: jax.Array,
            weights: PyTree,
            cache: LayerCache,
            cos: jax.Array,
            sin: jax.Array,
            pos: jax.Array,
            gap: jax.Array,
            *given: PyTree,
        ) -> tuple[jax.Array, LayerCache]:
            x, new = run(x, weights, cache, cos, sin, pos, gap, *given)
            # Position p lies in row p % rows, slot p // rows. The append changed this slot only, so
            # that the whole cache need not be written.
            slot = lax.div(pos, rows)
            grown = {}
            for name, axis in SLOT_AXIS.items():
                appended = lax.dynamic_slice_in_dim(new[name], slot, 1, axis)
                grown[name] = lax.dynamic_update_slice_in_dim(
                    cache[name], appended, slot, axis
                )
            # Every column ends with the residual stream; one of them walks on.
            return x[:, -1], grown

        return layer

    def _prediction(
        self, x: jax.Array, norm: jax.Array, table: jax.Array, gap: jax.Array
    ) -> tuple[jax.Array, jax.Array]:
        """The next token's id, and the logits `[vocabulary]`."""
        logits, best = self.clock.programs["head"].batched(x, norm, table, gap)
        # The first row holds the logits, the vocabulary's padding at their end.
        return best[0, 0, 0], logits[0].reshape(-1)[: self.config.vocab_size]

    # --- time and space ---

    def read(self, pos: int, band: str = "nominal") -> StepReading:
        """The clock of the step at position `pos`; needs no data.

        Host I/O is not part of it: the next token's id is already where the next step starts.
        """
        self._check(pos)
        return self.clock.read(pos, band)

    def bound(self, pos: int) -> Bound:
        """What keeps a step from being faster: the datapath or the chain of dependencies."""
        self._check(pos)
        return self.clock.bound(pos)

    def trace(self, pos: int, device: Device) -> Trace:
        """What the PE at the origin of each region does during the step at `pos`, in cycles."""
        self._check(pos)
        return self.clock.trace(pos, device.band)

    @property
    def varied(self) -> bool:
        """Whether its attention is another than causal."""
        return self.plan.variants != (None,)

    @property
    def pes(self) -> int:
        """PEs in use on the wafer."""
        return self.plan.pes

    @property
    def bytes_per_pe(self) -> dict[str, dict[str, int]]:
        """Bytes of one PE of a layer's and of the head's region: weights, cache, buffers, code."""
        return {"layer": self.plan.layer_bytes, "head": self.plan.head_bytes}


__all__ = ["Decoder", "StepReading"]
