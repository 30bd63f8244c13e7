"""Bytes of PEs of a layer's and of the head's region, counted from the memory of their programs."""

import dataclasses

from emu.datasheet import Device
from emu.errors import OutOfMemory
from kernels.wse.decode.demand import LayerKind
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
"""Bytes of a PE by kind: weights, cache, buffers, code, and a variant's tables if it has any."""


@dataclasses.dataclass(frozen=True)
class PlacedKind:
    """A kind of layers on regions of its own.

    Attributes:
      map: what each PE holds, with slots for the variant's view of the cache.
      attention: the variant there; None: causal.
      bytes: of the fullest PE: weights, all users' caches, buffers, code, and the variant's tables.
    """

    map: LayerMap
    attention: LayerAttention | None
    bytes: Bytes

    def for_users(self, users: int, device: Device) -> "PlacedKind | None":
        """The same with caches of so many users in place of one's; None where they do not fit.

        A step is one user's: the other caches stand beside it, and buffers are there once.
        """
        figures = {**self.bytes, "cache": users * self.bytes["cache"]}
        if sum(figures.values()) > device.sram_bytes:
            return None
        return dataclasses.replace(self, bytes=figures)


class Counted:
    """What has been counted on a wafer: each mapping's programs are traced once.

    Of layers of one kind whose contexts are 1,000 and 1,001 tokens and take as many slots of a PE
    the programs are the same, and so are the bytes.
    """

    def __init__(self, device: Device):
        self.device = device
        self._layers: dict[tuple[LayerKind, LayerMap], PlacedKind | None] = {}
        self._heads: dict[tuple[HeadMap, int], Bytes | None] = {}

    def layer(self, kind: LayerKind, layer: LayerMap, users: int) -> PlacedKind | None:
        """A kind of layers on its region, or None where a PE's bytes do not fit."""
        key = _key(kind, layer)
        if key not in self._layers:
            self._layers[key] = place_kind(kind, layer, self.device)
        placed = self._layers[key]
        if placed is None:
            return None
        own = dataclasses.replace(placed.map, context=layer.context)
        placed = dataclasses.replace(placed, map=own)
        return placed.for_users(users, self.device)

    def is_out(self, kind: LayerKind, layer: LayerMap, users: int) -> bool:
        """Whether it has been counted by now that a PE's bytes do not fit."""
        key = _key(kind, layer)
        if key not in self._layers:
            return False
        placed = self._layers[key]
        return placed is None or placed.for_users(users, self.device) is None

    def head(self, head: HeadMap, tables: int) -> Bytes | None:
        """Bytes of a PE of the head's region with one table or two; None if too many."""
        key = head, tables
        if key not in self._heads:
            self._heads[key] = head_figures(head, tables, self.device)
        return self._heads[key]


def _key(kind: LayerKind, layer: LayerMap) -> tuple[LayerKind, LayerMap]:
    """What a layer's bytes depend on."""
    if kind.variant is not None:
        return kind, layer
    # A whole number of rows: as many slots.
    context = layer.rows * -(-layer.context // layer.rows)
    return kind, dataclasses.replace(layer, context=context)


def place_kind(kind: LayerKind, layer: LayerMap, device: Device) -> PlacedKind | None:
    """A kind of layers with one user's cache, or None where a PE's bytes do not fit."""
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


__all__ = ["Bytes", "Counted", "PlacedKind", "place_kind"]
