"""Regions that a model might be placed in: every sensible height and width, and their bytes.

All regions of a model have one height. Layers whose MLPs differ hold other weights, and may have
regions of another width: of a model with an MLP in some layers and experts in the others, each of
both sorts has its own number of columns per key/value head.
"""

import dataclasses
import itertools
import math
from collections.abc import Iterator, Sequence
from typing import Protocol

from emu.datasheet import Device
from emu.wse.pe.maps import strides_at_full_width
from emu.wse.placement.regions import Rect, lay_out
from kernels.wse.decode.estimate import head_cycles
from kernels.wse.decode.form import PLAIN, DecodeForm
from kernels.wse.decode.held import WIDE, Held
from kernels.wse.decode.mapping import HeadMap, LayerMap, share_of
from kernels.wse.decode.residual import residual_cut
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
class LayerKind:
    """What a layer computes: layers of one kind are one program on weights of their own.

    Attributes:
      form: beside the plainest layer.
      variant: of attention; None: causal.
    """

    form: DecodeForm = PLAIN
    variant: LayerVariant | None = None


@dataclasses.dataclass(frozen=True)
class EndsForm:
    """What both ends of a model compute beside the plainest ones; see `HeadMap`."""

    embedding_scale: float = 1.0
    logit_soft_cap: float | None = None


@dataclasses.dataclass(frozen=True)
class Demand:
    """What is to be placed, and where.

    Attributes:
      model: its sizes.
      context: tokens the cache must hold.
      dtype: of weights and cache.
      device: the wafer.
      kinds: of layers, each once.
      of_layers: which of them each layer is.
      ends: of the embedding and the output head.
      held: what of each layer is in codes.
    """

    model: ModelSizes
    context: int
    dtype: str
    device: Device
    kinds: tuple[LayerKind, ...]
    of_layers: tuple[int, ...]
    ends: EndsForm = EndsForm()
    held: Held = WIDE

    @property
    def in_words(self) -> str:
        """What all is held in, for an error."""
        parts = {"weights": self.held.weights, "a cache": self.held.cache}
        if any(kind.form.mlp is not None for kind in self.kinds):
            parts = {"experts": self.held.experts, **parts}
        told = [f"{x} in {held.name}" for x, held in parts.items() if held is not None]
        return self.dtype + (f" with {' and '.join(told)}" if told else "")

    @property
    def widths(self) -> tuple[int, ...]:
        """Which kinds have regions of one width: a number for each, from 0 on."""
        deciding = [(kind.form.mlp, kind.form.latent) for kind in self.kinds]
        distinct = list(dict.fromkeys(deciding))
        return tuple(distinct.index(each) for each in deciding)

    @property
    def tables(self) -> int:
        """Tables of the vocabulary: one where embedding and output head share it."""
        return 1 if self.model.tie_word_embeddings else 2


Columns = tuple[int, int]
"""Groups of columns, and columns of a group: of each key/value head one group, and of latent
attention as many as deal the heads between them."""

Layers = tuple[LayerMap, ...]
"""The mapping of each kind of layers."""


@dataclasses.dataclass(frozen=True)
class Regions:
    """Regions of one height: of each kind of layers, and the head's."""

    layers: Layers
    head: HeadMap


def layer_map(
    demand: Demand, form: DecodeForm, rows: int, columns: Columns
) -> LayerMap:
    """The mapping of layers of that form on `rows` x `groups * parts` PEs."""
    model = demand.model
    groups, parts = columns
    return LayerMap(
        hidden=model.hidden_size,
        ffn=model.intermediate_size,
        heads=model.num_attention_heads,
        kv_heads=groups,
        head_dim=model.head_dim if form.latent is None else form.latent.cached_width,
        eps=model.rms_norm_eps,
        qk_norm=model.qk_norm,
        context=demand.context,
        rows=rows,
        parts=parts,
        dtype=demand.dtype,
        form=form,
        held=demand.held,
    )


def layer_bytes(demand: Demand, form: DecodeForm) -> int:
    """Bytes of a layer's weights and cache, without padding, buffers or code."""
    # One PE for each key/value head; a latent is of all heads.
    groups = demand.model.num_key_value_heads if form.latent is None else 1
    one_pe = layer_map(demand, form, rows=1, columns=(groups, 1))
    return groups * (one_pe.weight_bytes() + one_pe.cache_bytes())


def candidates(demand: Demand) -> Iterator[Regions]:
    """Regions whose tables and cache leave room for code and which one wafer can hold."""
    heads = HeadChoice(demand)
    for layers in layer_candidates(demand):
        head = heads[layers[0].rows]
        if head is not None and placed(layers, head, demand) is not None:
            yield Regions(layers, head)


