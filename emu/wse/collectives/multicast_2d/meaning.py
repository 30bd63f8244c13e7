"""The corner PE's tile to every PE of a mesh, in one stream that forks at every column."""

import jax.numpy as jnp
import numpy as np
from jax import lax

from emu import given
from emu.annotations import KnownInt
from emu.datasheet import Device
from emu.errors import LimitExceeded
from emu.instruction import Cost, Crossing, Operand, instruction
from emu.tracing.jaxpr import caller
from emu.wse.collectives.multicast_2d.arrival import arrival
from emu.wse.pe.isa import SPACE
from emu.wse.pe.laws import known, on_datapath, operation_cycles
from emu.wse.spaces import Sram
from emu.wse.timeline.calls import Ends, Mesh, axis_size, begin
from emu.wse.wavelets import words


def _cost(
    device: Device,
    dst: Operand,
    x: Operand,
    row: Operand,
    col: Operand,
    *,
    axis: str,
    across: str,
) -> Cost:
    sent_words = int(words(x.size, x.dtype))
    corner = (known(row) == 0) & (known(col) == 0)
    sends = operation_cycles(device, sent_words, sends=True)
    receives = operation_cycles(device, sent_words)
    return on_datapath(
        begin(device, True) + np.where(corner, sends, receives),
        moved_bytes={"sram_read": corner * x.nbytes, "sram_write": ~corner * x.nbytes},
        counts={"wavelet_hops": ~corner * sent_words},
    )


@instruction(
    "wse.multicast_2d",
    cost=_cost,
    reads=(SPACE, "count", "count"),
    writes=SPACE,
    arrival=arrival,
)
def _down(
    dst: Sram,
    x: Sram,
    row: KnownInt,
    col: KnownInt,
    *,
    axis: str,
    across: str,
) -> Sram:
    return jnp.broadcast_to(x[:1], x.shape)


def _no_cost(device: Device, dst: Operand, x: Operand, *, axis: str) -> Cost:
    return on_datapath(0, moved_bytes={})


def _at_once(
    device: Device,
    mesh: Mesh,
    crossing: Crossing,
    *operands: Operand,
    axis: str,
) -> Ends:
    return crossing.start_ticks, crossing.start_ticks


@instruction(
    "wse.multicast_2d_values",
    cost=_no_cost,
    reads=(SPACE,),
    writes=SPACE,
    arrival=_at_once,
)
def _along(dst: Sram, x: Sram, *, axis: str) -> Sram:
    """The values' second axis; the stream's time is all in the first instruction."""
    return jnp.broadcast_to(x[:1], x.shape)


def multicast_2d(dst: Sram, x: Sram, *, axes: tuple[str, str]) -> Sram:
    """Sends the tile of the mesh's first PE to every PE.

    Routers along the first line forward it on, down their own line and to their PE at once.

    Args:
      dst: tile like `x`.
      x: tile in SRAM; only the corner's is sent.
      axes: both axes of the mesh: down each line, and along the first one.

    Raises:
      LimitExceeded: the axes are one and the same, or not the mesh's.
    """
    if not isinstance(axes, tuple) or len(axes) != 2:
        given.refuse(f"wse.multicast_2d: axes is {given.told(axes)}, must be two axes")
    axis, across = axes
    axis_size(axis)
    axis_size(across)
    if axis == across:
        raise LimitExceeded(f"wse.multicast_2d: axes are {axes}, must be two", caller())
    row = lax.axis_index(axis)
    col = lax.axis_index(across)
    received = _down(dst, x, row, col, axis=axis, across=across)
    return _along(received, received, axis=across)


__all__ = ["multicast_2d"]
