"""The links between chips: a permute along a mesh axis, with its arrival on every core.

On a sheet with a system (`on_system`) a transfer takes `hops · link_hop_s` and its bytes at the
pace of the busiest link on its way, which it shares with the others of the same send
(`emu.trainium.links.routes`); to itself a chip sends in no time. On a sheet without, every chip is
one hop from every other, itself included, at `link_bytes_per_s`. Either way the cores that run on a
chip share its links. Source of the hop: SDK, intra-node collectives guide.
"""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from emu import given, numerics
from emu.annotations import KnownInt
from emu.datasheet import Device
from emu.errors import LimitExceeded
from emu.instruction import Cost, Crossing, Operand, instruction
from emu.program import Known
from emu.tracing.mesh_axis import axis_size
from emu.trainium.links.routes import shifted
from emu.trainium.spaces import Hbm


def send(
    dst: Hbm,
    src: Hbm,
    shift: KnownInt | Known,
    live: KnownInt | Known,
    *,
    axis: str,
    chips: tuple[str, ...] | None = None,
) -> Hbm:
    """`dst` of rank i is `src` of rank `i - shift`, cyclically, where that rank is live.

    A rank that is not live sends nothing and takes no time; its receiver's `dst` keeps what it
    holds and when that was ready. Its place in program order remains: the next send of the core
    starts when this one's operands were there.

    Args:
      dst: HBM `[...]`, of the receiver.
      src: HBM, of the same shape.
      shift: known integer, the same on every core; may be negative.
      live: known integer or bool of each core, 0 or 1.
      axis: mesh axis over chips.
      chips: every mesh axis over chips, outermost first, by which ranks are placed in the system;
        `(axis,)` by default. All other axes are over cores of one chip.

    Raises:
      LimitExceeded: shapes that differ, a shift that differs between cores, a `live` that is not
        0 or 1, an axis that is not among `chips`, or more ranks than the system has chips.
    """
    chips, sizes = over(axis, chips)
    return _send(
        dst, src, shift, live, rank(chips), axis=axis, chips=chips, sizes=sizes
    )


def send_next(dst: Hbm, src: Hbm, *, axis: str) -> Hbm:
    """Sends `src` to the next chip around `axis`; `dst` receives the previous chip's."""
    return send(dst, src, 1, 1, axis=axis)


# --- ranks ---


def over(
    axis: str, chips: tuple[str, ...] | None
) -> tuple[tuple[str, ...], tuple[int, ...]]:
    """The mesh axes over chips and their sizes.

    Raises:
      LimitExceeded: `axis` is not among them.
    """
    chips = (axis,) if chips is None else tuple(chips)
    sizes = tuple(axis_size("trn.chips", a) for a in chips)
    if axis not in chips:
        given.refuse(
            f"trn.chips: axis is {given.told(axis)}, must be one over chips: {', '.join(chips)}"
        )
    return chips, sizes


def rank(chips: tuple[str, ...]) -> jax.Array:
    """This core's chip among the ranks of the mesh axes over chips, the last counting first.

    Handed to instructions as a known integer, so that a cost rule sees which core is where.
    """
    number = lax.axis_index(chips[0])
    for axis in chips[1:]:
        number = number * lax.axis_size(axis) + lax.axis_index(axis)
    return number


def per_core(values: np.ndarray) -> Any:
    """A number where all cores agree, else the array over the mesh."""
    first = values.flat[0]
    agree = values.size == 1 or (values == first).all()
    return first.item() if agree else values


def whole_ticks(device: Device, seconds: np.ndarray) -> np.ndarray:
    """Whole ticks of each of some times, rounded up, as `Device.ticks` does."""
    return np.ceil(np.round(seconds * device.tick_hz, 6)).astype(np.int64)


def of_running_cores(
    device: Device, of_cores: np.ndarray, ranks: np.ndarray
) -> np.ndarray:
    """What all running cores of each chip have between them.

    Example: 8 cores run, and of a mesh with all 8 two send: 8 · 2/8 = 2 transfers share the links.

    Args:
      device: the machine.
      of_cores: of each core, `[*mesh, ...]`.
      ranks: the rank of each core; axes over cores of one chip have size 1.

    Returns:
      As `of_cores`, with size 1 along those axes.
    """
    core_axes = tuple(i for i, size in enumerate(ranks.shape) if size == 1)
    # A mesh without an axis of cores has one for all that run, which do alike.
    return device.cores_running * of_cores.mean(axis=core_axes, keepdims=True)


# --- the instruction ---


def _shift(known: np.ndarray) -> int:
    if (known != known.flat[0]).any():
        raise LimitExceeded(
            f"trn.send: shift is {known.min()} to {known.max()}, must be the same on every core"
        )
    return int(known.flat[0])


