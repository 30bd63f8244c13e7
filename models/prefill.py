"""Prefill on a ring of Trainium3 chips: packed weights, and one program to run and to read."""

import dataclasses
import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from emu import Device, Program, Reading
from kernels.trainium import head
from kernels.trainium.layer import layer
from kernels.trainium.tiling import LayerTiling, tile_tokens
from models.config import ModelConfig
from models.pack import pack_weights
from models.rope import rope_tables

AXIS = "ring"


@dataclasses.dataclass(frozen=True)
class PrefillResult:
    """What prefill computed.

    Attributes:
      token: the first generated token, the lowest id among the largest logits.
      logits: float32 `[vocabulary]` of the last prompt token.
      k: `[layers, tokens, kv_heads, head_dim]`, rotated, in the prefill's dtype.
      v: the same shape.
    """

    token: int
    logits: np.ndarray
    k: np.ndarray
    v: np.ndarray


@dataclasses.dataclass(frozen=True)
class PrefillReading:
    """The clock of one prefill under one band.

    Attributes:
      clock: times and counts of the whole program.
      layer_done_s: when each layer's keys and values stand complete in the last chip's HBM.
    """

    clock: Reading
    layer_done_s: list[float]


class Prefill:
    """One model's prefill of prompts of one length on a ring of chips.

    Attributes:
      tiling: how a layer is cut on each chip.
      program: the kernel on its mesh; run and read alike.
    """

    def __init__(self, config: ModelConfig, weights: Any, *, tokens: int, chips: int, dtype: Any):
        """Packs the weights.

        Args:
          config: sizes.
          weights: canonical pytree of arrays, or of `ShapeDtypeStruct` to read the clock only.
          tokens: prompt length, at least 1.
          chips: size of the ring, at least 1; one NeuronCore of each runs.
          dtype: of weights, activations and the cache; sums are float32.
        """
        self.config, self.tokens, self.chips = config, tokens, chips
        self.dtype = jnp.dtype(dtype)
        blocks, tiles, rows = tile_tokens(
            math.ceil(tokens / chips), config.hidden_size, config.intermediate_size, dtype
        )
        self.tiling = LayerTiling(
            config.hidden_size, config.intermediate_size, config.num_attention_heads,
            config.num_key_value_heads, config.head_dim, config.rms_norm_eps, config.qk_norm,
            blocks, tiles, rows, self.dtype,
        )  # fmt: skip
        self.weights = pack_weights(weights, self.tiling)
        self.program = Program(
            functools.partial(
                prefill_kernel, s=self.tiling, chips=chips, last=(tokens - 1) % self.tiling.tokens,
                owner=(tokens - 1) // self.tiling.tokens,
            ),
            {AXIS: chips},
            in_specs=((), (AXIS,), (AXIS,), (AXIS,)),
        )  # fmt: skip

    @functools.cached_property
    def tables(self) -> tuple[np.ndarray, np.ndarray]:
        """RoPE tables of every chip's positions, float32 `[chips, blocks, tiles, rows, half]`."""
        s = self.tiling
        cos, sin = rope_tables(self.config, np.arange(self.chips * s.tokens))
        shape = (self.chips, s.blocks, s.tiles, s.rows, s.head_dim // 2)
        return np.asarray(cos).reshape(shape), np.asarray(sin).reshape(shape)

    def arguments(self, prompt: list[int]) -> tuple[Any, ...]:
        """The program's arguments for a prompt; padding repeats token 0, which no query sees."""
        s = self.tiling
        ids = np.zeros(self.chips * s.tokens, np.int32)
        ids[: self.tokens] = prompt
        ids = ids.reshape(self.chips, s.blocks, s.tiles, s.rows)
        return self.weights, jnp.asarray(ids), *map(jnp.asarray, self.tables)

    def compile(self, prompt: list[int]) -> Any:
        """The compiled program, to be handed to `run`."""
        return self.program.compiled.lower(*self.arguments(prompt)).compile()  # type: ignore

    def run(self, prompt: list[int], compiled: Any = None) -> PrefillResult:
        """Prefills a prompt of `tokens` tokens."""
        call = compiled or self.program.compiled
        pieces, k, v = call(*self.arguments(prompt))
        owner = (self.tokens - 1) // self.tiling.tokens
        parts = [np.asarray(logits[owner], np.float32).ravel() for logits, _ in pieces]
        logits = np.concatenate(parts)
        return PrefillResult(int(self._first(pieces, owner)), logits, *self.cache(k, v))

    def _first(self, pieces: Any, owner: int) -> int:
        """The first token, from each column block's own maximum."""
        best, token, base = -np.inf, 0, 0
        for logits, places in pieces:
            rows = np.asarray(logits[owner])[:, 0]
            for row, place in zip(rows, np.asarray(places[owner])[:, 0, 0], strict=True):
                if row[place] > best:
                    best, token = row[place], base + int(place)
                base += rows.shape[1]
        return token

    def cache(self, k: Any, v: Any) -> tuple[np.ndarray, np.ndarray]:
        """Keys and values as `[layers, tokens, kv_heads, head_dim]`, padding dropped.

        Args:
          k: `[chips, layers, token tiles, kv_heads, head_dim, rows]`.
          v: `[chips, layers, token tiles, rows, kv_heads · head_dim]`.
        """
        c, layers = self.config, k.shape[1]
        shape = (layers, -1, c.num_key_value_heads, c.head_dim)
        keys = np.asarray(k).transpose(1, 0, 2, 5, 3, 4).reshape(shape)
        values = np.asarray(v).transpose(1, 0, 2, 3, 4).reshape(shape)
        return keys[:, : self.tokens], values[:, : self.tokens]

    def read(self, device: Device, **options: Any) -> PrefillReading:
        """Reads the clock; needs no data.

        Raises:
          EmulationError: the program does not fit the machine.
        """
        clock = self.program.read(device, *self.abstract(), **options)
        keys = clock.outputs[-2]
        done = [int(np.max(r)) / device.tick_hz for r in keys.steps or []]
        return PrefillReading(clock, done)

    def memory(self, device: Device) -> dict[str, int]:
        """Peak bytes per memory space of one core.

        Raises:
          OutOfMemory: a space is too small.
        """
        return self.program.memory(device, *self.abstract())

    def release(self) -> None:
        """Drops the packed weights; the clock can still be read."""
        self.weights = self.abstract()[0]

    def abstract(self) -> tuple[Any, ...]:
        """Shapes and dtypes of `arguments`."""
        s, chips = self.tiling, self.chips
        tokens = (chips, s.blocks, s.tiles, s.rows)
        table = jax.ShapeDtypeStruct((*tokens, s.head_dim // 2), jnp.float32)
        struct = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), self.weights)
        return struct, jax.ShapeDtypeStruct(tokens, jnp.int32), table, table

    @property
    def useful_flops(self) -> int:
        """FLOPs the model itself asks for: no padding, no masked scores; multiply-add counts 2."""
        return useful_flops(self.config, self.tokens)


def useful_flops(config: ModelConfig, tokens: int) -> int:
    """Matrix products of a prefill: every layer for every token, one token's logits.

    Causal attention has `n (n + 1) / 2` scores a head, each of `head_dim` multiply-adds, twice.
    """
    c = config
    heads = c.num_attention_heads
    fused = (heads + 2 * c.num_key_value_heads) * c.head_dim
    linear = c.hidden_size * (fused + heads * c.head_dim + 3 * c.intermediate_size)
    attention = heads * c.head_dim * tokens * (tokens + 1)
    per_layer = 2 * linear * tokens + 2 * attention
    return c.num_hidden_layers * per_layer + 2 * c.hidden_size * c.vocab_size


def prefill_kernel(
    weights: Any, ids: Any, cos: Any, sin: Any, *, s: LayerTiling, chips: int, last: int, owner: int
) -> tuple[Any, Any, Any]:
    """The whole prefill on one core: embedding, every layer, the last token's logits.

    Returns:
      `lm_head`'s pieces, and k and v stacked over layers.
    """

    def one(x: Any, w: Any) -> tuple[Any, Any]:
        x, k, v = layer(x, cos, sin, w, s, chips=chips, axis=AXIS)
        return x, (k, v)

    x = head.embed(ids, weights["embed"], s)
    x, (k, v) = lax.scan(one, x, weights["layers"])
    mine = lax.axis_index(AXIS) == owner
    pieces = head.lm_head(x, weights["norm"], weights["heads"], s, row=last, mine=mine)
    return pieces, k, v


__all__ = ["Prefill", "PrefillReading", "PrefillResult", "useful_flops"]
