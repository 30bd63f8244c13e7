"""Regions that a model might be placed in: every sensible height and width, and their bytes."""

import dataclasses
from collections.abc import Iterator
from typing import Protocol

from emu.datasheet import Device
from emu.wse.regions import lay_out
from kernels.wse.decode.estimate import head_cycles
from kernels.wse.decode.form import PLAIN, DecodeForm
from kernels.wse.decode.mapping import HeadMap, LayerMap
from kernels.wse.decode.varied_layer import LayerAttention

# How many heights and head widths are tried; the estimate is flat around its minimum.
ROW_CHOICES = 72
HEAD_CHOICES = 24

TOKEN_BYTES = (
    8  # of a token in the head's region: its logit in float32, and what is summed
)


class LayerVariant(Protocol):
    """A variant of attention before a region is chosen; `kernels.attention.layers` has it."""

    def on(self, layer: LayerMap, device: Device) -> LayerAttention:
        """The variant on a layer's region."""
        ...

    def own_cycles(self, layer: LayerMap, device: Device) -> float:
        """Cycles of its own arithmetic with a full cache, roughly."""
        ...


class ModelSizes(Protocol):
    """A model's sizes under their Hugging Face names."""

    @property
    def hidden_size(self) -> int: ...
    @property
    def intermediate_size(self) -> int: ...
    @property
    def num_hidden_layers(self) -> int: ...
    @property
    def num_attention_heads(self) -> int: ...
    @property
    def num_key_value_heads(self) -> int: ...
    @property
    def head_dim(self) -> int: ...
    @property
    def vocab_size(self) -> int: ...
    @property
    def rms_norm_eps(self) -> float: ...
    @property
    def qk_norm(self) -> bool: ...
    @property
    def tie_word_embeddings(self) -> bool: ...


@dataclasses.dataclass(frozen=True)
class Demand:
    """What is to be placed, and where.

    Attributes:
      model: its sizes.
      context: tokens the cache must hold.
      dtype: of weights and cache.
      device: the wafer.
      variants: of attention; none: causal.
      kinds: which of them each layer has.
      form: what a layer computes beside the plainest one.
    """

    model: ModelSizes
    context: int
    dtype: str
    device: Device
    variants: tuple[LayerVariant, ...] = ()
    kinds: tuple[int, ...] = ()
    form: DecodeForm = PLAIN

    @property
    def tables(self) -> int:
        """Tables of the vocabulary: one where embedding and output head share it."""
        return 1 if self.model.tie_word_embeddings else 2


@dataclasses.dataclass(frozen=True)
class Pair:
    """The region of every layer and the head's, of one height."""

    layer: LayerMap
    head: HeadMap


def layer_map(demand: Demand, rows: int, parts: int) -> LayerMap:
    """The mapping of a model's layers on `rows` x `num_key_value_heads * parts` PEs."""
    model = demand.model
    return LayerMap(
        hidden=model.hidden_size,
        ffn=model.intermediate_size,
        heads=model.num_attention_heads,
        kv_heads=model.num_key_value_heads,
        head_dim=model.head_dim,
        eps=model.rms_norm_eps,
        qk_norm=model.qk_norm,
        context=demand.context,
        rows=rows,
        parts=parts,
        dtype=demand.dtype,
        form=demand.form,
    )


def candidates(demand: Demand) -> Iterator[Pair]:
    """Pairs of regions whose tables and cache leave room for code and which one wafer can hold."""
    device = demand.device
    heads = HeadChoice(demand)
    for layer in layer_candidates(demand):
        head = heads[layer.rows]
        if head is None:
            continue
        regions = lay_out(
            device.grid_width,
            device.grid_height,
            layer.rows,
            layer.cols,
            demand.model.num_hidden_layers,
            head.cols,
        )
        if regions is not None:
            yield Pair(layer, head)


def layer_candidates(demand: Demand) -> Iterator[LayerMap]:
    """Mappings of one layer whose weights and cache leave room for the code, on any wafer."""
    device = demand.device
    half = demand.model.head_dim // 2
    turned = demand.form.rotary_dim
    turned_half = half if turned is None else turned // 2
    most = min(demand.model.hidden_size, device.grid_height)
    step = max(1, most // ROW_CHOICES)
    for parts in range(1, half + 1):
        # A rotation pair must not be parted, so a column gets whole pairs: of 64, on 1, 2, 4, ...
        # 64 columns.
        if half % parts or turned_half % parts:
            continue
        for rows in range(step, most + 1, step):
            layer = layer_map(demand, rows, parts)
            if layer.cols > device.grid_width:
                continue
            # A bound from below, in no time: the exact count traces a program and is made of the
            # few that `plan_wafer` tries.
            if least_bytes(layer, device) < device.sram_bytes:
                yield layer


def least_bytes(layer: LayerMap, device: Device) -> int:
    """Bytes of a layer's PE at the least; `place` counts the program's own."""
    resident = layer.weight_bytes() + layer.cache_bytes()
    return resident + layer.least_buffer_bytes() + device.code_bytes


class HeadChoice(dict[int, HeadMap | None]):
    """The best head region for each height, worked out when first asked for."""

    def __init__(self, demand: Demand):
        super().__init__()
        self.demand = demand

    def __missing__(self, rows: int) -> HeadMap | None:
        # Many layer mappings have one height, and all of them need the same head region.
        self[rows] = best_head(self.demand, rows)
        return self[rows]


def best_head(demand: Demand, rows: int) -> HeadMap | None:
    """The head region of a given height with the fewest estimated cycles, or None."""
    model = demand.model
    device = demand.device
    room = device.sram_bytes - device.code_bytes
    most = min(device.grid_width, model.vocab_size)
    step = max(1, most // HEAD_CHOICES)
    fitting = []
    for cols in range(step, most + 1, step):
        head = HeadMap(
            hidden=model.hidden_size,
            vocab=model.vocab_size,
            eps=model.rms_norm_eps,
            rows=rows,
            cols=cols,
            dtype=demand.dtype,
        )
        tables = demand.tables * head.table_bytes()
        if tables + TOKEN_BYTES * head.tokens < room:
            fitting.append(head)
    return min(fitting, key=lambda head: head_cycles(head, device), default=None)


__all__ = [
    "Demand",
    "HeadChoice",
    "LayerVariant",
    "ModelSizes",
    "Pair",
    "candidates",
    "layer_candidates",
    "layer_map",
    "least_bytes",
]