def _live(known: np.ndarray) -> np.ndarray:
    if ((known != 0) & (known != 1)).any():
        raise LimitExceeded(
            f"trn.send: live is {known.min()} to {known.max()}, must be 0 or 1"
        )
    return known.astype(np.int64)


def _load(
    device: Device, live: np.ndarray, ranks: np.ndarray, number: int
) -> np.ndarray:
    """How many of each chip's running cores send: `float[ranks]`.

    Args:
      device: the machine.
      live: 0 or 1 of each core, broadcastable to the mesh.
      ranks: the rank of each core; axes over cores of one chip have size 1.
      number: of ranks.
    """
    load = np.zeros(number)
    # Of 4 chips with 8 cores each `ranks` is `[4, 1]`, and so is what they send.
    load[ranks] = of_running_cores(device, live, ranks)
    return load


def _send_cost(
    device: Device,
    dst: Operand,
    src: Operand,
    shift: Operand,
    live: Operand,
    place: Operand,
    *,
    axis: str,
    chips: tuple[str, ...],
    sizes: tuple[int, ...],
) -> Cost:
    if src.shape != dst.shape:
        raise LimitExceeded(
            f"trn.send: source is {list(src.shape)}, must be the destination's {list(dst.shape)}"
        )
    sends = _live(live.known)
    here = place.known
    load = _load(device, sends, here, int(np.prod(sizes)))
    way = shifted(device, sizes, chips.index(axis), (_shift(shift.known),), load)
    hops = way.hops[0][here]
    busy_s = src.nbytes * way.seconds_per_byte[0][here] * sends
    # Cut-through: a hop delays the first byte, and the rest follows at the pace of the busiest
    # link, so bytes are not paid for once a hop.
    latency_s = busy_s + hops * device.link_hop_s * sends
    moved = per_core(src.nbytes * sends)
    return Cost(
        engine="neuronlink",
        busy_cycles=per_core(busy_s * device.tick_hz),
        latency_cycles=per_core(latency_s * device.tick_hz),
        moved_bytes={"hbm_read": moved, "hbm_write": moved},
        # What a chip sends to itself passes no link.
        counts={"link_bytes": per_core(src.nbytes * sends * (hops > 0))},
    )


def _send_arrival(
    device: Device,
    mesh: Mapping[str, int],
    crossing: Crossing,
    dst: Operand,
    src: Operand,
    shift: Operand,
    live: Operand,
    place: Operand,
    *,
    axis: str,
    **_: Any,
) -> tuple[np.ndarray, np.ndarray]:
    """The receiver has it when the sender could start, its buffer was idle, and the way is over.

    Each core's start already waits for its own destination; the sender also waits for the
    receiver's, because the write goes straight into the receiver's HBM. Where nothing arrives, 0:
    of a partial write the clock takes the later of that and when the destination was ready before.
    """
    at = list(mesh).index(axis)
    by = _shift(shift.known)
    sends = live.known != 0
    # Rolled back by the shift, the receivers' buffers stand beside their senders.
    receiver_idle = np.roll(crossing.destination_idle_ticks, -by, at)
    sent = np.maximum(crossing.start_ticks, receiver_idle)
    left = np.where(sends, sent + crossing.busy_ticks, crossing.start_ticks)
    arrived = np.where(sends, sent + crossing.latency_ticks, 0)
    # Rank i has what rank i - shift sent.
    return np.roll(arrived, by, at), left


@instruction(
    "trn.send",
    cost=_send_cost,
    reads=("hbm", "count", "count", "count"),
    writes="hbm",
    partial=True,
    arrival=_send_arrival,
)
def _send(
    dst: Hbm,
    src: Hbm,
    shift: KnownInt | Known,
    live: KnownInt | Known,
    place: KnownInt,
    *,
    axis: str,
    chips: tuple[str, ...],
    sizes: tuple[int, ...],
) -> Hbm:
    """The private half of `send`, with every core's rank and the sizes of the mesh."""
    number = len(src)
    by = jnp.asarray(shift)
    # Leading dimensions: the axis, then other mesh axes, which the known scalars have too.
    others = (1,) * (by.ndim - 1)
    ranks = jnp.arange(number, dtype=by.dtype).reshape(-1, *others)
    sender = (ranks - by) % number
    arrives = jnp.take_along_axis(jnp.asarray(live).astype(bool), sender, 0)
    own = (1,) * (src.ndim - by.ndim)
    payload = jnp.take_along_axis(src, sender.reshape(*sender.shape, *own), 0)
    arrives = arrives.reshape(*arrives.shape, *own)
    return jnp.where(arrives, numerics.cast(payload, dst.dtype), dst)


__all__ = [
    "of_running_cores",
    "over",
    "per_core",
    "rank",
    "send",
    "send_next",
    "whole_ticks",
]
