"""The corner PE's tile to every PE of a mesh, in one stream that forks at every column."""

from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import lax

from emu.datasheet import Device
from emu.errors import LimitExceeded
from emu.instruction import Cost, Crossing, Operand, caller, instruction
from emu.wse.collectives.multicast import arrival as of_multicasts
from emu.wse.pe.isa import SPACE
from emu.wse.pe.laws import known, on_datapath, words
from emu.wse.timeline.roles import Ticks, begin
from emu.wse.timeline.wires import operation_cycles, wires


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
    w = int(words(x.size, x.dtype))
    corner = (known(row) == 0) & (known(col) == 0)
    sends = operation_cycles(device, w, sends=True)
    takes = operation_cycles(device, w)
    return on_datapath(
        begin(device, True) + np.where(corner, sends, takes),
        moved_bytes={"sram_read": corner * x.nbytes, "sram_write": ~corner * x.nbytes},
        counts={"wavelet_hops": ~corner * w},
    )


def _arrival(
    device: Device,
    mesh: Mapping[str, int],
    crossing: Crossing,
    dst: Operand,
    x: Operand,
    row: Operand,
    col: Operand,
    *,
    axis: str,
    across: str,
) -> Ticks:
    if set(mesh) != {axis, across}:
        raise LimitExceeded(
            f"wse.multicast_2d: the mesh has axes {', '.join(mesh)}, must have {axis} and {across}"
        )
    turned = list(mesh) == [across, axis]
    armed = crossing.start_ticks + begin(device, True)
    armed = armed.T if turned else armed
    done = of_multicasts.multicast_2d(armed, int(words(x.size, x.dtype)), wires(device))
    done = done.T if turned else done
    return done, done


@instruction(
    "wse.multicast_2d",
    cost=_cost,
    reads=(SPACE, "count", "count"),
    writes=SPACE,
    arrival=_arrival,
)
def _down(dst: Any, x: Any, row: Any, col: Any, *, axis: str, across: str) -> Any:
    return jnp.broadcast_to(x[:1], x.shape)


def _same(
    device: Device,
    mesh: Mapping[str, int],
    crossing: Crossing,
    dst: Operand,
    x: Operand,
    *,
    axis: str,
) -> Ticks:
    return crossing.start_ticks, crossing.start_ticks


@instruction(
    "wse.multicast_2d_values",
    cost=lambda device, dst, x, *, axis: on_datapath(0, moved_bytes={}),
    reads=(SPACE,),
    writes=SPACE,
    arrival=_same,
)
def _along(dst: Any, x: Any, *, axis: str) -> Any:
    """The values' second axis; the stream's time is all in the first instruction."""
    return jnp.broadcast_to(x[:1], x.shape)


def multicast_2d(dst: Any, x: Any, *, axes: tuple[str, str]) -> Any:
    """Sends the tile of the mesh's first PE to every PE.

    Routers along the first line forward it on, down their own line and to their PE at once.

    Args:
      dst: tile like `x`.
      x: tile in SRAM; only the corner's is sent.
      axes: both axes of the mesh: down each line, and along the first one.
    """
    axis, across = axes
    if axis == across:
        raise LimitExceeded(f"wse.multicast_2d: axes are {axes}, must be two", caller())
    row, col = lax.axis_index(axis), lax.axis_index(across)
    y = _down(dst, x, row, col, axis=axis, across=across)
    return _along(y, y, axis=across)


__all__ = ["multicast_2d"]
