"""The regions for a whole model on one wafer: fastest by estimate among those that really fit."""

import dataclasses
from collections.abc import Iterator
from typing import Any

from emu.datasheet import Device
from emu.errors import OutOfMemory
from emu.wse.regions import DoesNotFit, Rect, bands, gap_hops, lay_out
from kernels.wse.decode.estimate import head_cycles, layer_cycles
from kernels.wse.decode.head import (
    embed_arguments,
    embed_program,
    head_arguments,
    head_program,
)
from kernels.wse.decode.layer import layer_arguments, layer_program
from kernels.wse.decode.mapping import HeadMap, LayerMap

# How many heights and head widths are tried; the estimate is flat around its minimum.
ROW_CHOICES, HEAD_CHOICES = 72, 24


@dataclasses.dataclass(frozen=True)
class WaferPlan:
    """A model on a wafer.

    Attributes:
      layer, head: what each PE of a layer's and of the head's region holds.
      regions: each layer's rectangle, in the order of the layers.
      head_region: the rectangle of embedding and output head.
      tied: whether one table serves both ends.
      layer_bytes, head_bytes: bytes of the fullest PE by kind: weights, cache, buffers, code.
    """

    layer: LayerMap
    head: HeadMap
    regions: tuple[Rect, ...]
    head_region: Rect
    tied: bool
    layer_bytes: dict[str, int]
    head_bytes: dict[str, int]

    @property
    def pes(self) -> int:
        """PEs used in all."""
        return sum(r.pes for r in self.regions) + self.head_region.pes

    @property
    def gaps(self) -> tuple[int, ...]:
        """Hops into each layer's region, then into the head's."""
        stops = (self.head_region, *self.regions, self.head_region)
        return tuple(gap_hops(a, b) for a, b in zip(stops, stops[1:], strict=False))


Pair = tuple[LayerMap, HeadMap]


def plan_wafer(config: Any, context: int, dtype: str, device: Device) -> WaferPlan:
    """Chooses regions and checks, byte by byte, that they fit.

    Args:
      config: sizes under their Hugging Face names.
      context: tokens the cache must hold.
      dtype: of weights and cache.
      device: the wafer.

    Raises:
      DoesNotFit: no choice fits one wafer.
    """
    pairs = candidates(config, context, dtype, device)
    for layer, head in sorted(pairs, key=lambda p: _token_cycles(p, config, device)):
        if (found := place(layer, head, config, device)) is not None:
            return found
    raise refusal(config, context, dtype, device)


def _token_cycles(pair: Pair, config: Any, device: Device) -> float:
    layer, head = pair
    return config.num_hidden_layers * layer_cycles(layer, device) + head_cycles(
        head, device
    )


def layer_map(config: Any, context: int, rows: int, parts: int, dtype: str) -> LayerMap:
    """The mapping of a config's layers on `rows` x `num_key_value_heads * parts` PEs."""
    return LayerMap(
        config.hidden_size,
        config.intermediate_size,
        config.num_attention_heads,
        config.num_key_value_heads,
        config.head_dim,
        config.rms_norm_eps,
        config.qk_norm,
        context,
        rows,
        parts,
        dtype,
    )


def candidates(config: Any, context: int, dtype: str, device: Device) -> Iterator[Pair]:
    """Pairs of regions whose tables and cache leave room for code and which one wafer can hold."""
    count = config.num_hidden_layers
    heads = HeadChoice(config, dtype, device)
    for layer in layer_candidates(config, context, dtype, device):
        head = heads[layer.rows]
        grid = device.grid_width, device.grid_height
        if head and lay_out(*grid, layer.rows, layer.cols, count, head.cols):
            yield layer, head


