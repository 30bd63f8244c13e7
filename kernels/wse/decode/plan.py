"""The regions for a whole model on one wafer: fastest by estimate among those that really fit."""

import dataclasses
import itertools
from collections.abc import Sequence

from emu.datasheet import Device
from emu.errors import OutOfMemory
from emu.wse.regions import DoesNotFit, Rect, bands, gap_hops, lay_out
from kernels.wse.decode import sizes
from kernels.wse.decode.candidates import (
    Demand,
    HeadChoice,
    LayerVariant,
    ModelSizes,
    Pair,
    candidates,
    layer_candidates,
    layer_map,
    least_bytes,
)
from kernels.wse.decode.estimate import head_cycles, layer_cycles
from kernels.wse.decode.form import PLAIN, DecodeForm
from kernels.wse.decode.head import (
    embed_arguments,
    embed_program,
    head_arguments,
    head_program,
)
from kernels.wse.decode.layer import layer_arguments, layer_program
from kernels.wse.decode.mapping import HeadMap, LayerMap
from kernels.wse.decode.varied_layer import LayerAttention

Bytes = dict[str, int]
"""Bytes of a PE by kind: weights, cache, buffers, code."""


@dataclasses.dataclass(frozen=True)
class WaferPlan:
    """A model on a wafer.

    Attributes:
      layer, head: what each PE of a layer's and of the head's region holds.
      regions: each layer's rectangle, in the order of the layers.
      head_region: the rectangle of embedding and output head.
      tied: whether one table serves both ends.
      layer_bytes, head_bytes: bytes of the fullest PE by kind: weights, cache, buffers, code, and
        the tables of a variant of attention.
      variants: of attention; None: causal.
      kinds: which of them each layer has.
    """

    layer: LayerMap
    head: HeadMap
    regions: tuple[Rect, ...]
    head_region: Rect
    tied: bool
    layer_bytes: Bytes
    head_bytes: Bytes
    variants: tuple[LayerAttention | None, ...] = (None,)
    kinds: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if not self.kinds:
            object.__setattr__(self, "kinds", (0,) * len(self.regions))

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
    variants: Sequence[LayerVariant] = (),
    kinds: Sequence[int] = (),
    form: DecodeForm = PLAIN,
) -> WaferPlan:
    """Chooses regions and checks, byte by byte, that they fit.

    Args:
      config: the model's sizes.
      context: tokens the cache must hold.
      dtype: of weights and cache.
      device: the wafer.
      variants: of attention; none: causal.
      kinds: which of them each layer has.
      form: what a layer computes beside the plainest one; every layer does.

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
    kinds = tuple(int(kind) for kind in kinds)
    demand = Demand(config, context, dtype, device, tuple(variants), kinds, form)

    def token_cycles(pair: Pair) -> float:
        of_layer = layer_cycles(pair.layer, device)
        own = [variant.own_cycles(pair.layer, device) for variant in variants]
        of_layers = config.num_hidden_layers * of_layer + sum(own[x] for x in kinds)
        return of_layers + head_cycles(pair.head, device)

    # Counting a PE's bytes traces its programs, so the fastest by estimate are counted first, until
    # one fits.
    for pair in sorted(candidates(demand), key=token_cycles):
        plan = place(pair, demand)
        if plan is not None:
            return plan
    raise refusal(demand)


def place(pair: Pair, demand: Demand) -> WaferPlan | None:
    """The plan of a pair of regions, or None where a PE's bytes do not fit."""
    head = pair.head
    device = demand.device
    layer, variants = varied(pair.layer, demand)
    places = lay_out(
        device.grid_width,
        device.grid_height,
        layer.rows,
        layer.cols,
        demand.model.num_hidden_layers,
        head.cols,
    )
    layer_bytes = fullest(layer, variants, device)
    head_bytes = head_figures(head, demand.tables, device)
    if places is None or layer_bytes is None or head_bytes is None:
        return None
    regions, head_region = places
    tied = bool(demand.model.tie_word_embeddings)
    return WaferPlan(
        layer,
        head,
        tuple(regions),
        head_region,
        tied,
        layer_bytes,
        head_bytes,
        variants,
        demand.kinds,
    )


def varied(
    layer: LayerMap, demand: Demand
) -> tuple[LayerMap, tuple[LayerAttention | None, ...]]:
    """A layer's region with slots for every variant's view of the cache, and the variants on it."""
    if not demand.variants:
        return layer, (None,)
    variants = tuple(x.on(layer, demand.device) for x in demand.variants)
    # Layers are equal regions, whatever attention each has.
    held = max(x.map.held_slots for x in variants if x is not None)
    spare = max(0, held - layer.slots)
    return dataclasses.replace(layer, spare_slots=spare), variants


def fullest(
    layer: LayerMap, variants: Sequence[LayerAttention | None], device: Device
) -> Bytes | None:
    """`layer_figures` of the variant that needs the most; None if one needs too many."""
    found = [layer_figures(layer, device, variant) for variant in variants]
    needed = [figures for figures in found if figures is not None]
    if len(needed) < len(found):
        return None
    return max(needed, key=lambda figures: sum(figures.values()))


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
        f"{device.name}: the model with a context of {demand.context:,} tokens in {demand.dtype} "
        f"needs at least {model_bytes(demand):,} bytes of sram, a wafer has {had:,} beside its "
        f"code, and no cut into regions of at most {device.sram_bytes:,} bytes a PE was found; "
        f"{'; '.join(remedies)}",
        wafers=needed,
        context=shorter,
    )


def model_bytes(demand: Demand) -> int:
    """Bytes of all weights and the cache, without padding, buffers or code."""
    model = demand.model
    one_pe = layer_map(demand, rows=1, parts=1)  # of each key/value head
    of_head = one_pe.weight_bytes() + one_pe.cache_bytes()
    layers = model.num_hidden_layers * of_head * one_pe.kv_heads
    table = model.vocab_size * model.hidden_size * one_pe.itemsize
    return layers + demand.tables * table


def wafers(demand: Demand) -> int | None:
    """Wafers that would hold the model by the closed form, the head counted in whole regions."""
    device = demand.device
    heads = HeadChoice(demand)
    counts = []
    for layer in layer_candidates(demand):
        head = heads[layer.rows]
        across, down = bands(
            device.grid_width,
            device.grid_height,
            layer.rows,
            layer.cols,
        )
        a_wafer = across * down
        if head is None or not a_wafer:
            continue
        of_head = -(-head.cols // layer.cols)
        regions = demand.model.num_hidden_layers + of_head
        counts.append(-(-regions // a_wafer))
    if not counts:
        return None
    return max(2, min(counts))  # one was tried, region by region, and did not do


def largest_context(demand: Demand) -> int | None:
    """A context below the one asked for that really fits one wafer; nearly the largest."""
    device = demand.device
    low = 0
    high = demand.context
    # `low` fits and `high` does not. A context of 8,000 is told to 125 tokens, as every trial
    # traces a program.
    while high - low > max(1, low // 64):
        middle = (low + high) // 2
        tried = dataclasses.replace(demand, context=middle)
        # Where even the region with the most room by the closed form overflows, that context is too
        # long.
        roomiest = min(
            candidates(tried),
            key=lambda pair: least_bytes(pair.layer, device),
            default=None,
        )
        if roomiest is not None and place(roomiest, tried) is not None:
            low = middle
        else:
            high = middle
    return low or None


__all__ = ["WaferPlan", "place", "plan_wafer"]
