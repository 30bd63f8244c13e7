"""Regions that a model might be placed in: every sensible height and width, and their bytes.

All regions of a model have one height. Layers whose MLPs differ hold other weights, and may have
regions of another width: of a model with an MLP in some layers and experts in the others, each of
both sorts has its own number of columns per key/value head.
"""

import dataclasses
import itertools
import math
from collections.abc import Iterator, Sequence

from emu.datasheet import Device
from emu.wse.pe.maps import strides_at_full_width
from emu.wse.placement.wafers import MOST_WAFERS, Ground, fewest_wafers
from kernels.wse.decode.demand import Columns, Demand, layer_bytes, layer_map
from kernels.wse.decode.estimate import head_cycles, layer_cycles
from kernels.wse.decode.form import DecodeForm
from kernels.wse.decode.mapping import HeadMap, LayerMap, share_of
from kernels.wse.decode.residual import residual_cut

# How many heights and head widths are tried; the estimate is flat around its minimum.
ROW_CHOICES = 72
HEAD_CHOICES = 24

TOKEN_BYTES = (
    8  # of a token in the head's region: its logit in float32, and what is summed
)


Layers = tuple[LayerMap, ...]
"""The mapping of each kind of layers."""


@dataclasses.dataclass(frozen=True)
class Regions:
    """Regions of one height: of each kind of layers, and the head's.

    Attributes:
      layers: the mapping of each kind.
      head: of embedding and output head.
      cycles: of a token, roughly.
      wafers: the fewest that have room for all.
    """

    layers: Layers
    head: HeadMap
    cycles: float
    wafers: int


@dataclasses.dataclass(frozen=True)
class Choice:
    """Regions of some columns for the kinds of layers of one width.

    Attributes:
      layers: the mapping of each of these kinds, by number.
      cycles: of a token's way through all layers of these kinds, roughly.
      nbytes: of the fullest PE, at the least.
    """

    layers: dict[int, LayerMap]
    cycles: float
    nbytes: int

    @property
    def cols(self) -> int:
        return next(iter(self.layers.values())).cols

    def is_beaten_by(self, other: "Choice") -> bool:
        """Whether another is as good or better in all three ways, and narrower, in one."""
        mine, others = ((each.cols, each.cycles, each.nbytes) for each in (self, other))
        return mine != others and all(y <= x for x, y in zip(mine, others, strict=True))


def candidates(demand: Demand) -> Iterator[Regions]:
    """Regions whose tables and caches leave room for code, on as many wafers as may be."""
    heads = HeadChoice(demand)
    for layers, cycles in layer_candidates(demand):
        head = heads[layers[0].rows]
        if head is None:
            continue
        widths = [layers[kind].cols for kind in demand.of_layers]
        wafers = fewest_wafers(ground_of(demand.device, head.rows), widths, head.cols)
        if wafers is not None and wafers <= (demand.wafers or MOST_WAFERS):
            total = cycles + head_cycles(head, demand.device)
            yield Regions(layers, head, total, wafers)


def ground_of(device: Device, rows: int) -> Ground:
    """Wafers for regions of that height."""
    return Ground(device.grid_width, device.grid_height, rows)


def layer_candidates(demand: Demand) -> Iterator[tuple[Layers, float]]:
    """Mappings of all kinds whose weights and caches leave room for the code, on any wafer.

    With each, roughly, the cycles of a token's way through all layers.
    """
    most = min(demand.model.hidden_size, demand.device.grid_height)
    step = max(1, most // ROW_CHOICES)
    widths = range(max(demand.widths) + 1)
    columns = [columns_of_width(demand, width) for width in widths]
    needed = [_bytes_of_width(demand, width) for width in widths]
    room = demand.device.sram_bytes - demand.device.code_bytes
    for rows in range(step, most + 1, step):
        choices = []
        for width in widths:
            # Of most regions it is clear at once: one of DeepSeek-V3's layers is 23 GB.
            hopeful = [
                each
                for each in columns[width]
                if needed[width] <= rows * math.prod(each) * room
            ]
            found = [choice_of(demand, width, rows, each) for each in hopeful]
            choices.append(_best([choice for choice in found if choice is not None]))
        for chosen in itertools.product(*choices):
            layers: dict[int, LayerMap] = {}
            for choice in chosen:
                layers |= choice.layers
            in_order = tuple(layers[kind] for kind in range(len(demand.kinds)))
            yield in_order, sum(choice.cycles for choice in chosen)


def _bytes_of_width(demand: Demand, width: int) -> int:
    """Bytes of the largest layer of a width."""
    own = zip(demand.kinds, demand.widths, strict=True)
    return max(layer_bytes(demand, kind.form) for kind, x in own if x == width)


def choice_of(demand: Demand, width: int, rows: int, columns: Columns) -> Choice | None:
    """Regions of that size for the kinds of a width, or None where one has no room on them."""
    layers: dict[int, LayerMap] = {}
    of_forms: dict[DecodeForm, tuple[LayerMap, int] | None] = {}
    cycles, most = 0.0, 0
    for number, kind in enumerate(demand.kinds):
        if demand.widths[number] != width:
            continue
        # Kinds differ by variants more than by forms.
        if kind.form not in of_forms:
            of_forms[kind.form] = fitting_map(demand, kind.form, rows, columns)
        fitting = of_forms[kind.form]
        if fitting is None:
            return None
        layer, nbytes = fitting
        each = layer_cycles(layer, demand.device)
        if kind.variant is not None:
            each += kind.variant.own_cycles(layer, demand.device)
        layers[number] = layer
        cycles += demand.of_layers.count(number) * each
        most = max(most, nbytes)
    return Choice(layers, cycles, most)


def _best(choices: Sequence[Choice]) -> list[Choice]:
    """Those that no other beats: narrower, faster or with more room left."""
    return [
        choice
        for choice in choices
        if not any(choice.is_beaten_by(other) for other in choices)
    ]


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
) -> tuple[LayerMap, int] | None:
    """`layer_map` and its `least_bytes`, or None where these leave no room for the code."""
    layer = layer_map(demand, form, rows, columns)
    if layer.values_are_keys and not strides_at_full_width(layer.held_slots):
        return None
    # A bound from below, in no time: the exact count traces a program and is made of the few that
    # `plan_wafer` tries.
    nbytes = least_bytes(layer, demand)
    return (layer, nbytes) if nbytes < demand.device.sram_bytes else None


def least_bytes(layer: LayerMap, demand: Demand) -> int:
    """Bytes of a layer's PE at the least; `place` counts the program's own."""
    resident = layer.weight_bytes() + demand.users * layer.cache_bytes()
    return resident + layer.least_buffer_bytes() + demand.device.code_bytes


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
    "Choice",
    "HeadChoice",
    "Layers",
    "Regions",
    "candidates",
    "choice_of",
    "columns_of_width",
    "fitting_map",
    "ground_of",
    "layer_candidates",
    "least_bytes",
]
