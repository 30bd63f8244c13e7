"""What is to be placed on wafers: a model's sizes, its layers' kinds, context, users, wafers."""

import dataclasses
import functools
from typing import Protocol

from emu.datasheet import Device
from kernels.wse.decode.form import PLAIN, DecodeForm
from kernels.wse.decode.held import WIDE, Held
from kernels.wse.decode.mapping import LayerMap
from kernels.wse.decode.varied_layer import LayerAttention


class LayerVariant(Protocol):
    """A variant of attention before a region is chosen; `kernels.attention.layers` has it."""

    def on(self, layer: LayerMap, device: Device) -> LayerAttention:
        """The variant on a layer's region."""
        ...

    def own_cycles(self, layer: LayerMap, device: Device) -> float:
        """Cycles beyond those of causal attention with a full cache, roughly."""
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
      context: tokens that each user's cache must hold.
      dtype: of weights and cache.
      device: the wafer.
      kinds: of layers, each once.
      of_layers: which of them each layer is.
      ends: of the embedding and the output head.
      held: what of each layer is in codes.
      users: whose caches stand in every layer's region.
      wafers: how many there are; None: as few as hold it.
    """

    model: ModelSizes
    context: int
    dtype: str
    device: Device
    kinds: tuple[LayerKind, ...]
    of_layers: tuple[int, ...]
    ends: EndsForm = EndsForm()
    held: Held = WIDE
    users: int = 1
    wafers: int | None = None

    @property
    def in_words(self) -> str:
        """What all is held in, for an error."""
        parts = {"weights": self.held.weights, "a cache": self.held.cache}
        if any(kind.form.mlp is not None for kind in self.kinds):
            parts = {"experts": self.held.experts, **parts}
        told = [f"{x} in {held.name}" for x, held in parts.items() if held is not None]
        return self.dtype + (f" with {' and '.join(told)}" if told else "")

    @functools.cached_property
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
    """Bytes of a layer's weights and all users' caches, without padding, buffers or code."""
    # One PE for each key/value head; a latent is of all heads.
    groups = demand.model.num_key_value_heads if form.latent is None else 1
    one_pe = layer_map(demand, form, rows=1, columns=(groups, 1))
    caches = demand.users * one_pe.cache_bytes()
    return groups * (one_pe.weight_bytes() + caches)


__all__ = [
    "Columns",
    "Demand",
    "EndsForm",
    "LayerKind",
    "LayerVariant",
    "ModelSizes",
    "layer_bytes",
    "layer_map",
]
