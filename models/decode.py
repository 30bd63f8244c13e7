"""Decode on a wafer: one token at a time through every layer's region, in numbers and in cycles.

The layers' program is written for one region. Running scans it over the stacked weights of all
layers; the clock is read from that same program once for each distance between two regions, and
the layers' times add up, because a layer starts only when the one before it is done.
"""

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from emu import Device, Reading, strict_jit
from emu.wse import WSE3
from kernels.wse import layout
from kernels.wse.head import (
    embed_arguments,
    embed_program,
    head_arguments,
    head_program,
)
from kernels.wse.layer import layer_arguments, layer_program
from kernels.wse.plan import Plan, plan
from models.rope import rope_tables

Cache = dict[str, jax.Array]


@dataclasses.dataclass(frozen=True)
class StepReading:
    """The clock of one token.

    Attributes:
      device: machine and band.
      phase_cycles: cycles of `embed`, `layers` (walks included) and `head` (walk included).
      busy_cycles: mean datapath cycles of a PE over all PEs in use.
      flops: floating-point operations, over all PEs.
      sram_read_bytes, sram_write_bytes: traffic of all PEs with their memory.
      wavelet_hops: 32-bit words times router-to-router hops.
      pes: PEs in use.
    """

    device: Device
    phase_cycles: dict[str, int]
    busy_cycles: float
    flops: int
    sram_read_bytes: int
    sram_write_bytes: int
    wavelet_hops: int
    pes: int

    @property
    def cycles(self) -> int:
        """From the token id at the head's corner PE to the next one there."""
        return sum(self.phase_cycles.values())

    @property
    def seconds(self) -> float:
        return self.cycles / self.device.tick_hz


