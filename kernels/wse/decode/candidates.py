"""Regions that a layer or the head might be placed in: sensible heights and widths, their bytes.

Layers whose MLPs differ hold other weights, and may have regions of another width: of a model with
an MLP in some layers and experts in the others, each of both sorts has its own number of columns
per key/value head.
"""

import dataclasses
import itertools
import math
from collections.abc import Iterator, Sequence

import jax.numpy as jnp
import numpy as np

from emu.wse.pe.maps import strides_at_full_width
from kernels.wse.decode.demand import Columns, Demand, layer_bytes, layer_map
from kernels.wse.decode.estimate import head_cycles, layer_cycles
from kernels.wse.decode.form import DecodeForm
from kernels.wse.decode.held import SHORT_PIECE_CODES
from kernels.wse.decode.mapping import HeadMap, LayerMap, share_of
from kernels.wse.decode.residual import residual_cut

# How many heights and head widths are tried; the estimate is flat around its minimum.
ROW_CHOICES = 72
HEAD_CHOICES = 24

TOKEN_BYTES = (
    8  # of a token in the head's region: its logit in float32, and what is summed
)


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

    @property
    def merits(self) -> tuple[int, float, int]:
        """What is better the less of it there is: columns, cycles, bytes."""
        return self.cols, self.cycles, self.nbytes


def layer_candidates(demand: Demand) -> Iterator[tuple[LayerMap, float]]:
    """Mappings of the only kind whose weights and cache leave room for the code, on any wafer.

    With each, roughly, the cycles of a token's way through the layer.
    """
    choices = Choices(demand)
    for rows in heights(demand):
        for choice in choices.of(rows, 0, demand.device.grid_width):
            yield choice.layers[0], choice.cycles


