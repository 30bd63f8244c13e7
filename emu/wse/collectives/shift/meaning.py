"""Moves between neighbours: a ring shift, the arg-max chain, and the walk to the next region."""

import math
from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import lax

from emu.datasheet import Device
from emu.errors import LimitExceeded
from emu.instruction import Cost, Crossing, Operand, caller, instruction
from emu.wse.collectives.reduce import arrival as of_trees
from emu.wse.pe.isa import SPACE
from emu.wse.pe.laws import known, on_datapath, words
from emu.wse.timeline import folded_ring as of_rings
from emu.wse.timeline.folded_ring import ring_hops
from emu.wse.timeline.lines import Lines
from emu.wse.timeline.roles import Ticks, begin, crossed, role
from emu.wse.timeline.wires import operation_cycles, wires

PAIR = 2  # wavelets of a value and its index

# --- shift ---


def _shift_cost(
    device: Device,
    dst: Operand,
    x: Operand,
    index: Operand,
    *,
    axis: str,
    by: int,
    size: int,
) -> Cost:
    w = int(words(x.size, x.dtype))
    cycles = operation_cycles(device, w, sends=True) + operation_cycles(device, w)
    hops = role(index, np.roll(ring_hops(size), 0 if by == 1 else 1))
    return on_datapath(begin(device, True) + cycles, counts={"wavelet_hops": w * hops})


def _shift_arrival(
    device: Device,
    mesh: Mapping[str, int],
    crossing: Crossing,
    dst: Operand,
    x: Operand,
    index: Operand,
    *,
    axis: str,
    by: int,
    size: int,
) -> Ticks:
    lines = crossed(mesh, axis, size, crossing, index)
    armed = lines.take(crossing.start_ticks) + begin(device, True)
    w = int(words(x.size, x.dtype))
    done = lines.put(of_rings.shift(armed, w, by, wires(device)))
    return done, done


@instruction(
    "wse.shift",
    cost=_shift_cost,
    reads=(SPACE, "count"),
    writes=SPACE,
    arrival=_shift_arrival,
)
def _shift(dst: Any, x: Any, index: Any, *, axis: str, by: int, size: int) -> Any:
    return jnp.roll(x, by, 0)


def shift(dst: Any, x: Any, *, axis: str, by: int) -> Any:
    """Cyclic shift: PE `i` gets the tile of PE `i - by`, `by` being 1 or -1.

    The ring is folded onto the line, places up to the middle on its even positions and the others
    back on the odd ones, so that transfers are two hops long, one at the ends. Even places send
    first, odd ones receive first, each a synchronous operation.
    """
    if by not in (1, -1):
        raise LimitExceeded(f"wse.shift: by is {by}, must be 1 or -1", caller())
    size = lax.axis_size(axis)
    return _shift(dst, x, lax.axis_index(axis), axis=axis, by=by, size=size)


# --- arg-max ---


def _compare_cycles(device: Device) -> int:
    """Two dependent compares and a branch."""
    return 2 * device.scalar_cycles + device.branch_cycles


def _argmax_cost(
    device: Device,
    top_dst: Operand,
    at_dst: Operand,
    top: Operand,
    at: Operand,
    index: Operand,
    *,
    axis: str,
    size: int,
) -> Cost:
    takes = role(index, [i < size - 1 for i in range(size)])
    sends = role(index, [i > 0 for i in range(size)])
    cycles = takes * (operation_cycles(device, PAIR) + _compare_cycles(device))
    cycles = cycles + sends * operation_cycles(device, PAIR, sends=True)
    return on_datapath(
        begin(device, True) + cycles, counts={"wavelet_hops": sends * PAIR}
    )


def _argmax_arrival(
    device: Device,
    mesh: Mapping[str, int],
    crossing: Crossing,
    top_dst: Operand,
    at_dst: Operand,
    top: Operand,
    at: Operand,
    index: Operand,
    *,
    axis: str,
    size: int,
) -> Ticks:
    lines = crossed(mesh, axis, size, crossing, index)
    armed = lines.take(crossing.start_ticks) + begin(device, True)
    compare = math.ceil(_compare_cycles(device))
    done = lines.put(of_trees.relay(armed, PAIR, compare, wires(device)))
    return done, done


@instruction(
    "wse.chain_argmax",
    cost=_argmax_cost,
    reads=(SPACE, SPACE, "count"),
    writes=(SPACE, SPACE),
    arrival=_argmax_arrival,
)
def _chain_argmax(
    top_dst: Any, at_dst: Any, top: Any, at: Any, index: Any, *, axis: str, size: int
) -> tuple[Any, Any]:
    def join(best: Any, own: Any) -> Any:
        higher = (own[0] > best[0]) | ((own[0] == best[0]) & (own[1] < best[1]))
        return jnp.where(higher, own[0], best[0]), jnp.where(higher, own[1], best[1])

    rest = (top[:-1], at[:-1])
    best, _ = lax.scan(
        lambda b, o: (join(b, o), None), (top[-1], at[-1]), rest, reverse=True
    )
    unset = jnp.iinfo(at.dtype).max
    value = jnp.full_like(top, jnp.nan).at[0].set(best[0])
    return value, jnp.full_like(at, unset).at[0].set(best[1])


def chain_argmax(
    top_dst: Any, at_dst: Any, top: Any, at: Any, *, axis: str
) -> tuple[Any, Any]:
    """The largest value along `axis` and its index, on the first PE; the lowest index wins a tie.

    Each PE receives both words into memory, compares them with its own and sends the better pair.

    Args:
      top_dst, at_dst: tiles like `top` and `at`.
      top: `float32[1]`, this PE's candidate.
      at: `int32[1]`, its index in the whole vector.
      axis: mesh axis.
    """
    index, size = lax.axis_index(axis), lax.axis_size(axis)
    return _chain_argmax(top_dst, at_dst, top, at, index, axis=axis, size=size)


# --- walk ---


def _walk_cost(
    device: Device, dst: Operand, x: Operand, index: Operand, gap: Operand, *, axis: str
) -> Cost:
    w = words(x.size, x.dtype)
    hops = 1 + (known(index) == 0) * known(gap)
    cycles = (
        begin(device, True) + device.fabric_setup_cycles + w + device.task_switch_cycles
    )
    return on_datapath(cycles, counts={"wavelet_hops": w * hops})


def _walk_arrival(
    device: Device,
    mesh: Mapping[str, int],
    crossing: Crossing,
    dst: Operand,
    x: Operand,
    index: Operand,
    gap: Operand,
    *,
    axis: str,
) -> Ticks:
    lines = Lines(mesh, axis, mesh[axis], crossing.start_ticks, known(gap))
    w, fabric = int(words(x.size, x.dtype)), wires(device)
    ready = lines.take(crossing.start_ticks) + begin(device, True) + fabric.setup_cycles
    hops = lines.take(known(index) + known(gap) + 1)
    first = np.maximum(ready, ready[:, -1:] + fabric.latency(hops))
    came = lines.put(first + fabric.span(w) + 1 + int(device.task_switch_cycles))
    return came, came


@instruction(
    "wse.walk",
    cost=_walk_cost,
    reads=(SPACE, "count", "count"),
    writes=SPACE,
    arrival=_walk_arrival,
)
def _walk(dst: Any, x: Any, index: Any, gap: Any, *, axis: str) -> Any:
    return jnp.broadcast_to(x[-1:], x.shape)


def walk(dst: Any, x: Any, gap: Any, *, axis: str) -> Any:
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
    return _walk(dst, x, lax.axis_index(axis), gap, axis=axis)


__all__ = ["chain_argmax", "shift", "walk"]
