"""A variant of attention in a decoder's layers on the wafer, at every position of the context.

What depends on the position of the token alone arrives with it, as the angles of RoPE do. Of the
keys, a token sees those up to its own: they are all that the cache holds, whatever the mask says.
"""

import dataclasses
import functools

import numpy as np

from emu import Device
from emu.lower import CannotLower
from emu.wse.lower import ARRIVING, KEPT
from kernels.attention.decode_plan import own_cycles
from kernels.attention.keys_by_position import KeysByPosition, keys_by_position
from kernels.attention.newest_query import Attended, read_mask
from kernels.attention.on_pe import DecodeSizes, OnPe, VariantOnPe, slots_ahead
from kernels.attention.region import OwnCycles
from kernels.attention.tables import Tables
from kernels.refusal import refuse
from kernels.scores.form import Reading
from kernels.wse.decode.attention_map import AttentionMap
from kernels.wse.decode.estimate import attention_cycles
from kernels.wse.decode.hooks import Hooks
from kernels.wse.decode.layer import layer_arguments, layer_program
from kernels.wse.decode.mapping import LayerMap, share_of
from kernels.wse.decode.varied_layer import LayerAttention


@dataclasses.dataclass(frozen=True, eq=False)
class DecoderVariant:
    """A variant before a region is chosen.

    Attributes:
      reading: the variant.
      scale: of the scores; None: `1 / sqrt(head_dim)`.
    """

    reading: Reading
    scale: float | None = None
    _sized: dict[tuple[int, ...], "_Sized"] = dataclasses.field(
        default_factory=dict, init=False, repr=False
    )

    def __post_init__(self) -> None:
        fold = self.reading.fold
        for name in ("q", "d"):
            if fold is not None and fold.finish.depends_on(fold.finish.result, name):
                raise CannotLower(
                    f"finish of {self.reading.name}: depends on {name}, must be of the state, b "
                    "and h alone in a layer of a decoder"
                )

    def on(self, layer: LayerMap, device: Device) -> LayerAttention:
        """The variant on a layer's region.

        Raises:
          CannotLower: arithmetic that a PE has not, with the user's line.
        """
        sized = self._of(layer)
        whole = sized.on(layer, device, 0)
        ahead = sized.slots_ahead(layer.rows)
        # What lies on both sides of a gap is copied, and bytes are no words to copy.
        if not ahead or layer.held.cache is not None:
            return whole
        skipping = sized.on(layer, device, ahead)

        def ticks(variant: LayerAttention) -> int:
            held = max(0, variant.map.held_slots - layer.slots)
            roomy = dataclasses.replace(layer, spare_slots=held)
            arguments = layer_arguments(roomy, layer.context - 1, 0, variant)
            program = layer_program(roomy, variant)
            return program.read(device, *arguments, check_memory=False).end_ticks

        # Copying what lies on both sides of a gap takes a while too: the clock decides.
        return min(whole, skipping, key=ticks)

    def own_cycles(self, layer: LayerMap, device: Device) -> float:
        """Cycles beyond those of causal attention with a full cache, roughly.

        Fewer than none where it goes through less of the cache, as with a window.
        """
        sized = self._of(layer)
        own = sized.own(device)
        always_shared = sized.variant.changes_softmax
        layout = sized.map(layer)
        causal = AttentionMap.of_layer(
            layer, most_live=share_of(layer.context, layer.rows)
        )
        added, _ = own_cycles(layout, device, own.on, always_shared)
        seen = attention_cycles(layout, device) - attention_cycles(causal, device)
        return added + seen

    def _of(self, layer: LayerMap) -> "_Sized":
        if layer.values_are_keys:
            refuse(
                f"{self.reading.name} in a layer with latent attention, must be causal softmax "
                "attention there; run `kernels.variants.mla` for a variant of latents alone"
            )
        key = layer.heads, layer.kv_heads, layer.head_dim, layer.context
        if key not in self._sized:
            self._sized[key] = _Sized.of(self.reading, self.scale, layer)
        return self._sized[key]


