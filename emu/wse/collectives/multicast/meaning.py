"""One PE's tile to every PE of its line, along the line's routers."""

from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
from jax import lax

from emu.datasheet import Device
from emu.errors import LimitExceeded
from emu.instruction import Cost, Crossing, Operand, caller, instruction
from emu.wse.collectives.multicast import arrival as of_multicasts
from emu.wse.pe.isa import SPACE
from emu.wse.pe.laws import known, on_datapath, words
from emu.wse.timeline.roles import Ticks, begin, crossed, group_size, line_words, role
from emu.wse.timeline.wires import operation_cycles, wires


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
    w, nbytes = words(n, x.dtype), x.dtype.itemsize * n
    sends = role(
        index, [(i == root) * ((root > 0) + (root < group - 1)) for i in range(group)]
    )
    takes = role(index, [i != root for i in range(group)])
    cycles = takes * operation_cycles(device, w) + sends * operation_cycles(
        device, w, sends=True
    )
    return on_datapath(
        begin(device, call) + cycles,
        moved_bytes={"sram_read": sends * nbytes, "sram_write": takes * nbytes},
        counts={"wavelet_hops": takes * w},
    )


def _arrival(
    device: Device,
    mesh: Mapping[str, int],
    crossing: Crossing,
    dst: Operand,
    x: Operand,
    index: Operand,
    elements: Operand,
    *,
    axis: str,
    group: int,
    root: int,
    call: bool,
) -> Ticks:
    lines = crossed(mesh, axis, group, crossing, elements)
    armed = lines.take(crossing.start_ticks) + begin(device, call)
    w = line_words(lines, elements, x.dtype)
    done = lines.put(of_multicasts.multicast(armed, w, root, wires(device)))
    return done, done


@instruction(
    "wse.multicast",
    cost=_cost,
    reads=(SPACE, "count", "count"),
    writes=SPACE,
    arrival=_arrival,
)
def _multicast(
    dst: Any,
    x: Any,
    index: Any,
    elements: Any,
    *,
    axis: str,
    group: int,
    root: int,
    call: bool,
) -> Any:
    line = x.reshape(-1, group, *x.shape[1:])[:, root : root + 1]
    line = lax.optimization_barrier(line)  # or XLA sums once per receiver
    return jnp.broadcast_to(line, (line.shape[0], group, *x.shape[1:])).reshape(x.shape)


def multicast(
    dst: Any,
    x: Any,
    *,
    axis: str,
    group: int | None = None,
    root: int = 0,
    elements: Any = None,
    call: bool = True,
) -> Any:
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
    """
    size = group_size(axis, group)
    n = x.size if elements is None else elements
    if not 0 <= root < size:
        raise LimitExceeded(
            f"wse.multicast: root is {root}, must be one of a group's {size} PEs",
            caller(),
        )
    index = lax.axis_index(axis)
    return _multicast(dst, x, index, n, axis=axis, group=size, root=root, call=call)


__all__ = ["multicast"]