def placed(
    layers: Layers, head: HeadMap, demand: Demand
) -> tuple[list[Rect], Rect] | None:
    """Where all layers' regions lie, and the head's; None if one wafer cannot hold them."""
    device = demand.device
    widths = [layers[kind].cols for kind in demand.of_layers]
    return lay_out(device.grid_width, device.grid_height, head.rows, widths, head.cols)


def layer_candidates(demand: Demand) -> Iterator[Layers]:
    """Mappings of all kinds whose weights and cache leave room for the code, on any wafer."""
    most = min(demand.model.hidden_size, demand.device.grid_height)
    step = max(1, most // ROW_CHOICES)
    widths = demand.widths
    of_forms: dict[tuple[DecodeForm, int, Columns], LayerMap | None] = {}

    room = demand.device.sram_bytes - demand.device.code_bytes
    all_bytes = {kind.form: layer_bytes(demand, kind.form) for kind in demand.kinds}

    def mapping(form: DecodeForm, rows: int, columns: Columns) -> LayerMap | None:
        # Kinds differ by variants more than by forms, and combinations are many.
        key = form, rows, columns
        if key not in of_forms:
            # Of most regions it is clear at once: one of DeepSeek-V3's layers is 23 GB.
            is_hopeless = all_bytes[form] > rows * math.prod(columns) * room
            of_forms[key] = None if is_hopeless else fitting_map(demand, *key)
        return of_forms[key]

    choices = [columns_of_width(demand, width) for width in range(max(widths) + 1)]
    for columns in itertools.product(*choices):
        for rows in range(step, most + 1, step):
            layers = [
                mapping(kind.form, rows, columns[width])
                for kind, width in zip(demand.kinds, widths, strict=True)
            ]
            fitting = tuple(layer for layer in layers if layer is not None)
            if len(fitting) == len(layers):
                yield fitting


def columns_of_width(demand: Demand, width: int) -> list[Columns]:
    """Columns that kinds of that width may have, on a wafer at all."""
    model, most = demand.model, demand.device.grid_width
    own = zip(demand.kinds, demand.widths, strict=True)
    forms = [kind.form for kind, number in own if number == width]
    groups = [model.num_key_value_heads]
    if any(form.latent is not None for form in forms):
        groups = groups_of(model.num_attention_heads)
    pairs = itertools.product(groups, parts_of(forms, model.head_dim))
    return [(count, parts) for count, parts in pairs if count * parts <= most]


def groups_of(heads: int) -> list[int]:
    """Groups that may deal the heads between them, of any number of heads each the fewest.

    Of 8 heads in 3 groups each works as long as of 8 in 4 of which the last has two.
    """
    return sorted({-(-heads // each) for each in range(1, heads + 1)})


def parts_of(forms: Sequence[DecodeForm], head_dim: int) -> list[int]:
    """Columns of a group that all those forms may have."""
    halves = set()
    for form in forms:
        if form.latent is not None:
            halves |= {form.latent.rank, form.latent.turned // 2}
            continue
        halves.add(head_dim // 2)
        if form.rotary_dim is not None:
            halves.add(form.rotary_dim // 2)
    # A rotation pair must not be parted, so a column gets whole pairs: of 64, on 1, 2, 4, ... 64
    # columns.
    return [
        parts
        for parts in range(1, max(halves) + 1)
        if not any(each % parts for each in halves)
    ]


def fitting_map(
    demand: Demand, form: DecodeForm, rows: int, columns: Columns
) -> LayerMap | None:
    """`layer_map`, or None where a PE's weights and cache leave no room for the code."""
    layer = layer_map(demand, form, rows, columns)
    if layer.values_are_keys and not strides_at_full_width(layer.held_slots):
        return None
    # A bound from below, in no time: the exact count traces a program and is made of the few that
    # `plan_wafer` tries.
    fits = least_bytes(layer, demand.device) < demand.device.sram_bytes
    return layer if fits else None


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
    depth = share_of(model.hidden_size, rows)
    cut = residual_cut(demand.held, model.hidden_size, depth, rows)
    for cols in range(step, most + 1, step):
        head = HeadMap(
            hidden=model.hidden_size,
            vocab=model.vocab_size,
            eps=model.rms_norm_eps,
            rows=rows,
            cols=cols,
            dtype=demand.dtype,
            embedding_scale=demand.ends.embedding_scale,
            logit_soft_cap=demand.ends.logit_soft_cap,
            cut=cut,
        )
        tables = demand.tables * head.table_bytes()
        if tables + TOKEN_BYTES * head.tokens < room:
            fitting.append(head)
    return min(fitting, key=lambda head: head_cycles(head, device), default=None)


__all__ = [
    "Columns",
    "Demand",
    "EndsForm",
    "HeadChoice",
    "LayerKind",
    "LayerVariant",
    "Layers",
    "ModelSizes",
    "Regions",
    "candidates",
    "columns_of_width",
    "fitting_map",
    "layer_bytes",
    "layer_candidates",
    "layer_map",
    "least_bytes",
    "placed",
]
