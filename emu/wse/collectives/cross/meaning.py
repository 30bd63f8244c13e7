"""An activation from a region's last column over two wafers' edges to the next one's region."""

import jax.numpy as jnp
from jax import lax

from emu.annotations import KnownInt
from emu.datasheet import Device
from emu.instruction import Cost, Operand, instruction
from emu.wse.collectives.cross.arrival import arrival
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
    hops: Operand,
    *,
    axis: str,
) -> Cost:
    tile_words = words(x.size, x.dtype)
    # One stream a line goes out and comes in, which the first PE counts; the others a hop each.
    is_first = known(index) == 0
    of_stream = 1 + is_first * known(hops)
    receives = device.fabric_setup_cycles + tile_words + device.task_switch_cycles
    counts = {"wavelet_hops": tile_words * of_stream, "io_bytes": x.nbytes * is_first}
    return on_datapath(begin(device, True) + receives, counts=counts)


@instruction(
    "wse.cross",
    cost=_cost,
    reads=(SPACE, "count", "count"),
    writes=SPACE,
    arrival=arrival,
)
def _cross(dst: Sram, x: Sram, index: KnownInt, hops: KnownInt, *, axis: str) -> Sram:
    return jnp.broadcast_to(x[-1:], x.shape)


def cross(dst: Sram, x: Sram, hops: KnownInt, *, axis: str) -> Sram:
    """Takes an activation from the last PE of each line of a region to the next wafer's region.

    Regions are equal, as for `walk`: this mesh stands for both. The tiles of the last PEs along
    `axis` run to their wafer's edge, pass its Ethernet as one message and run from the other
    wafer's edge along the lines of the region there. Each row has its edge beside it; what it takes
    to gather rows at the ports is in the band of `edge_latency_s`.

    Args:
      dst: tile like `x` in the next region.
      x: tile in SRAM of the region behind.
      hops: known, from the region's last column to its wafer's edge and from the other wafer's edge
        to the region there, together, without the one across that region's boundary.
      axis: mesh axis along which the next region receives.
    """
    axis_size(axis)  # one of the mesh's, or it is told here
    return _cross(dst, x, lax.axis_index(axis), hops, axis=axis)


__all__ = ["cross"]