def heights(demand: Demand) -> range:
    """Rows that regions may have."""
    most = min(demand.model.hidden_size, demand.device.grid_height)
    step = max(1, most // ROW_CHOICES)
    return range(step, most + 1, step)


class Choices:
    """Regions for the kinds of each width, worked out when first asked for.

    Bytes take a fifth of the time that cycles take, and most regions are out by their bytes or by
    how wide they are.
    """

    def __init__(self, demand: Demand):
        self.demand = demand
        most = max(demand.device.grid_width, demand.device.grid_height)
        widths = range(max(demand.widths) + 1)
        self._columns = [
            sorted(columns_of_width(demand, width, most), key=math.prod)
            for width in widths
        ]
        self._forms = [_forms_of_width(demand, width) for width in widths]
        self._hopeful: dict[tuple[int, int], list[Columns]] = {}
        self._fitting: dict[tuple[int, int, Columns], Fitting | None] = {}
        self._choices: dict[tuple[int, int, Columns], Choice] = {}

    def hopeful(self, rows: int, width: int) -> list[Columns]:
        """Columns on which so many rows have bytes enough for a bound, the fewest first.

        Of most regions it is clear at once: one of DeepSeek-V3's layers is 23 GB.
        """
        key = rows, width
        if key not in self._hopeful:
            device, columns = self.demand.device, self._columns[width]
            cols = np.array([math.prod(each) for each in columns])
            bounds = [
                bytes_at_least(self.demand, x, rows, cols) for x in self._forms[width]
            ]
            has_room = np.max(bounds, axis=0) < device.sram_bytes - device.code_bytes
            self._hopeful[key] = list(itertools.compress(columns, has_room))
        return self._hopeful[key]

    def has_room(self, rows: int, width: int, columns: Columns) -> bool:
        """Whether all kinds of a width have room on such a region."""
        return self._fit(rows, width, columns) is not None

    def of(self, rows: int, width: int, most: int) -> list[Choice]:
        """Of at most so many columns, those that no other beats.

        Narrower, faster or with more room left.
        """
        found = []
        for columns in self.hopeful(rows, width):
            if math.prod(columns) > most:
                break
            if self.has_room(rows, width, columns):
                found.append(self._choice(rows, width, columns))
        return _best(found)

    def _fit(self, rows: int, width: int, columns: Columns) -> "Fitting | None":
        key = rows, width, columns
        if key not in self._fitting:
            self._fitting[key] = self._fitting_maps(rows, width, columns)
        return self._fitting[key]

    def drop(self, width: int, layer: LayerMap) -> bool:
        """Takes out a region, on which a kind of that width has turned out to have no room.

        Where experts are in codes, the same region with smaller pieces of them made wide at once
        comes in its place, a little slower. Whether one does.
        """
        key = layer.rows, width, (layer.kv_heads, layer.parts)
        maps, self._fitting[key] = self._fitting[key], None
        self._choices.pop(key, None)
        has_codes = layer.form.mlp is not None and layer.held.experts is not None
        if maps is None or not has_codes or layer.piece_codes <= SHORT_PIECE_CODES:
            return False
        self._fitting[key] = {
            form: (dataclasses.replace(found, piece_codes=SHORT_PIECE_CODES), nbytes)
            for form, (found, nbytes) in maps.items()
        }
        return True

    def _fitting_maps(
        self, rows: int, width: int, columns: Columns
    ) -> "Fitting | None":
        # Kinds differ by variants more than by forms.
        maps: Fitting = {}
        for form in self._forms[width]:
            fitting = fitting_map(self.demand, form, rows, columns)
            if fitting is None:
                return None
            maps[form] = fitting
        return maps

    def _choice(self, rows: int, width: int, columns: Columns) -> Choice:
        key = rows, width, columns
        if key not in self._choices:
            maps = self._fit(rows, width, columns)
            assert maps is not None
            self._choices[key] = choice_of(self.demand, width, maps)
        return self._choices[key]


Fitting = dict[DecodeForm, tuple[LayerMap, int]]
"""The mapping of layers of each form, and the bytes of its fullest PE, at the least."""


def _best(choices: list[Choice]) -> list[Choice]:
    """Those that no other beats: as good or better in all merits, and better in one."""
    best: list[Choice] = []
    # What beats another comes before it in the order of their merits.
    for choice in sorted(choices, key=lambda choice: choice.merits):
        columns, cycles, nbytes = choice.merits
        if not any(
            other.cycles <= cycles
            and other.nbytes <= nbytes
            and other.merits != (columns, cycles, nbytes)
            for other in best
        ):
            best.append(choice)
    return best


def bytes_at_least(
    demand: Demand, form: DecodeForm, rows: int, cols: np.ndarray
) -> np.ndarray:
    """Of a PE on so many rows, and each of so many columns: the MLP's slices are whole numbers.

    On 672 rows and 512 columns a PE has 11 x 4 of an expert's 7,168 x 2,048, which are 10.67 x 4;
    on 1,120 and 384 7 x 6, which are 6.4 x 5.33.
    """
    model, mlp = demand.model, form.mlp
    held = demand.held.weights if mlp is None else demand.held.experts
    width = model.intermediate_size if mlp is None else mlp.ffn
    each = float(jnp.dtype(demand.dtype).itemsize)
    if held is not None:
        each = held.element_bits / 8
    # Gate, up and down.
    each *= 3 * (1 if mlp is None else mlp.tiles)
    others = layer_bytes(demand, form) - each * model.hidden_size * width
    slices = -(-model.hidden_size // rows) * -(-width // cols)
    return each * slices + others / (rows * cols)


def _forms_of_width(demand: Demand, width: int) -> list[DecodeForm]:
    """What the kinds of a width compute, each once."""
    own = zip(demand.kinds, demand.widths, strict=True)
    return list(dict.fromkeys(kind.form for kind, number in own if number == width))


def choice_of(demand: Demand, width: int, maps: Fitting) -> Choice:
    """The kinds of a width on such regions."""
    layers: dict[int, LayerMap] = {}
    of_forms = {form: layer_cycles(maps[form][0], demand.device) for form in maps}
    cycles, most = 0.0, 0
    for number, kind in enumerate(demand.kinds):
        if demand.widths[number] != width:
            continue
        layer, nbytes = maps[kind.form]
        each = of_forms[kind.form]
        if kind.variant is not None:
            each += kind.variant.own_cycles(layer, demand.device)
        layers[number] = layer
        cycles += demand.of_layers.count(number) * each
        most = max(most, nbytes)
    return Choice(layers, cycles, most)


def columns_of_width(demand: Demand, width: int, most: int) -> list[Columns]:
    """Columns that kinds of that width may have, of at most so many."""
    model, forms = demand.model, _forms_of_width(demand, width)
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


def heads_of(demand: Demand, rows: int) -> list[tuple[HeadMap, float]]:
    """Head regions of a given height with room for the tables, and their estimated cycles.

    The quickest first.
    """
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
            fitting.append((head, head_cycles(head, device)))
    return sorted(fitting, key=lambda found: found[1])


__all__ = [
    "Choice",
    "Choices",
    "choice_of",
    "columns_of_width",
    "fitting_map",
    "heads_of",
    "heights",
    "layer_candidates",
    "least_bytes",
]
