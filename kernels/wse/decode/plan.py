"""The regions for a whole model on one wafer: fastest by estimate among those that really fit."""

import dataclasses
import functools
import itertools
from collections.abc import Sequence

import jax.numpy as jnp

from emu.datasheet import Device
from emu.errors import OutOfMemory
from emu.wse.placement.regions import DoesNotFit, Rect, gap_hops, in_bands
from kernels.refusal import refuse
from kernels.wse.decode import sizes
from kernels.wse.decode.candidates import (
    Demand,
    EndsForm,
    HeadChoice,
    LayerKind,
    ModelSizes,
    Regions,
    candidates,
    layer_bytes,
    layer_candidates,
    least_bytes,
    placed,
)
from kernels.wse.decode.estimate import head_cycles, layer_cycles
from kernels.wse.decode.head import (
    embed_arguments,
    embed_program,
    head_arguments,
    head_program,
)
from kernels.wse.decode.held import WIDE, Held
from kernels.wse.decode.layer import layer_arguments, layer_program
from kernels.wse.decode.mapping import HeadMap, LayerMap
from kernels.wse.decode.varied_layer import LayerAttention

Bytes = dict[str, int]
"""Bytes of a PE by kind: weights, cache, buffers, code."""


@dataclasses.dataclass(frozen=True)
class PlacedKind:
    """A kind of layers on regions of its own.

    Attributes:
      map: what each PE holds, with slots for the variant's view of the cache.
      attention: the variant there; None: causal.
      bytes: of the fullest PE: weights, cache, buffers, code, and the variant's tables.
    """

    map: LayerMap
    attention: LayerAttention | None
    bytes: Bytes


@dataclasses.dataclass(frozen=True)
class WaferPlan:
    """A model on a wafer.

    Attributes:
      kinds: of layers, each once.
      of_layers: which of them each layer is.
      regions: each layer's rectangle, in the order of the layers.
      head: what each PE of the head's region holds.
      head_region: the rectangle of embedding and output head.
      tied: whether one table serves both ends.
      head_bytes: of the fullest PE of the head's region: weights, buffers, code.
    """

    kinds: tuple[PlacedKind, ...]
    of_layers: tuple[int, ...]
    regions: tuple[Rect, ...]
    head: HeadMap
    head_region: Rect
    tied: bool
    head_bytes: Bytes

    @property
    def layers(self) -> tuple[PlacedKind, ...]:
        """The kind of each layer."""
        return tuple(self.kinds[kind] for kind in self.of_layers)

    @property
    def layer_bytes(self) -> Bytes:
        """Bytes of the fullest PE of all layers' regions."""
        return max((kind.bytes for kind in self.kinds), key=lambda x: sum(x.values()))

    @property
    def pes(self) -> int:
        """PEs used in all."""
        of_layers = sum(region.pes for region in self.regions)
        return of_layers + self.head_region.pes

    @property
    def gaps(self) -> tuple[int, ...]:
        """Hops into each layer's region, then into the head's."""
        # A token begins and ends at the head's region, which holds the embedding too.
        stops = (self.head_region, *self.regions, self.head_region)
        hops = []
        for behind, ahead in itertools.pairwise(stops):
            hops.append(gap_hops(behind, ahead))
        return tuple(hops)


