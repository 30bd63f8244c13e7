"""Every PE's tile to the next place of a ring folded onto the line, or to the one before."""

import jax.numpy as jnp
from jax import lax

from emu.annotations import KnownInt
from emu.datasheet import Device
from emu.errors import LimitExceeded
from emu.instruction import Cost, Operand, instruction
from emu.tracing.jaxpr import caller
from emu.wse.collectives.shift.arrival import arrival, hops_of_sends
from emu.wse.pe.isa import SPACE
from emu.wse.pe.laws import on_datapath, operation_cycles
from emu.wse.spaces import Sram
from emu.wse.timeline.calls import axis_size, begin, role
from emu.wse.wavelets import words


def _cost(
    device: Device,
    dst: Operand,
    x: Operand,
    index: Operand,
    *,
    axis: str,
    by: int,
    size: int,
) -> Cost:
    tile_words = int(words(x.size, x.dtype))
    send_cycles = operation_cycles(device, tile_words, sends=True)
    receive_cycles = operation_cycles(device, tile_words)
    return on_datapath(
        begin(device, True) + (send_cycles + receive_cycles),
        counts={"wavelet_hops": tile_words * role(index, hops_of_sends(size, by))},
    )


@instruction(
    "wse.shift",
    cost=_cost,
    reads=(SPACE, "count"),
    writes=SPACE,
    arrival=arrival,
)
def _shift(
    dst: Sram,
    x: Sram,
    index: KnownInt,
    *,
    axis: str,
    by: int,
    size: int,
) -> Sram:
    return jnp.roll(x, by, 0)


def shift(dst: Sram, x: Sram, *, axis: str, by: int) -> Sram:
    """Cyclic shift: PE `i` gets the tile of PE `i - by`, `by` being 1 or -1.

    The ring is folded onto the line, places up to the middle on its even positions and the others
    back on the odd ones, so that transfers are two hops long, one at the ends. Even places send
    first, odd ones receive first, each a synchronous operation.

    Args:
      dst: tile like `x`, apart from it.
      x: tile in SRAM.
      axis: mesh axis; a PE's number along it is its place on the ring.
      by: 1 or -1.

    Raises:
      LimitExceeded: another `by`.
    """
    if by not in (1, -1):
        raise LimitExceeded(f"wse.shift: by is {by}, must be 1 or -1", caller())
    size = axis_size(axis)
    return _shift(dst, x, lax.axis_index(axis), axis=axis, by=by, size=size)


__all__ = ["shift"]
