"""Moves between neighbours: a ring shift, the arg-max chain, and the walk to the next region."""

from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import lax

from emu.datasheet import Device
from emu.instruction import Cost, Crossing, Operand, instruction
from emu.wse import arrival
from emu.wse.fabric import Ticks, setup_cycles
from emu.wse.isa import SPACE
from emu.wse.laws import known, on_datapath, words

RING_HOPS = 2  # a ring folded onto a line: neighbours of the ring are two PEs apart

# --- shift ---


def _shift_cost(device: Device, dst: Operand, x: Operand, *, axis: str, by: int) -> Cost:
    w = int(words(x.size, x.dtype))
    cycles = 2 * (setup_cycles(device, 2) + w)
    return on_datapath(cycles, counts={"wavelet_hops": w * RING_HOPS})


def _shift_arrival(
    device: Device, mesh: Mapping[str, int], crossing: Crossing, dst: Operand, x: Operand,
    *, axis: str, by: int,
) -> Ticks:  # fmt: skip
    w, at = int(words(x.size, x.dtype)), list(mesh).index(axis)
    sent = crossing.start_ticks + setup_cycles(device, 2) + w
    flight = 2 * device.ramp_cycles + device.hop_cycles * RING_HOPS
    posted = sent + setup_cycles(device, 2)
    ready = np.maximum(posted, np.roll(sent - w + flight, by, at)) + w
    return ready, ready


@instruction("wse.shift", cost=_shift_cost, reads=(SPACE,), writes=SPACE, arrival=_shift_arrival)
def shift(dst: Any, x: Any, *, axis: str, by: int) -> Any:
    """Cyclic shift: PE `i` gets the tile of PE `i - by`, `by` being 1 or -1.

    The ring is folded onto the line, even places one way and odd ones back, so that every
    transfer is two hops long; sends and receives take turns on the datapath.
    """
    return jnp.roll(x, by, 0)


# --- arg-max ---


def _argmax_cost(
    device: Device, top_dst: Operand, at_dst: Operand, top: Operand, at: Operand,
    index: Operand, *, axis: str,
) -> Cost:  # fmt: skip
    w = 2 + 0 * known(index)
    compare = 2 * device.scalar_cycles + device.branch_cycles
    return on_datapath(
        setup_cycles(device) + 2 + compare, counts={"wavelet_hops": (known(index) > 0) * w}
    )


def _argmax_arrival(
    device: Device, mesh: Mapping[str, int], crossing: Crossing, top_dst: Operand,
    at_dst: Operand, top: Operand, at: Operand, index: Operand, *, axis: str,
) -> Ticks:  # fmt: skip
    lines = arrival.Lines(mesh, axis, mesh[axis])
    armed = lines.take(crossing.start_ticks) + setup_cycles(device)
    compare = 2 * device.scalar_cycles + device.branch_cycles
    stage = arrival.chain_stage_cycles(device, 1) + 1 + compare  # both words, then scalar code
    sent, _ = arrival.chain(armed, np.asarray(2), stage, arrival.queue_words(device))
    ready = lines.put(crossing.start_ticks, sent)
    return ready, ready


@instruction(
    "wse.chain_argmax", cost=_argmax_cost, reads=(SPACE, SPACE, "count"),
    writes=(SPACE, SPACE), arrival=_argmax_arrival,
)  # fmt: skip
def _chain_argmax(
    top_dst: Any, at_dst: Any, top: Any, at: Any, index: Any, *, axis: str
) -> tuple[Any, Any]:
    def join(best: Any, own: Any) -> Any:
        higher = (own[0] > best[0]) | ((own[0] == best[0]) & (own[1] < best[1]))
        return jnp.where(higher, own[0], best[0]), jnp.where(higher, own[1], best[1])

    rest = (top[:-1], at[:-1])
    best, _ = lax.scan(lambda b, o: (join(b, o), None), (top[-1], at[-1]), rest, reverse=True)
    unset = jnp.iinfo(at.dtype).max
    value = jnp.full_like(top, jnp.nan).at[0].set(best[0])
    return value, jnp.full_like(at, unset).at[0].set(best[1])


def chain_argmax(top_dst: Any, at_dst: Any, top: Any, at: Any, *, axis: str) -> tuple[Any, Any]:
    """The largest value along `axis` and its index, on the first PE; the lowest index wins a tie.

    Args:
      top_dst, at_dst: tiles like `top` and `at`.
      top: `float32[1]`, this PE's candidate.
      at: `int32[1]`, its index in the whole vector.
      axis: mesh axis.
    """
    return _chain_argmax(top_dst, at_dst, top, at, lax.axis_index(axis), axis=axis)


# --- walk ---


def _walk_cost(
    device: Device, dst: Operand, x: Operand, index: Operand, gap: Operand, *, axis: str
) -> Cost:
    w = words(x.size, x.dtype)
    hops = 1 + (known(index) == 0) * known(gap)
    cycles = setup_cycles(device, 2) + device.task_start_cycles + w
    return on_datapath(cycles, counts={"wavelet_hops": w * hops})


def _walk_arrival(
    device: Device, mesh: Mapping[str, int], crossing: Crossing, dst: Operand, x: Operand,
    index: Operand, gap: Operand, *, axis: str,
) -> Ticks:  # fmt: skip
    lines = arrival.Lines(mesh, axis, mesh[axis])
    armed = lines.take(crossing.start_ticks) + setup_cycles(device, 2)
    hops = lines.take(known(index) + known(gap) + 1)
    head = armed[:, -1:] + 2 * device.ramp_cycles + device.hop_cycles * hops
    came = np.maximum(armed, head) + int(words(x.size, x.dtype)) + device.task_start_cycles
    ready = lines.put(crossing.start_ticks, came)
    return ready, ready


@instruction(
    "wse.walk", cost=_walk_cost, reads=(SPACE, "count", "count"), writes=SPACE,
    arrival=_walk_arrival,
)  # fmt: skip
def _walk(dst: Any, x: Any, index: Any, gap: Any, *, axis: str) -> Any:
    return jnp.broadcast_to(x[-1:], x.shape)


def walk(dst: Any, x: Any, gap: Any, *, axis: str) -> Any:
    """Takes an activation from the last PE of one region's line to every PE of the next one's.

    Regions are equal, so this mesh stands for both: the tile of the last PE along `axis` crosses
    `gap` hops and is multicast along the next region's line, where it starts each PE's task.

    Args:
      dst: tile like `x` in the next region.
      x: tile in SRAM of the region behind.
      gap: known number of hops between the two regions' facing edges.
      axis: mesh axis along which the next region receives.
    """
    return _walk(dst, x, lax.axis_index(axis), gap, axis=axis)


__all__ = ["chain_argmax", "shift", "walk"]
