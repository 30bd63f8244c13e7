"""One layer on a wafer of its own: its region, its bytes and its clock, whatever the model's size.

Half of a wafer holds one layer of DeepSeek-V3 with its 256 experts. What a token costs there is
told by that layer alone.
"""

import dataclasses
from typing import Any

from emu import Device, Reading
from emu.wse.placement.regions import DoesNotFit
from kernels.wse.decode import sizes
from kernels.wse.decode.candidates import layer_candidates
from kernels.wse.decode.demand import Demand, LayerKind, ModelSizes, layer_bytes
from kernels.wse.decode.held import WIDE, Held
from kernels.wse.decode.layer import layer_arguments, layer_program
from kernels.wse.decode.pe_bytes import PlacedKind, place_kind


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
    config: ModelSizes,
    context: int,
    dtype: str,
    device: Device,
    kind: LayerKind,
    held: Held = WIDE,
) -> PlacedKind:
    """The region that is fastest by estimate of those on which every PE's bytes fit.

    Args:
      config: the model's sizes.
      context: tokens the cache must hold.
      dtype: of weights and cache.
      device: the wafer, which holds nothing else.
      kind: what the layer computes.
      held: what of it is in codes.

    Raises:
      CannotLower: a variant's arithmetic that a PE has not, with the user's line.
      DoesNotFit: no region has room; it tells a context that would do, if one would.
    """
    sizes.check_wafer(device)
    sizes.within("context", context, 1, sizes.MOST)
    sizes.check_dtype(dtype)
    demand = Demand(config, context, dtype, device, (kind,), (0,), held=held)
    found = fastest(demand)
    if found is None:
        raise refusal(demand)
    return found


def fastest(demand: Demand) -> PlacedKind | None:
    """The demand's only kind of layers on the fastest region that has room; None: none has."""
    (kind,) = demand.kinds
    # Counting a PE's bytes traces its program, so the fastest by estimate are counted first.
    for layer, _ in sorted(layer_candidates(demand), key=lambda found: found[1]):
        placed = place_kind(kind, layer, demand.device)
        if placed is not None:
            return placed
    return None


def refusal(demand: Demand) -> DoesNotFit:
    """Why no region has room, and by how often the context must be halved, if that does."""
    (kind,), device = demand.kinds, demand.device
    shorter = None
    if fastest(dataclasses.replace(demand, context=1)) is not None:
        shorter = demand.context // 2
        while fastest(dataclasses.replace(demand, context=shorter)) is None:
            shorter //= 2
    remedy = "no context would do: its weights are too many or too wide"
    if shorter is not None:
        remedy = f"a context of {shorter:,} tokens would fit"
    pes = device.grid_width * device.grid_height
    had = pes * (device.sram_bytes - device.code_bytes)
    return DoesNotFit(
        f"{device.name}: a layer with a context of {demand.context:,} tokens in {demand.in_words} "
        f"needs at least {layer_bytes(demand, kind.form):,} bytes of sram before they are padded "
        f"to whole PEs, a wafer has {had:,} beside its code, and no region has room for it; "
        f"{remedy}",
        context=shorter,
    )


__all__ = ["LayerStep", "plan_layer"]
