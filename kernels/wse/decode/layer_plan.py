"""One layer on a wafer of its own: its region, its bytes and its clock, whatever the model's size.

Half of a wafer holds one layer of DeepSeek-V3 with its 256 experts. What a token costs there is
told by that layer alone.
"""

import dataclasses
from typing import Any

from emu import Device, Reading
from emu.wse.regions import DoesNotFit
from kernels.wse.decode import sizes
from kernels.wse.decode.candidates import (
    Demand,
    LayerKind,
    ModelSizes,
    layer_bytes,
    layer_candidates,
)
from kernels.wse.decode.estimate import layer_cycles
from kernels.wse.decode.layer import layer_arguments, layer_program
from kernels.wse.decode.plan import PlacedKind, place_kind


@dataclasses.dataclass(frozen=True, eq=False)
class LayerStep:
    """One token's way through one layer.

    Attributes:
      placed: the layer on its region, and its PEs' bytes.
      pos: of the token, known: positions before it are in the cache.
    """

    placed: PlacedKind
    pos: int

    def read(self, device: Device, **options: Any) -> Reading:
        """The clock of the layer's program; the residual stream comes from the PEs beside it.

        Args:
          device: the wafer.
          options: of `emu.Program.read`.
        """
        layer, attention = self.placed.map, self.placed.attention
        arguments = layer_arguments(layer, self.pos, 0, variant=attention)
        return layer_program(layer, attention).read(device, *arguments, **options)


def plan_layer(
    config: ModelSizes, context: int, dtype: str, device: Device, kind: LayerKind
) -> PlacedKind:
    """The region that is fastest by estimate of those on which every PE's bytes fit.

    Args:
      config: the model's sizes.
      context: tokens the cache must hold.
      dtype: of weights and cache.
      device: the wafer, which holds nothing else.
      kind: what the layer computes.

    Raises:
      CannotLower: a variant's arithmetic that a PE has not, with the user's line.
      DoesNotFit: no region has room.
    """
    sizes.check_wafer(device)
    sizes.within("context", context, 1, sizes.MOST)
    sizes.check_dtype(dtype)
    demand = Demand(config, context, dtype, device, (kind,), (0,))

    def cycles(layer: Any) -> float:
        own = 0.0
        if kind.variant is not None:
            own = kind.variant.own_cycles(layer, device)
        return layer_cycles(layer, device) + own

    maps = [layer for (layer,) in layer_candidates(demand)]
    for layer in sorted(maps, key=cycles):
        placed = place_kind(kind, layer, device)
        if placed is not None:
            return placed
    pes = device.grid_width * device.grid_height
    had = pes * (device.sram_bytes - device.code_bytes)
    raise DoesNotFit(
        f"{device.name}: a layer with a context of {context:,} tokens in {dtype} needs at least "
        f"{layer_bytes(demand, kind.form):,} bytes of sram before they are padded to whole PEs, a "
        f"wafer has {had:,} beside its code, and no region has room for it; use a shorter context "
        "or experts held in 8 bits"
    )


__all__ = ["LayerStep", "plan_layer"]