def plan_wafer(
    config: ModelSizes,
    context: int,
    dtype: str,
    device: Device,
    kinds: Sequence[LayerKind] = (LayerKind(),),
    of_layers: Sequence[int] = (),
    ends: EndsForm = EndsForm(),
    held: Held = WIDE,
) -> WaferPlan:
    """Chooses regions and checks, byte by byte, that they fit.

    Args:
      config: the model's sizes.
      context: tokens the cache must hold.
      dtype: of weights and cache.
      device: the wafer.
      kinds: of layers, each once.
      of_layers: which of them each layer is; none: all are the first.
      ends: what embedding and output head compute.
      held: what of each layer is in codes; tables and norms are in `dtype`.

    Raises:
      CannotLower: a variant's arithmetic that a PE has not, with the user's line.
      DoesNotFit: no choice fits one wafer; it says how many wafers or which context would do.
    """
    sizes.check_wafer(device)
    sizes.within("context", context, 1, sizes.MOST)
    sizes.check_dtype(dtype)
    sizes.check_whole(
        config,
        *("hidden_size", "intermediate_size", "num_hidden_layers", "vocab_size"),
        *("num_attention_heads", "num_key_value_heads", "head_dim"),
    )
    layers = config.num_hidden_layers
    of_layers = tuple(int(kind) for kind in of_layers) or (0,) * layers
    if len(of_layers) != layers:
        refuse(
            f"of_layers has {len(of_layers)} kinds, must have one for {layers} layers"
        )
    for kind in of_layers:
        sizes.within("a layer's kind", kind, 0, len(kinds) - 1)
    demand = Demand(config, context, dtype, device, tuple(kinds), of_layers, ends, held)
    counts = [of_layers.count(kind) for kind in range(len(kinds))]
    of_map = functools.cache(functools.partial(layer_cycles, device=device))

    def token_cycles(regions: Regions) -> float:
        total = head_cycles(regions.head, device)
        each = zip(counts, demand.kinds, regions.layers, strict=True)
        for count, kind, layer in each:
            total += count * of_map(layer)
            if kind.variant is not None:
                total += count * kind.variant.own_cycles(layer, device)
        return total

    # Counting a PE's bytes traces its programs, so the fastest by estimate are counted first, until
    # one fits.
    for regions in sorted(candidates(demand), key=token_cycles):
        plan = place(regions, demand)
        if plan is not None:
            return plan
    raise refusal(demand)


def place(regions: Regions, demand: Demand) -> WaferPlan | None:
    """The plan of chosen regions, or None where a PE's bytes do not fit."""
    head = regions.head
    device = demand.device
    places = placed(regions.layers, head, demand)
    head_bytes = head_figures(head, demand.tables, device)
    if places is None or head_bytes is None:
        return None
    kinds = []
    for kind, layer in zip(demand.kinds, regions.layers, strict=True):
        placed_kind = place_kind(kind, layer, device)
        if placed_kind is None:
            return None
        kinds.append(placed_kind)
    of_layers, head_region = places
    return WaferPlan(
        tuple(kinds),
        demand.of_layers,
        tuple(of_layers),
        head,
        head_region,
        bool(demand.model.tie_word_embeddings),
        head_bytes,
    )


def place_kind(kind: LayerKind, layer: LayerMap, device: Device) -> PlacedKind | None:
    """A kind of layers on its region, or None where a PE's bytes do not fit."""
    attention = None
    if kind.variant is not None:
        attention = kind.variant.on(layer, device)
        spare = max(0, attention.map.held_slots - layer.slots)
        layer = dataclasses.replace(layer, spare_slots=spare)
    figures = layer_figures(layer, device, attention)
    return None if figures is None else PlacedKind(layer, attention, figures)


def layer_figures(
    layer: LayerMap, device: Device, variant: LayerAttention | None = None
) -> Bytes | None:
    """Bytes of a layer's PE by kind, from the memory of the very program; None if too many."""
    program = layer_program(layer, variant)
    try:
        peak = program.memory(device, *layer_arguments(layer, 0, 0, variant))["sram"]
    except OutOfMemory:
        return None
    tables = 0 if variant is None else variant.table_bytes
    resident = layer.weight_bytes() + tables
    figures = _figures(peak, resident, layer.cache_bytes(), device)
    if figures is None or not tables:
        return figures
    return {**figures, "weights": layer.weight_bytes(), "tables": tables}


