"""All-reduce on a ring folded onto the line: a chunk of the vector starts at every place."""

from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import lax

from emu.datasheet import Device
from emu.errors import LimitExceeded
from emu.instruction import Cost, Crossing, Operand, caller, instruction
from emu.wse.pe.isa import SPACE
from emu.wse.pe.laws import on_datapath, words
from emu.wse.timeline import folded_ring as of_rings
from emu.wse.timeline.folded_ring import places, ring_hops
from emu.wse.timeline.roles import Ticks, begin, crossed, group_size, join, role
from emu.wse.timeline.wires import operation_cycles, wires


def _cost(
    device: Device,
    dst: Operand,
    x: Operand,
    index: Operand,
    *,
    axis: str,
    op: str,
    group: int,
) -> Cost:
    n, steps = x.size // group, group - 1
    w = int(words(n, x.dtype))
    one = operation_cycles(device, w, sends=True) + operation_cycles(device, w)
    hops = np.empty(group, int)
    hops[places(group)] = ring_hops(group)
    nbytes = n * x.dtype.itemsize
    return on_datapath(
        begin(device, True) + 2 * steps * one,
        steps * n,
        moved_bytes={"sram_read": 3 * steps * nbytes, "sram_write": 2 * steps * nbytes},
        counts={"wavelet_hops": 2 * steps * w * role(index, hops)},
    )


def _arrival(
    device: Device,
    mesh: Mapping[str, int],
    crossing: Crossing,
    dst: Operand,
    x: Operand,
    index: Operand,
    *,
    axis: str,
    op: str,
    group: int,
) -> Ticks:
    lines = crossed(mesh, axis, group, crossing, index)
    armed = lines.take(crossing.start_ticks) + begin(device, True)
    w = int(words(x.size // group, x.dtype))
    done = lines.put(of_rings.ring_all_reduce(armed, w, wires(device)))
    return done, done


@instruction(
    "wse.ring_all_reduce",
    cost=_cost,
    reads=(SPACE, "count"),
    writes=SPACE,
    arrival=_arrival,
)
def _ring_all_reduce(
    dst: Any, x: Any, index: Any, *, axis: str, op: str, group: int
) -> Any:
    at = jnp.arange(group)
    line = x.reshape(-1, group, *x.shape[1:-1], group, x.shape[-1] // group)[
        :, places(group)
    ]
    # [place, chunk, groups, ..., elements]
    chunks = jnp.moveaxis(line, (1, -2), (0, 1))

    def add(
        acc: Any, k: Any
    ) -> Any:  # a chunk starts one place beyond the one where it ends
        return join(op, chunks[(at + k) % group, at], acc), None

    acc, _ = lax.scan(add, chunks[(at + 1) % group, at], jnp.arange(2, group + 1))
    whole = jnp.moveaxis(acc, 0, -2).reshape(-1, 1, *x.shape[1:])
    whole = lax.optimization_barrier(whole)  # or XLA sums once per receiver
    return jnp.broadcast_to(whole, (whole.shape[0], group, *x.shape[1:])).reshape(
        x.shape
    )


def ring_all_reduce(
    dst: Any, x: Any, *, axis: str, op: str = "add", group: int | None = None
) -> Any:
    """Sum or max of `x` along `axis` on every PE of each group, chunk by chunk around a ring.

    Each PE's tile is cut into as many chunks as there are PEs. A chunk goes round once and every
    PE adds its own to it, `own + what came`, rounded to the tile's dtype; then it goes round again
    as it is. Chunk c ends at place c of the ring and starts one place beyond.

    Args:
      dst: tile like `x`.
      x: `[n]`, float, a multiple of the group's PEs.
      axis: mesh axis.
      op: `"add"` or `"max"`.
      group: consecutive PEs that share a ring, a divisor of the axis; default all.
    """
    size = group_size(axis, group)
    if x.ndim != 1 or x.size % size:
        raise LimitExceeded(
            f"wse.ring_all_reduce: the tile is {list(x.shape)}, must be [n] with n a multiple of "
            f"the ring's {size} PEs; pad it",
            caller(),
        )
    return _ring_all_reduce(dst, x, lax.axis_index(axis), axis=axis, op=op, group=size)


__all__ = ["ring_all_reduce"]