def layer_candidates(
    config: Any, context: int, dtype: str, device: Device
) -> Iterator[LayerMap]:
    """Mappings of one layer whose weights and cache leave room for the code, on any wafer."""
    half = config.head_dim // 2
    most = min(config.hidden_size, device.grid_height)
    step = max(1, most // ROW_CHOICES)
    for parts in (p for p in range(1, half + 1) if half % p == 0):
        for rows in range(step, most + 1, step):
            m = layer_map(config, context, rows, parts, dtype)
            if (
                m.cols <= device.grid_width
                and least_bytes(m, device) < device.sram_bytes
            ):
                yield m


def least_bytes(m: LayerMap, device: Device) -> int:
    """Bytes of a layer's PE at the least; `place` counts the program's own."""
    return (
        m.weight_bytes() + m.cache_bytes() + m.least_buffer_bytes() + device.code_bytes
    )


class HeadChoice(dict[int, HeadMap | None]):
    """The best head region for each height, worked out when first asked for."""

    def __init__(self, config: Any, dtype: str, device: Device):
        super().__init__()
        self.of = config, dtype, device

    def __missing__(self, rows: int) -> HeadMap | None:
        config, dtype, device = self.of
        self[rows] = best_head(config, rows, dtype, device)
        return self[rows]


def best_head(config: Any, rows: int, dtype: str, device: Device) -> HeadMap | None:
    """The head region of a given height with the fewest estimated cycles, or None."""
    width = device.grid_width
    tables = 1 if config.tie_word_embeddings else 2
    most = min(width, config.vocab_size)
    step = max(1, most // HEAD_CHOICES)
    maps = [
        HeadMap(
            config.hidden_size, config.vocab_size, config.rms_norm_eps, rows, c, dtype
        )
        for c in range(step, most + 1, step)
    ]
    room = device.sram_bytes - device.code_bytes
    fit = [m for m in maps if tables * m.table_bytes() + 8 * m.tokens < room]
    return min(fit, key=lambda m: head_cycles(m, device), default=None)


def place(
    layer: LayerMap, head: HeadMap, config: Any, device: Device
) -> WaferPlan | None:
    """The plan of a pair of regions, or None where a PE's bytes do not fit."""
    grid = device.grid_width, device.grid_height
    count = config.num_hidden_layers
    spots = lay_out(*grid, layer.rows, layer.cols, count, head.cols)
    tied = bool(config.tie_word_embeddings)
    figures = layer_figures(layer, device), head_figures(head, tied, device)
    if spots is None or not all(figures):
        return None
    return WaferPlan(layer, head, tuple(spots[0]), spots[1], tied, *figures)


def layer_figures(m: LayerMap, device: Device) -> dict[str, int]:
    """Bytes of a layer's PE by kind, from the memory of the very program; empty if too many."""
    try:
        peak = layer_program(m).memory(device, *layer_arguments(m, 0, 0))["sram"]
    except OutOfMemory:
        return {}
    return _figures(peak, m.weight_bytes(), m.cache_bytes(), device)


def head_figures(m: HeadMap, tied: bool, device: Device) -> dict[str, int]:
    """Bytes of a PE of the head's region by kind; empty if too many."""
    norm = m.depth * m.table_bytes() // (m.depth * m.tokens)
    try:
        ends = head_program(m).memory(device, *head_arguments(m, 0))["sram"] - norm
        start = embed_program(m).memory(device, *embed_arguments(m))["sram"]
    except OutOfMemory:
        return {}
    buffers = max(ends, start) - m.table_bytes()
    tables = m.table_bytes() * (1 if tied else 2) + norm
    return _figures(tables + buffers, tables, 0, device)


def _figures(peak: int, weights: int, cache: int, device: Device) -> dict[str, int]:
    if peak + device.code_bytes > device.sram_bytes:
        return {}
    buffers = peak - weights - cache
    return {
        "weights": weights,
        "cache": cache,
        "buffers": buffers,
        "code": device.code_bytes,
    }


def refusal(config: Any, context: int, dtype: str, device: Device) -> DoesNotFit:
    """Why nothing fits, and the number of wafers or the context that would do."""
    needed = wafers(config, context, dtype, device)
    shorter = largest_context(config, context, dtype, device)
    had = (
        device.grid_width * device.grid_height * (device.sram_bytes - device.code_bytes)
    )
    parts = [
        f"{needed} wafers would hold it, cut at layer boundaries" if needed else "",
        f"a context of {shorter} tokens would fit one" if shorter else "",
    ]
    advice = (
        "; ".join(filter(None, parts))
        or "no number of wafers would do: a layer is too large"
    )
    return DoesNotFit(
        f"{device.name}: the model with a context of {context:,} tokens in {dtype} needs at least "
        f"{model_bytes(config, context, dtype):,} bytes of sram, a wafer has {had:,} beside its "
        f"code, and no cut into regions of at most {device.sram_bytes:,} bytes a PE was found; "
        f"{advice}",
        wafers=needed,
        context=shorter,
    )


def model_bytes(config: Any, context: int, dtype: str) -> int:
    """Bytes of all weights and the cache, without padding, buffers or code."""
    m = layer_map(config, context, 1, 1, dtype)
    one = (m.weight_bytes() + m.cache_bytes()) * m.kv_heads
    tables = (
        (1 if config.tie_word_embeddings else 2)
        * config.vocab_size
        * config.hidden_size
    )
    return config.num_hidden_layers * one + tables * m.itemsize


def wafers(config: Any, context: int, dtype: str, device: Device) -> int | None:
    """Wafers that would hold the model by the closed form, the head counted in whole regions."""
    best = None
    heads = HeadChoice(config, dtype, device)
    for layer in layer_candidates(config, context, dtype, device):
        head = heads[layer.rows]
        across, down = bands(
            device.grid_width, device.grid_height, layer.rows, layer.cols
        )
        if head is None or not across * down:
            continue
        regions = config.num_hidden_layers + -(-head.cols // layer.cols)
        best = min(filter(None, (best, -(-regions // (across * down)))))
    return best if best is None or best > 1 else 2


def largest_context(
    config: Any, context: int, dtype: str, device: Device
) -> int | None:
    """A context below the one asked for that really fits one wafer; nearly the largest."""
    low, high = 0, context
    while high - low > max(1, low // 64):
        middle = (low + high) // 2
        pairs = candidates(config, middle, dtype, device)
        roomiest = min(pairs, key=lambda p: least_bytes(p[0], device), default=None)
        fits = roomiest is not None and place(*roomiest, config, device) is not None
        low, high = (middle, high) if fits else (low, middle)
    return low or None


__all__ = ["WaferPlan", "place", "plan_wafer"]