@dataclasses.dataclass(frozen=True, eq=False)
class _Sized:
    """A variant of layers of one size.

    Attributes:
      variant: its functions, at any position.
      keys: that a token attends to.
    """

    variant: VariantOnPe
    keys: KeysByPosition
    _own: list[tuple[Device, OwnCycles]] = dataclasses.field(default_factory=list)

    @classmethod
    def of(cls, reading: Reading, scale: float | None, layer: LayerMap) -> "_Sized":
        keys = keys_by_position(reading.mask, layer.heads, layer.context)
        sizes = DecodeSizes(
            heads=layer.heads,
            kv_heads=layer.kv_heads,
            head_dim=layer.head_dim,
            context=layer.context,
            first_position=0,
            scale=scale,
        )
        mask = None if reading.mask is None else read_mask(reading.mask, reading.name)
        attended = Attended(keys.low, keys.high, None, keys.gaps, keys.nothing)
        variant = VariantOnPe(sizes, reading.score, mask, reading.fold, attended)
        return cls(variant, keys)

    def slots_ahead(self, rows: int) -> int:
        """Slots before a gap, 0 if skipping it saves none at the last position."""
        keys = self.keys
        gap = (keys.sinks, int(keys.behind[-1])) if keys.sinks else None
        return slots_ahead(dataclasses.replace(self.variant.keys, gap=gap), rows)

    def on(self, layer: LayerMap, device: Device, ahead: int) -> LayerAttention:
        """The variant on a layer's region, with so many slots ahead of a gap."""
        keys, layout = self.keys, self.map(layer, ahead)
        on_pe, shared = self.on_pe(layout, device)
        hooks = Hooks(
            score=on_pe.score,
            mask=on_pe.mask,
            fold=on_pe.fold,
            nothing=keys.nothing,
            shared=shared,
        )
        tables = Tables(on_pe.all, layout, query=0)
        is_viewed = bool(ahead) or keys.skips
        return LayerAttention(
            map=layout,
            hooks=hooks,
            specs=tables.specs(),
            structs=tables.structs(),
            kept=lambda: tables.tiles(KEPT),
            arriving=lambda pos: dataclasses.replace(tables, query=pos).tiles(ARRIVING),
            low=self._low(layer.rows, ahead) if is_viewed else None,
            high=keys.high if is_viewed else None,
            of_slots=tuple(tables.of_slots()),
        )

    def _low(self, rows: int, ahead: int) -> np.ndarray:
        """The first key that is gone through at each position, of those behind the slots ahead."""
        if not ahead:
            return self.keys.low
        return np.maximum(self.keys.behind, np.int32(ahead * rows))

    def map(self, layer: LayerMap, ahead: int = 0) -> AttentionMap:
        """The layer's own mapping, but for the slots that are gone through."""
        keys, rows, scale = self.keys, layer.rows, self.variant.sizes.scale
        low = self._low(rows, ahead)
        most = layer.context
        if ahead or keys.skips:
            most = ahead * rows + max(0, int((keys.high - low).max()))
        # Of all rows the first one's slot of a position is the latest.
        latest = share_of(int(low[low < keys.high].max(initial=0)), rows)
        of_layer = AttentionMap.of_layer(
            layer, most_live=max(1, share_of(most, rows)), last_first=latest
        )
        return dataclasses.replace(
            of_layer,
            scale=layer.scale if scale is None else float(scale),
            ahead=ahead,
        )

    def own(self, device: Device) -> OwnCycles:
        """Of its arithmetic; regions are many, and devices few."""
        for known, own in self._own:
            if known == device:
                return own
        self._own.append(
            (device, OwnCycles.of(self.variant, self.variant.sizes.queries, device))
        )
        return self._own[-1][1]

    def on_pe(self, layout: AttentionMap, device: Device) -> tuple[OnPe, bool]:
        """Its functions, and whether each column runs them on its share of the slots."""

        @functools.cache
        def lowered(slots: int) -> OnPe:
            return self.variant.lowered(
                layout.queries, slots, layout.value_dims, device
            )

        def cycles(slots: int) -> float:
            return lowered(slots).cycles

        always_shared = self.variant.changes_softmax
        _, shared = own_cycles(layout, device, cycles, always_shared)
        return lowered(layout.slot_share if shared else layout.slots), shared


__all__ = ["DecoderVariant"]
