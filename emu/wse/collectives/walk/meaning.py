"""An activation from the last PE of one region's line to every PE of the next region's."""

import jax.numpy as jnp
from jax import lax

from emu.annotations import KnownInt
from emu.datasheet import Device
from emu.instruction import Cost, Operand, instruction
from emu.wse.collectives.walk.arrival import arrival
from emu.wse.pe.isa import SPACE
from emu.wse.pe.laws import known, on_datapath
from emu.wse.spaces import Sram
from emu.wse.timeline.calls import axis_size, begin
from emu.wse.wavelets import words


def _cost(
    device: Device,
    dst: Operand,
    x: Operand,
    index: Operand,
    gap: Operand,
    *,
    axis: str,
) -> Cost:
    tile_words = words(x.size, x.dtype)
    # The stream's hops: each PE its own, the first one the gap's too.
    hops = 1 + (known(index) == 0) * known(gap)
    receives = device.fabric_setup_cycles + tile_words + device.task_switch_cycles
    return on_datapath(
        begin(device, True) + receives, counts={"wavelet_hops": tile_words * hops}
    )


@instruction(
    "wse.walk",
    cost=_cost,
    reads=(SPACE, "count", "count"),
    writes=SPACE,
    arrival=arrival,
)
def _walk(dst: Sram, x: Sram, index: KnownInt, gap: KnownInt, *, axis: str) -> Sram:
    return jnp.broadcast_to(x[-1:], x.shape)


def walk(dst: Sram, x: Sram, gap: KnownInt, *, axis: str) -> Sram:
    """Takes an activation from the last PE of one region's line to every PE of the next one's.

    Regions are equal, so this mesh stands for both: the tile of the last PE along `axis` crosses
    `gap` hops and is multicast along the next region's line, where a microthread receives it and
    its completion starts each PE's task.

    Args:
      dst: tile like `x` in the next region.
      x: tile in SRAM of the region behind.
      gap: known number of hops between the two regions' facing edges.
      axis: mesh axis along which the next region receives.
    """
    axis_size(axis)  # one of the mesh's, or it is told here
    return _walk(dst, x, lax.axis_index(axis), gap, axis=axis)


__all__ = ["walk"]
