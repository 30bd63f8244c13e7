"""One PE's tile to every PE of its line, along the line's routers."""

import jax.numpy as jnp
from jax import lax

from emu import given
from emu.annotations import KnownInt
from emu.datasheet import Device
from emu.instruction import Cost, Operand, instruction
from emu.wse.collectives.multicast.arrival import arrival
from emu.wse.pe.isa import SPACE
from emu.wse.pe.laws import known, on_datapath, operation_cycles
from emu.wse.spaces import Sram
from emu.wse.timeline.calls import begin, elements_of, group_size, role
from emu.wse.wavelets import words


def _cost(
    device: Device,
    dst: Operand,
    x: Operand,
    index: Operand,
    elements: Operand,
    *,
    axis: str,
    group: int,
    root: int,
    call: bool,
) -> Cost:
    n = known(elements)
    sent_words = words(n, x.dtype)
    nbytes = x.dtype.itemsize * n
    directions = (root > 0) + (root < group - 1)
    sends = role(index, [directions * (pe == root) for pe in range(group)])
    receives = role(index, [pe != root for pe in range(group)])
    receive_cycles = operation_cycles(device, sent_words)
    send_cycles = operation_cycles(device, sent_words, sends=True)
    return on_datapath(
        begin(device, call) + (receives * receive_cycles + sends * send_cycles),
        moved_bytes={"sram_read": sends * nbytes, "sram_write": receives * nbytes},
        counts={"wavelet_hops": receives * sent_words},
    )


@instruction(
    "wse.multicast",
    cost=_cost,
    reads=(SPACE, "count", "count"),
    writes=SPACE,
    arrival=arrival,
)
def _multicast(
    dst: Sram,
    x: Sram,
    index: KnownInt,
    elements: KnownInt,
    *,
    axis: str,
    group: int,
    root: int,
    call: bool,
) -> Sram:
    tiles = x.reshape(-1, group, *x.shape[1:])
    sent = tiles[:, root : root + 1]
    sent = lax.optimization_barrier(sent)  # or XLA sums once per receiver
    return jnp.broadcast_to(sent, tiles.shape).reshape(x.shape)


def multicast(
    dst: Sram,
    x: Sram,
    *,
    axis: str,
    group: int | None = None,
    root: int = 0,
    elements: KnownInt | None = None,
    call: bool = True,
) -> Sram:
    """Sends the tile of one PE of each group along `axis` to every PE of the group.

    A root inside the line sends to the west first, then to the east.

    Args:
      dst: tile like `x`.
      x: tile in SRAM; only the root's is sent.
      axis: mesh axis.
      group: consecutive PEs in a group, a divisor of the axis; default all.
      root: the PE that sends, counted in its group.
      elements: known number of elements sent, where it is less than the whole tile.
      call: whether it begins a call of its own.

    Raises:
      LimitExceeded: the group does not divide the axis, or the root is outside it.
    """
    size = group_size(axis, group)
    given.whole("wse.multicast: root", root, 0, size - 1)
    index = lax.axis_index(axis)
    count = elements_of(x, elements)
    return _multicast(dst, x, index, count, axis=axis, group=size, root=root, call=call)


__all__ = ["multicast"]
