"""Decode on a wafer: one token at a time through every layer's region, in numbers and in cycles.

The layers' program is written for one region; running scans it over all layers' weights and
caches, and the clock is read from that same program.
"""

from collections.abc import Callable, Mapping
from typing import Any

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
from models.machines.layer_weights import check_layer_weights
from models.plain.rope import rope_tables

Cache = dict[str, jax.Array]
"""`k` `[layers, rows, cols, dims, slots]` and `v` `[layers, rows, cols, slots, dims]`."""

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
          attention: a variant for all layers, or several as a pattern over them; None: causal.

        Raises:
          CannotLower: a variant's arithmetic that a PE has not, with its line.
          DoesNotFit: the model and the cache do not fit one wafer.
          ModelError: `attention` is none of a model of so many layers.
        """
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
        # The cache is updated in place: its buffer is donated.
        self._step: Any = strict_jit(self._one_token, donate_argnums=1)

    def _lay_out(self, weights: Mapping[str, Any]) -> dict[str, Any]:
        """Every weight on its PEs: `[layers, rows, cols, ...]`, tables `[rows, cols, ...]`."""
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
        placed["layers"] = {name: self._stored(tile) for name, tile in layers.items()}
        return placed

    def _stored(self, values: ArrayLike) -> jax.Array:
        return jnp.asarray(values, self.dtype)

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
        return {name: self._stored(tile) for name, tile in tiles.items()}

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
        token, logits, cache = self._step(*self._arguments(token_id, pos, cache))
        return int(token), logits, cache

    def compile(self) -> None:
        """Compiles a step ahead of the first one."""
        cache = jax.eval_shape(self.empty_cache)
        shapes = jax.tree.map(
            lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype),
            self._arguments(0, 0, cache),
        )
        self._step = self._step.lower(*shapes).compile()

    def _arguments(
        self, token_id: ArrayLike, pos: int, cache: Cache
    ) -> tuple[PyTree, ...]:
        """What `_one_token` takes."""
        self._check(pos)
        token = jnp.asarray(token_id, jnp.int32).reshape(1)
        cos = jnp.asarray(self._cos[pos])
        sin = jnp.asarray(self._sin[pos])
        variants = self.plan.variants
        given = [() if variant is None else variant.given(pos) for variant in variants]
        return self._weights, cache, token, jnp.int32(pos), cos, sin, given

    def _check(self, pos: int) -> None:
        if not 0 <= pos < self.context:
            raise ValueError(
                f"position {pos} is outside the context of {self.context} tokens"
            )

    def _one_token(
        self,
        weights: dict[str, PyTree],
        cache: Cache,
        token: jax.Array,
        pos: jax.Array,
        cos: jax.Array,
        sin: jax.Array,
        given: list[tuple[PyTree, ...]],
    ) -> tuple[jax.Array, jax.Array, Cache]:
        """The step itself: embedding, a scan over the layers' equal regions, output head."""
        programs = self.clock.programs
        # One before every layer, the last before the head.
        gaps = jnp.asarray(self.plan.gaps, jnp.int32)
        # Position p lies in row p % rows, slot p // rows.
        slot = lax.div(pos, jnp.int32(self.plan.layer.rows))

        def run_as(kind: int) -> Callable[..., tuple[jax.Array, Cache]]:
            run = programs[layer_phase(kind)].batched
            return lambda *arguments: run(*arguments, *given[kind])

        cases = [run_as(kind) for kind in range(len(given))]

        def layer(x: jax.Array, one: PyTree) -> tuple[jax.Array, Cache]:
            layer_weights, old, gap, kind = one
            arguments = x, layer_weights, old, cos, sin, pos, gap
            if len(cases) == 1:
                x, new = cases[0](*arguments)
            else:
                x, new = lax.switch(kind, cases, *arguments)
            # The append changed this slot only; the loop then need not write whole caches.
            appended = {
                name: lax.dynamic_slice_in_dim(new[name], slot, 1, SLOT_AXIS[name])
                for name in new
            }
            # Every column ends with the residual stream; one of them walks on.
            return x[:, -1], appended

        x = programs["embed"].batched(weights["embed"], token)[:, 0]
        kinds = jnp.asarray(self.plan.kinds, jnp.int32)
        layers = weights["layers"], cache, gaps[:-1], kinds
        x, appended = lax.scan(layer, x, layers)
        cache = {
            # One axis further on, as the layers stand first.
            name: lax.dynamic_update_slice_in_dim(
                cache[name], appended[name], slot, SLOT_AXIS[name] + 1
            )
            for name in cache
        }
        table = weights["embed" if self.plan.tied else "head"]
        run = programs["head"].batched
        logits, best = run(x, weights["norm"], table, gaps[-1])
        # The first row holds the logits, the vocabulary's padding at their end.
        logits = logits[0].reshape(-1)[: self.config.vocab_size]
        return best[0, 0, 0], logits, cache

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
