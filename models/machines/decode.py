"""Decode on wafers: one token at a time through every layer's region, in numbers and in cycles.

A kind of layers has one program, written for one region; running calls it for one layer after
another, and the clock is read from that same program. A layer that is the first on its wafer has
the same program but for its beginning, which takes the activation over the wafers' edges.

Each layer's weights and cache are buffers of their own. Those of a `scan` are parts of stacked ones
at an index that is known as it runs: XLA on a CPU (JAX 0.10) reads that index anew for every
element, and so computes one element at a time.
"""

from collections.abc import Callable, Generator, Mapping, Sequence
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.typing import ArrayLike

from emu import Device, strict_jit
from emu.annotations import DType, PyTree
from emu.report.bands import Bound
from emu.wse import WSE3
from kernels.wse.decode import layout
from kernels.wse.decode.cache_format import CACHED, is_cached
from kernels.wse.decode.held import Held
from kernels.wse.decode.layout import CodedTokens
from kernels.wse.decode.plan import WaferPlan, plan_wafer
from kernels.wse.decode.token import StepReading, TokenClock, Trace, layer_phase
from models.attention_pattern import Attention
from models.config import ModelConfig
from models.errors import ModelError
from models.family_attention import own_attention
from models.layer_form import Rotation
from models.machines.decode_kinds import ends_of, kinds_of, temperature_at
from models.machines.layer_weights import check_forms, check_layer_weights
from models.plain.rope import rope_tables
from models.precision import Precision, as_precision

LayerCache: TypeAlias = dict[str, jax.Array]
"""`k` `[rows, cols, dims, slots]` and `v` `[rows, cols, slots, dims]` of one layer; of latents,
which are part of their keys, `k` alone; of codes also `k_scale` and `v_scale`
`[rows, cols, 1, slots]`, of latents `k_scale` `[rows, cols, 2, slots]`, or `k_powers` and
`v_powers` `[rows, cols, runs, slots]`."""

Cache: TypeAlias = list[LayerCache]
"""Of all layers, in order."""


class Step(NamedTuple):
    """What a step computes.

    Attributes:
      token: the next token's id.
      logits: float32 `[vocab]`.
      cache: grown by the token.
      experts: of each layer, the numbers of the experts that were chosen, int32 `[chosen]`, the
        best first; None: a layer without experts.
    """

    token: int
    logits: jax.Array
    cache: Cache
    experts: list[np.ndarray | None]


# Which dimension of one layer's cache, `[rows, cols, ...]`, is the slots.
SLOT_AXIS = {
    **{"k": 3, "v": 2, "k_scale": 3, "v_scale": 3},
    **{"k_powers": 3, "v_powers": 3},
}


