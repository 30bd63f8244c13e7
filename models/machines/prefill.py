"""Prefill on a ring of Trainium3 chips: packed weights, and one program to run and to read.

Tokens are spread over the chips; heads, FFN columns and vocabulary over the cores of each chip.
"""

import dataclasses
import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from emu import Device, Known, Program, Reading
from emu.trainium.datasheets import TRN3, NeuronCoreSheet
from kernels.masks.catalogue import causal
from kernels.tokens.choose import Slots, choose
from kernels.tokens.placement import PLACEMENTS
from kernels.trainium.context.ring import Ring
from kernels.trainium.layer import head
from kernels.trainium.layer.layer import layer
from kernels.trainium.layer.ring import attention_tiling, layer_ring
from kernels.trainium.layer.tiling import LayerTiling, tile_tokens
from models.config import ModelConfig
from models.machines.pack import pack_weights, specs
from models.machines.tensor_parallel import Shares, divide_model
from models.plain.rope import rope_tables

CHIP, CORE = "ring", "core"  # mesh axes


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
      shares: what each core of a chip holds.
      tiling: how a core's share of a layer is cut.
      program: the kernel on its mesh; run and read alike.
    """

    def __init__(
        self,
        config: ModelConfig,
        weights: Any,
        *,
        tokens: int,
        chips: int,
        cores: int = 1,
        dtype: Any,
        placement: str = "contiguous",
        chip: NeuronCoreSheet = TRN3,
    ):
        """Packs the weights.

        Args:
          config: sizes.
          weights: canonical pytree of arrays, or of `ShapeDtypeStruct` to read the clock only.
          tokens: prompt length, at least 1.
          chips: size of the ring, at least 1.
          cores: NeuronCores of each chip that run, at least 1.
          dtype: of weights, activations and the cache; sums are float32.
          placement: of the prompt's tokens on the chips, one of `PLACEMENTS`, or `auto`: the one
            with the least work on the busiest chip, hop by hop.
          chip: whose SBUF the tiles are cut for.
        """
        self.config = config
        self.tokens = tokens
        self.chips = chips
        self.cores = cores
        self.dtype = jnp.dtype(dtype)
        self.shares = divide_model(config, cores)
        tiling = functools.partial(
            layer_tiling,
            config,
            self.shares,
            math.ceil(tokens / chips),
            self.dtype,
            chip=chip,
        )
        self.placement = placement
        if placement == "auto":
            self.placement = choose_placement(tiling, tokens, chips)
        self.tiling = s = tiling(self.placement)
        self.ring = layer_ring(
            s, tokens=tokens, chips=chips, axis=CHIP, placement=self.placement
        )
        self.weights = pack_weights(weights, self.tiling, self.shares)
        core_axis = CORE if cores > 1 else None
        self.program = Program(
            functools.partial(
                prefill_kernel,
                s=s,
                ring=self.ring.ring,
                core_axis=core_axis,
                last=self._last[1],
                owner=self.owner,
            ),
            {CHIP: chips} | ({core_axis: cores} if core_axis else {}),
            in_specs=(specs(self.weights, core_axis), *((CHIP,),) * 4, ()),
        )

    @property
    def owner(self) -> int:
        """The chip that holds the prompt's last token."""
        return self._last[0]

    @functools.cached_property
    def _last(self) -> tuple[int, int]:
        """Chip and slot of the prompt's last token."""
        chip, slot = np.argwhere(self.ring.where.positions() == self.tokens - 1)[0]
        return int(chip), int(slot)

    @property
    def held(self) -> list[int]:
        """Tokens that each chip holds, without padding."""
        return (self.ring.where.positions() < self.tokens).sum(1).tolist()

    @functools.cached_property
    def tables(self) -> tuple[np.ndarray, np.ndarray]:
        """RoPE tables of every chip's positions, float32 `[chips, blocks, tiles, rows, half]`."""
        s = self.tiling
        cos, sin = rope_tables(self.config, self.ring.where.positions().ravel())
        shape = (self.chips, s.blocks, s.tiles, s.rows, s.head_dim // 2)
        return np.asarray(cos).reshape(shape), np.asarray(sin).reshape(shape)

    def arguments(self, prompt: list[int]) -> tuple[Any, ...]:
        """The program's arguments for a prompt; padding repeats token 0, which no query sees."""
        s = self.tiling
        ids = self.ring.where.spread(np.asarray(prompt, np.int32))
        ids = ids.reshape(self.chips, s.blocks, s.tiles, s.rows)
        known = jax.tree.map(
            lambda x: jnp.asarray(x.value),
            self.ring.known(with_masks=True),
            is_leaf=lambda x: isinstance(x, Known),
        )
        biases = jnp.asarray(self.ring.hops.biases(jnp.bfloat16))
        return (
            self.weights,
            jnp.asarray(ids),
            *map(jnp.asarray, self.tables),
            known,
            biases,
        )

    def compile(self, prompt: list[int]) -> Any:
        """The compiled program, to be handed to `run`."""
        return self.program.compiled.lower(*self.arguments(prompt)).compile()  # type: ignore

    def run(self, prompt: list[int], compiled: Any = None) -> PrefillResult:
        """Prefills a prompt of `tokens` tokens."""
        call = compiled or self.program.compiled
        pieces, k, v = call(*self.arguments(prompt))
        if self.cores == 1:  # the mesh then has no axis of cores
            pieces, k, v = jax.tree.map(lambda x: x[:, None], (pieces, k, v))
        logits = np.empty(self.config.vocab_size, np.float32)
        parts = [
            np.asarray(x[self.owner], np.float32).reshape(self.cores, -1)
            for x, _ in pieces
        ]
        logits[self.shares.vocabulary] = np.concatenate(parts, axis=1)
        return PrefillResult(int(self._first(pieces)), logits, *self.cache(k, v))

    def _first(self, pieces: Any) -> int:
        """The first token, from each column block's own maximum."""
        best, token = -np.inf, 0
        for core, columns in enumerate(self.shares.vocabulary):
            base = int(columns[0])
            for logits, places in pieces:
                rows = np.asarray(logits[self.owner, core])[:, 0]
                places = np.asarray(places[self.owner, core])[:, 0, 0]
                for row, place in zip(rows, places, strict=True):
                    if row[place] > best:
                        best, token = row[place], base + int(place)
                    base += rows.shape[1]
        return token

    def cache(self, k: Any, v: Any) -> tuple[np.ndarray, np.ndarray]:
        """Keys and values as `[layers, tokens, kv_heads, head_dim]`, padding and copies dropped.

        Args:
          k: `[chips, cores, layers, token tiles, kv_heads, head_dim, rows]`.
          v: `[chips, cores, layers, token tiles, rows, kv_heads · head_dim]`.
        """
        d = self.config.head_dim
        owners = self.shares.kv_owners()
        where = self.ring.where
        v = np.asarray(v).reshape(*v.shape[:-1], -1, d)
        # To [chips, layers, token tiles, rows, cores, kv_heads, head_dim].
        k = np.asarray(k).transpose(0, 2, 3, 6, 1, 4, 5)
        v = v.transpose(0, 2, 3, 4, 1, 5, 6)
        shape = *k.shape[:2], where.slots, self.shares.kv_heads.size, d
        keys, values = (
            where.collect(x.reshape(shape), axis=1)[:, :, owners] for x in (k, v)
        )
        return keys, values

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
        struct = jax.tree.map(
            lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), self.weights
        )
        known = self.ring.known(with_masks=False)
        bias = jax.ShapeDtypeStruct((1, s.rows, s.kv_tiles * s.rows), jnp.bfloat16)
        return (
            struct,
            jax.ShapeDtypeStruct(tokens, jnp.int32),
            table,
            table,
            known,
            bias,
        )

    @property
    def useful_flops(self) -> int:
        """FLOPs the model itself asks for: no padding, no masked scores; multiply-add counts 2."""
        return useful_flops(self.config, self.tokens)