def head_figures(head: HeadMap, tables: int, device: Device) -> Bytes | None:
    """Bytes of a PE of the head's region by kind; None if too many.

    Embedding and output head run one after the other: the larger one's buffers count. Each of the
    two programs holds one table; the PE holds both, and the norm.
    """
    norm = head.depth * head.itemsize
    try:
        at_head = head_program(head).memory(device, *head_arguments(head, 0))
        at_embedding = embed_program(head).memory(device, *embed_arguments(head))
    except OutOfMemory:
        return None
    # The norm is resident and counted once, below; without it the two peaks are one table and
    # buffers each.
    peak = max(at_head["sram"] - norm, at_embedding["sram"])
    buffers = peak - head.table_bytes()
    resident = head.table_bytes() * tables + norm
    return _figures(resident + buffers, resident, 0, device)


def _figures(peak: int, weights: int, cache: int, device: Device) -> Bytes | None:
    if peak + device.code_bytes > device.sram_bytes:
        return None
    return {
        "weights": weights,
        "cache": cache,
        "buffers": peak - weights - cache,
        "code": device.code_bytes,
    }


def refusal(demand: Demand) -> DoesNotFit:
    """Why nothing fits, and the number of wafers or the context that would do."""
    device = demand.device
    needed = wafers(demand)
    shorter = largest_context(demand)
    pes = device.grid_width * device.grid_height
    had = pes * (device.sram_bytes - device.code_bytes)
    remedies = []
    if needed:
        remedies.append(f"{needed} wafers would hold it, cut at layer boundaries")
    if shorter:
        remedies.append(f"a context of {shorter} tokens would fit one")
    if not remedies:
        remedies.append("no number of wafers would do: a layer is too large")
    return DoesNotFit(
        f"{device.name}: the model with a context of {demand.context:,} tokens in "
        f"{demand.in_words} needs at least {model_bytes(demand):,} bytes of sram, a wafer has "
        f"{had:,} beside its code, and no cut into regions of at most {device.sram_bytes:,} "
        f"bytes a PE was found; {'; '.join(remedies)}",
        wafers=needed,
        context=shorter,
    )


def model_bytes(demand: Demand) -> int:
    """Bytes of all weights and the cache, without padding, buffers or code."""
    model = demand.model
    table = model.vocab_size * model.hidden_size * jnp.dtype(demand.dtype).itemsize
    total = demand.tables * table
    for kind in demand.of_layers:
        total += layer_bytes(demand, demand.kinds[kind].form)
    return total


def wafers(demand: Demand) -> int | None:
    """Wafers that would hold the model by the closed form."""
    device = demand.device
    heads = HeadChoice(demand)
    counts = []
    for layers in layer_candidates(demand):
        rows = layers[0].rows
        head = heads[rows]
        a_wafer = device.grid_height // rows
        if head is None or not a_wafer:
            continue
        widths = [layers[kind].cols for kind in demand.of_layers]
        bands = len(in_bands(device.grid_width, [*widths, head.cols]))
        counts.append(-(-bands // a_wafer))
    if not counts:
        return None
    return max(2, min(counts))  # one was tried, region by region, and did not do


def largest_context(demand: Demand) -> int | None:
    """A context below the one asked for that really fits one wafer; nearly the largest."""
    # Weights alone may be too many: then no context will do, and none need be tried.
    if not fits_with(demand, 1):
        return None
    low = 0
    high = demand.context
    # `low` fits and `high` does not. A context of 8,000 is told to 125 tokens, as every trial
    # traces a program.
    while high - low > max(1, low // 64):
        middle = (low + high) // 2
        if fits_with(demand, middle):
            low = middle
        else:
            high = middle
    return low or None


def fits_with(demand: Demand, context: int) -> bool:
    """Whether the model fits one wafer with so long a cache, on the regions with the most room."""
    tried = dataclasses.replace(demand, context=context)
    # Where even the region with the most room by the closed form overflows, that context is too
    # long.
    roomiest = min(
        candidates(tried),
        key=lambda regions: max(least_bytes(x, demand.device) for x in regions.layers),
        default=None,
    )
    return roomiest is not None and place(roomiest, tried) is not None


__all__ = [
    "PlacedKind",
    "WaferPlan",
    "place",
    "place_kind",
    "plan_wafer",
]