class Decoder:
    """A model resident on one wafer or several.

    Each user has a cache, which a step takes and gives back: `empty_cache` makes one.

    Attributes:
      plan: which region does what, and the bytes of its PEs.
      precision: what weights and cache are held in.
      clock: the programs of embedding, layer and head, and their readings.
    """

    def __init__(
        self,
        config: ModelConfig,
        weights: Mapping[str, Any],
        context: int,
        dtype: DType | Precision = "float32",
        device: Device | None = None,
        placed: WaferPlan | None = None,
        attention: Attention = None,
        users: int = 1,
        wafers: int | None = None,
    ):
        """Lays the weights out, once.

        Args:
          config: sizes under their Hugging Face names.
          weights: the canonical pytree: `embed` [V, d], `norm` [d], `head` [d, V] unless tied, and
            `layers`, each stacked over the layers that have it.
          context: most tokens of a user, prompt included.
          dtype: of weights and cache: float32, bfloat16 or float16; or a plan whose weights are in
            codes. Activations are wide here whatever a plan says of them: a PE multiplies numbers,
            and makes its weights' codes such first.
          device: a wafer; a WSE-3 by default.
          placed: regions to use, with their variants; by default the fastest by estimate that fit.
          attention: a variant for all layers, or several as a pattern over them; None: the model's
            own.
          users: whose caches stand in every layer's region.
          wafers: how many the model is cut over, between layers; None: the fewest that hold it.

        Raises:
          CannotLower: a variant's arithmetic that a PE has not, with its line.
          DoesNotFit: the model and the caches do not fit so many wafers.
          ModelError: the model computes what the wafer's kernels do not, or `attention` is none of
            a model of so many layers.
        """
        check_forms(config, "decode")
        if attention is None:
            attention = own_attention(config, weights, scales=True)
        self.config = config
        self.context = context
        self.precision = as_precision(dtype)
        self.dtype = jnp.dtype(self.precision.wide)
        device = device or WSE3.at()
        self.plan = placed or plan_wafer(
            config,
            context,
            self.dtype.name,
            device,
            *kinds_of(config, attention),
            ends_of(config),
            held_of(self.precision),
            users=users,
            wafers=wafers,
        )
        # Behind the plan: a model that fits no wafer is refused before its weights are looked at.
        check_layer_weights(weights["layers"], config, "decode")
        self.clock = TokenClock(self.plan, device)
        self._weights = self._lay_out(weights)
        # Layers of one kind may turn by other angles.
        rotations = [form.attention.rotation for form in config.forms]
        self._turned = list(zip(self.plan.of_layers, rotations, strict=True))
        self._turns = {
            (kind, rotation): self._turn_tiles(kind, rotation)
            for kind, rotation in dict.fromkeys(self._turned)
        }
        # One before every layer, the last before the head.
        self._hops = [jnp.int32(way.hops) for way in self.plan.ways]
        # Which program each layer runs: of its kind, as its activation comes in.
        *ways, last = self.plan.ways
        self._programs = [
            (kind, way.crosses)
            for kind, way in zip(self.plan.of_layers, ways, strict=True)
        ]
        self._embed: Any = strict_jit(self._embedding)
        # The cache is updated in place: its buffers are donated.
        self._layers: dict[tuple[int, bool], Any] = {
            program: strict_jit(self._layer_of(*program), donate_argnames="cache")
            for program in dict.fromkeys(self._programs)
        }
        self._head: Any = strict_jit(self._prediction_of(last.crosses))

    def _turn_tiles(
        self, kind: int, rotation: Rotation | None
    ) -> tuple[layout.Tiles, layout.Tiles]:
        """Cosines and sines `[context, cols, turned_pairs]` of layers of that kind."""
        layer, positions = self.plan.kinds[kind].map, np.arange(self.context)
        if rotation is None:
            none = layout.turn_tiles(np.zeros((self.context, 0)), layer)
            return none, none
        # A step computes the last token of a sequence that is just as long.
        cos, sin = rope_tables(self.config, positions, positions + 1, rotation)
        return layout.turn_tiles(cos, layer), layout.turn_tiles(sin, layer)

    def _lay_out(self, weights: Mapping[str, Any]) -> dict[str, Any]:
        """Every weight on its PEs, `[rows, cols, ...]`; those of layers by layer."""
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
        placed["layers"] = [
            self._layer_tiles(weights["layers"], layer)
            for layer in range(self.config.num_hidden_layers)
        ]
        return placed

    def _layer_tiles(
        self, stacked: Mapping[str, Any], layer: int
    ) -> dict[str, jax.Array]:
        """One layer's weights on its PEs."""
        own = {}
        for name, layers in self.config.layers_with.items():
            if layer in layers:
                place = layers.index(layer)
                own[name] = stacked[name][place : place + 1]
        held = self.plan.layers[layer].map
        dtypes = held.weight_dtypes()
        tiles = layout.layer_weights(own, held)
        return {name: jnp.asarray(x[0], dtypes[name]) for name, x in tiles.items()}

    def _stored(self, values: ArrayLike) -> jax.Array:
        return jnp.asarray(values, self.dtype)

    # --- values ---

    def cache_from(
        self, k: np.ndarray | CodedTokens, v: np.ndarray | CodedTokens
    ) -> Cache:
        """A prefilled cache on its PEs.

        Args:
          k: keys after RoPE, `[layers, n, kv_heads, head_dim]`, n at most `context`. Of latents,
            what turns of them, `[layers, n, turned]`. Of a cache in codes, numbers or codes.
          v: values, alike. Of latents, these after their norm, `[layers, n, rank]`.
        """
        if k.shape[1] > self.context:
            raise ValueError(f"{k.shape[1]} tokens for a context of {self.context}")
        cache: Cache = []
        for layer, kind in enumerate(self.plan.layers):
            own = slice(layer, layer + 1)
            held = kind.map.held.cache
            if held is None:
                assert isinstance(k, np.ndarray) and isinstance(v, np.ndarray)
                tiles = layout.cache_tiles(k[own], v[own], kind.map)
            else:
                tiles = layout.coded_cache_tiles(k[own], v[own], kind.map, held)
            dtypes = kind.map.cache_dtypes()
            cache.append({x: jnp.asarray(y[0], dtypes[x]) for x, y in tiles.items()})
        return cache

    def empty_cache(self) -> Cache:
        """A cache without tokens."""
        config = self.config

        def none(*of_token: int) -> np.ndarray:
            return np.zeros((config.num_hidden_layers, 0, *of_token), np.float32)

        if config.latent is not None:
            turned, rank = config.latent.turned, config.latent.rank
            return self.cache_from(none(turned), none(rank))
        heads = (config.num_key_value_heads, config.head_dim)
        return self.cache_from(none(*heads), none(*heads))

    def step(
        self, token_id: ArrayLike, pos: int, cache: Cache
    ) -> tuple[int, jax.Array, Cache]:
        """The next token's id, the logits and the cache of `run`, which takes the same."""
        return self.run(token_id, pos, cache)[:3]

    def run(self, token_id: ArrayLike, pos: int, cache: Cache) -> Step:
        """Runs one token.

        Args:
          token_id: the token at position `pos`.
          pos: how many tokens the cache holds.
          cache: is consumed; use the one returned.
        """
        walk = self.walk(token_id, pos, cache)
        while True:
            try:
                next(walk)
            except StopIteration as done:
                return done.value

    def walk(
        self, token_id: ArrayLike, pos: int, cache: Cache
    ) -> Generator[None, None, Step]:
        """Runs one token region by region: it stops behind the embedding and behind each layer.

        Several tokens of a user may be on their way at once, each a region behind the one before,
        as a layer takes its cache out of `cache` when it runs.

        Args:
          token_id, pos, cache: of `run`; each layer's cache is replaced in `cache` as it grows.
        """
        self._check(pos)
        token = np.asarray(token_id, np.int32).reshape(1)
        turns, given = self._at(pos)
        *hops, last_hops = self._hops
        weights = self._weights
        x = self._embed(weights["embed"], token)
        yield
        where = jnp.int32(pos)
        experts: list[jax.Array | None] = []
        tiles = zip(weights["layers"], hops, strict=True)
        which = zip(self._programs, self._turned, strict=True)
        each = zip(tiles, which, strict=True)
        for layer, ((of_layer, gap), (program, turned)) in enumerate(each):
            kind, _ = program
            at = *turns[turned], where, gap
            run = self._layers[program]
            x, cache[layer], chosen = run(x, of_layer, cache[layer], *at, *given[kind])
            experts.append(chosen)
            yield
        best, logits = self._head(x, weights["norm"], self._head_table, last_hops)
        numbers = [
            None if chosen is None else self._experts_of(layer, chosen)
            for layer, chosen in enumerate(experts)
        ]
        return Step(int(best), logits, cache, numbers)

    def _experts_of(self, layer: int, chosen: jax.Array) -> np.ndarray:
        """A layer's chosen experts without those that every token goes to."""
        experts = self.config.forms[layer].experts
        assert experts is not None
        return np.asarray(chosen)[: experts.chosen].astype(np.int32)

    def compile(self) -> None:
        """Compiles a step ahead of the first one."""
        weights = self._weights
        token = jax.ShapeDtypeStruct((1,), jnp.int32)
        turns, given = self._at(0)
        *_, gap = self._hops
        x = jax.eval_shape(self._embed, weights["embed"], token)
        self._embed = self._embed.lower(weights["embed"], token).compile()
        for program, run in self._layers.items():
            kind, _ = program
            first = self._programs.index(program)
            layer = weights["layers"][first], self._cache_structs(first)
            at = *turns[self._turned[first]], jnp.int32(0), gap
            lowered = run.lower(x, *layer, *at, *given[kind])
            self._layers[program] = lowered.compile()
        head = self._head.lower(x, weights["norm"], self._head_table, gap)
        self._head = head.compile()

    def _cache_structs(self, layer: int) -> dict[str, jax.ShapeDtypeStruct]:
        """Shapes of a layer's cache on its PEs."""
        held = self.plan.layers[layer].map
        dtypes, pes = held.cache_dtypes(), (held.rows, held.cols)
        return {
            name: jax.ShapeDtypeStruct((*pes, *shape), jnp.dtype(dtypes[name]))
            for name, shape in held.cache_shapes().items()
        }

    @property
    def _head_table(self) -> jax.Array:
        return self._weights["embed" if self.plan.tied else "head"]

    def _at(
        self, pos: int
    ) -> tuple[
        dict[tuple[int, Rotation | None], tuple[jax.Array, jax.Array]],
        Sequence[tuple[PyTree, ...]],
    ]:
        """What layers are told of a position: each one's rotation, and each kind's own."""
        # Both at once, and not again for each layer.
        turns = {
            turned: jax.device_put((cos[pos], sin[pos]))
            for turned, (cos, sin) in self._turns.items()
        }
        given = []
        for kind in self.plan.kinds:
            own: tuple[PyTree, ...] = ()
            if kind.map.form.has_temperature:
                assert self.config.temperature is not None
                own = (temperature_at(self.config.temperature, pos),)
            if kind.attention is not None:
                own = (*own, *kind.attention.given(pos))
            given.append(own)
        return turns, given

    def _check(self, pos: int) -> None:
        if not 0 <= pos < self.context:
            raise ValueError(
                f"position {pos} is outside the context of {self.context} tokens"
            )

    def _embedding(self, table: jax.Array, token: jax.Array) -> jax.Array:
        """The residual stream before the first layer, `[rows, depth]`."""
        return self.clock.programs["embed", False].batched(table, token)[:, 0]

    def _layer_of(
        self, kind: int, crosses: bool
    ) -> Callable[..., tuple[jax.Array, LayerCache, jax.Array | None]]:
        """A layer of that kind: the residual stream behind it, its cache, and chosen experts."""
        run = self.clock.programs[layer_phase(kind), crosses].batched
        rows = jnp.int32(self.plan.kinds[kind].map.rows)

        def layer(
            x: jax.Array,
            weights: PyTree,
            cache: LayerCache,
            cos: jax.Array,
            sin: jax.Array,
            pos: jax.Array,
            gap: jax.Array,
            *given: PyTree,
        ) -> tuple[jax.Array, LayerCache, jax.Array | None]:
            x, new, chosen = run(x, weights, cache, cos, sin, pos, gap, *given)
            # Position p lies in row p % rows, slot p // rows. The append changed this slot only, so
            # that the whole cache need not be written.
            slot = lax.div(pos, rows)
            grown = {}
            for name in cache:
                axis = SLOT_AXIS[name]
                appended = lax.dynamic_slice_in_dim(new[name], slot, 1, axis)
                grown[name] = lax.dynamic_update_slice_in_dim(
                    cache[name], appended, slot, axis
                )
            # Every column ends with the residual stream; one of them walks on.
            # So does it with the chosen experts, which all PEs know.
            return x[:, -1], grown, None if chosen is None else chosen[0, 0]

        return layer

    def _prediction_of(
        self, crosses: bool
    ) -> Callable[..., tuple[jax.Array, jax.Array]]:
        """The output head: the next token's id, and the logits `[vocabulary]`."""
        run = self.clock.programs["head", crosses].batched

        def prediction(
            x: jax.Array, norm: jax.Array, table: jax.Array, gap: jax.Array
        ) -> tuple[jax.Array, jax.Array]:
            logits, best = run(x, norm, table, gap)
            # The first row holds the logits, the vocabulary's padding at their end.
            return best[0, 0, 0], logits[0].reshape(-1)[: self.config.vocab_size]

        return prediction

    # --- time and space ---

    def read(self, pos: int, band: str = "nominal") -> StepReading:
        """The clock of the step at position `pos`; needs no data.

        The token's way to the host and back is a phase of its own, `host`.
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
        """Whether its attention is another than causal in any layer."""
        return any(kind.attention is not None for kind in self.plan.kinds)

    @property
    def pes(self) -> int:
        """PEs in use on all wafers."""
        return self.plan.pes

    @property
    def bytes_per_pe(self) -> dict[str, dict[str, int]]:
        """Bytes of one PE of a layer's and of the head's region: weights, cache, buffers, code."""
        return {"layer": self.plan.layer_bytes, "head": self.plan.head_bytes}


def held_of(plan: Precision) -> Held:
    """What a layer on the wafer has in codes under a plan.

    Raises:
      ModelError: a cache in codes that whole models have not.
    """
    if plan.cache.is_coded and not is_cached(plan.cache):
        raise ModelError(
            f"decode: a whole model's cache must be in {plan.wide} or one of {', '.join(CACHED)}, "
            f"got {plan.cache.name}; attention alone may have others, see "
            "`kernels.attention.decode`"
        )
    parts = plan.weights, plan.experts, plan.cache
    return Held(*(held if held.is_coded else None for held in parts))


__all__ = ["Decoder", "StepReading", "held_of"]