class Decoder:
    """A model resident on one wafer.

    Attributes:
      plan: regions, and bytes per PE by kind.
      programs: `embed`, `layer` and `head`, each the source of values and of time.
    """

    def __init__(
        self,
        config: Any,
        weights: Mapping[str, Any],
        context: int,
        dtype: str = "float32",
        device: Device | None = None,
        placed: Plan | None = None,
    ):
        """Lays the weights out, once.

        Args:
          config: sizes under their Hugging Face names.
          weights: `embed` [V, d], `norm` [d], `head` [d, V] unless tied, and `layers`, stacked.
          context: most tokens, prompt included.
          dtype: of weights and cache: float32, bfloat16 or float16.
          device: the wafer; a WSE-3 by default.
          placed: regions to use; by default the fastest by estimate that fit.

        Raises:
          DoesNotFit: the model and the cache do not fit one wafer.
        """
        self.config, self.context, self.dtype = config, context, dtype
        self.device = device or WSE3.at()
        self.plan = placed or plan(config, context, dtype, self.device)
        self.programs = {
            "embed": embed_program(self.plan.head),
            "layer": layer_program(self.plan.layer),
            "head": head_program(self.plan.head),
        }
        self._params = self._lay_out(weights)
        turns = rope_tables(config, np.arange(context))
        self._turns = tuple(layout.turn_tiles(t, self.plan.layer) for t in turns)
        self._readings: dict[Any, Reading] = {}

    def _lay_out(self, weights: Mapping[str, Any]) -> dict[str, Any]:
        head = self.plan.head
        put = lambda x: jnp.asarray(x, self.dtype)  # noqa: E731
        tables = {"embed": np.asarray(weights["embed"]).T}
        if not self.plan.tied:
            tables["head"] = weights["head"]
        layers = layout.layer_weights(weights["layers"], self.plan.layer)
        return {
            "layers": {k: put(w) for k, w in layers.items()},
            "norm": put(layout.head_norm(weights["norm"], head)),
            **{k: put(layout.head_table(t, head)) for k, t in tables.items()},
        }

    # --- values ---

    def cache_from(self, k: Any, v: Any) -> Cache:
        """A prefilled cache on its PEs.

        Args:
          k: keys after RoPE, `[layers, n, kv_heads, head_dim]`, n at most `context`.
          v: values, alike.
        """
        if k.shape[1] > self.context:
            raise ValueError(f"{k.shape[1]} tokens for a context of {self.context}")
        tiles = layout.cache_tiles(k, v, self.plan.layer)
        return {name: jnp.asarray(x, self.dtype) for name, x in tiles.items()}

    def empty_cache(self) -> Cache:
        """A cache without tokens."""
        c = self.config
        none = np.zeros((c.num_hidden_layers, 0, c.num_key_value_heads, c.head_dim), np.float32)
        return self.cache_from(none, none)

    def step(self, token_id: Any, pos: int, cache: Cache) -> tuple[jax.Array, jax.Array, Cache]:
        """Runs one token.

        Args:
          token_id: the token at position `pos`.
          pos: how many tokens the cache holds.
          cache: is consumed; use the one returned.

        Returns:
          The next token's id (int32 scalar), the logits, float32 `[vocab]`, and the cache.
        """
        if not 0 <= pos < self.context:
            raise ValueError(f"position {pos} is outside the context of {self.context} tokens")
        cos, sin = (t[pos] for t in self._turns)
        token = jnp.asarray(token_id, jnp.int32).reshape(1)
        return self._step(self._params, cache, token, jnp.int32(pos), cos, sin)

    @functools.cached_property
    def _step(self) -> Any:
        return strict_jit(self._one_token, donate_argnums=1)

    def _one_token(
        self, params: Any, cache: Cache, token: Any, pos: Any, cos: Any, sin: Any
    ) -> tuple[jax.Array, jax.Array, Cache]:
        layer, gaps = self.programs["layer"].batched, jnp.asarray(self.plan.gaps, jnp.int32)

        def body(x: jax.Array, slices: Any) -> Any:
            w, old, gap = slices
            x, new = layer(x, w, old, cos, sin, pos, gap)
            return x[:, -1], new

        x = self.programs["embed"].batched(params["embed"], token)[:, 0]
        x, cache = lax.scan(body, x, (params["layers"], cache, gaps[:-1]))
        table = params["embed" if self.plan.tied else "head"]
        logits, best = self.programs["head"].batched(x, params["norm"], table, gaps[-1])
        logits = logits[0].reshape(-1)[: self.config.vocab_size]
        return best[0, 0, 0], logits, cache

    # --- time ---

    def read(self, pos: int, band: str = "nominal") -> StepReading:
        """The clock of the step at position `pos`; needs no data.

        Host I/O is not part of it: the next token's id is already where the next step starts.
        """
        if not 0 <= pos < self.context:
            raise ValueError(f"position {pos} is outside the context of {self.context} tokens")
        *gaps, head_gap = self.plan.gaps
        embed, head = self._read("embed", band), self._read("head", band, head_gap)
        layers = [self._read("layer", band, pos, gap) for gap in gaps]
        phases = {
            "embed": embed.end_ticks,
            "layers": sum(r.end_ticks for r in layers),
            "head": head.end_ticks,
        }
        every = [embed, *layers, head]
        total = lambda kind, key: sum(r.tally.by(kind).get(key, 0) for r in every)  # noqa: E731
        busy = sum(r.busy_ticks["datapath"] * r.cores for r in every)
        return StepReading(
            embed.device, phases, busy / self.plan.pes, sum(r.tally.flops for r in every),
            total("bytes", "sram_read"), total("bytes", "sram_write"),
            total("other", "wavelet_hops"), self.plan.pes,
        )  # fmt: skip

    def _read(self, phase: str, band: str, *at: int) -> Reading:
        """A program's reading, kept: the embedding's and the head's serve every position."""
        key = (phase, band, *at)
        if key not in self._readings:
            shapes = {
                "embed": lambda: embed_arguments(self.plan.head),
                "layer": lambda: layer_arguments(self.plan.layer, *at),
                "head": lambda: head_arguments(self.plan.head, *at),
            }
            device = self.device.sheet.at(band)
            self._readings[key] = self.programs[phase].read(device, *shapes[phase]())
        return self._readings[key]

    def bytes_per_pe(self) -> dict[str, dict[str, int]]:
        """Bytes of one PE of a layer's and of the head's region: weights, cache, buffers, code."""
        return {"layer": self.plan.layer_bytes, "head": self.plan.head_bytes}


__all__ = ["Decoder", "StepReading"]