def layer_tiling(
    config: ModelConfig,
    shares: Shares,
    tokens: int,
    dtype: Any,
    placement: str = "contiguous",
    *,
    chip: NeuronCoreSheet,
) -> LayerTiling:
    """How one core cuts its share of a layer for the chip's `tokens`."""
    heads, kv_heads, ffn = (
        x.shape[1] for x in (shares.heads, shares.kv_heads, shares.ffn)
    )
    chunks = 2 if placement == "zigzag" else 1
    blocks, tiles, rows = tile_tokens(
        tokens,
        config.hidden_size,
        ffn,
        dtype,
        chunks,
        sbuf_partition_bytes=chip.sbuf_partition_bytes,
    )
    return LayerTiling(
        config.hidden_size,
        ffn,
        heads,
        kv_heads,
        config.head_dim,
        config.rms_norm_eps,
        config.qk_norm,
        blocks,
        tiles,
        rows,
        dtype,
        chunks,
    )


def choose_placement(
    tiling: Callable[[str], LayerTiling], tokens: int, chips: int
) -> str:
    """The placement of least causal work; `tiling` gives sizes for a placement."""

    own = {name: attention_tiling(tiling(name)) for name in PLACEMENTS}

    def slots(placement: str) -> Slots:
        s = own[placement]
        return Slots(s.slots, s.rows, s.block_tiles * s.rows, s.columns)

    return choose(
        causal,
        tokens,
        chips,
        slots_of=slots,
        hop_tiles=1.0,
        cost=lambda name: own[name].block_cost,
    ).name


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
    weights: Any,
    ids: Any,
    cos: Any,
    sin: Any,
    work: Any,
    patterns: Any,
    *,
    s: LayerTiling,
    ring: Ring,
    core_axis: str | None,
    last: int,
    owner: int,
) -> tuple[Any, Any, Any]:
    """The whole prefill on one core: embedding, every layer, the last token's logits.

    Returns:
      `lm_head`'s pieces, and k and v stacked over layers.
    """

    def one(x: Any, w: Any) -> tuple[Any, Any]:
        x, k, v = layer(
            x, cos, sin, w, work, patterns, s, ring=ring, core_axis=core_axis
        )
        return x, (k, v)

    x = head.embed(ids, weights["embed"], s)
    x, (k, v) = lax.scan(one, x, weights["layers"])
    mine = lax.axis_index(CHIP) == owner
    pieces = head.lm_head(x, weights["norm"], weights["heads"], s, row=last, mine=mine)
    return pieces, k, v


__all__ = ["Prefill", "PrefillReading", "PrefillResult", "useful_flops"]
