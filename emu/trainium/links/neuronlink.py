"""The links between chips: a permute along a mesh axis, with its arrival on every core.

On a sheet with a system (`on_system`) a transfer takes `hops · link_hop_s` and its bytes at the
pace of the busiest link on its way, which it shares with the others of the same send
(`emu.trainium.links.routes`); to itself a chip sends in no time. On a sheet without, every chip is
one hop from every other, itself included, at `link_bytes_per_s`. Either way the cores that run on a
chip share its links. Source of the hop: SDK, intra-node collectives guide.
"""

from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import lax

from emu.datasheet import Device
from emu.errors import LimitExceeded
from emu.instruction import Cost, Crossing, Operand, instruction
from emu.trainium.links.routes import shifted


def send(
    dst: Any,
    src: Any,
    shift: Any,
    live: Any,
    *,
    axis: str,
    chips: tuple[str, ...] | None = None,
) -> Any:
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


def send_next(dst: Any, src: Any, *, axis: str) -> Any:
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
    if axis not in chips:
        raise LimitExceeded(
            f"axis is {axis!r}, must be one over chips: {', '.join(chips)}"
        )
    return chips, tuple(lax.axis_size(a) for a in chips)


def rank(chips: tuple[str, ...]) -> Any:
    """This core's chip among the ranks of the mesh axes over chips, the last counting first.

    Handed to instructions as a known integer, so that a cost rule sees which core is where.
    """
    number = lax.axis_index(chips[0])
    for axis in chips[1:]:
        number = number * lax.axis_size(axis) + lax.axis_index(axis)
    return number


def per_core(x: Any) -> Any:
    """A number where all cores agree, else the array over the mesh."""
    return x.flat[0].item() if x.size == 1 or (x == x.flat[0]).all() else x


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
    """How many of each chip's running cores send: `float[ranks]`."""
    cores = tuple(i for i, n in enumerate(ranks.shape) if n == 1)
    sending = device.cores_running * live.mean(axis=cores, keepdims=True)
    load = np.zeros(number)
    load[ranks] = sending
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
    on, here = _live(live.known), place.known
    load = _load(device, on, here, int(np.prod(sizes)))
    way = shifted(device, sizes, chips.index(axis), (_shift(shift.known),), load)
    busy_s = src.nbytes * way.seconds_per_byte[0][here] * on
    latency_s = busy_s + way.hops[0][here] * device.link_hop_s * on
    moved = per_core(src.nbytes * on)
    return Cost(
        engine="neuronlink",
        busy_cycles=per_core(busy_s * device.tick_hz),
        latency_cycles=per_core(latency_s * device.tick_hz),
        moved_bytes={"hbm_read": moved, "hbm_write": moved},
        counts={"link_bytes": per_core(src.nbytes * on * (way.hops[0][here] > 0))},
    )


def _send_arrival(
    device: Device,
    mesh: Mapping[str, int],
    c: Crossing,
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
    on = live.known != 0
    sent = np.maximum(c.start_ticks, np.roll(c.destination_idle_ticks, -by, at))
    arrived = np.roll(np.where(on, sent + c.latency_ticks, 0), by, at)
    return arrived, np.where(on, sent + c.busy_ticks, c.start_ticks)


@instruction(
    "trn.send",
    cost=_send_cost,
    reads=("hbm", "count", "count", "count"),
    writes="hbm",
    partial=True,
    arrival=_send_arrival,
)
def _send(
    dst: Any,
    src: Any,
    shift: Any,
    live: Any,
    place: Any,
    *,
    axis: str,
    chips: Any,
    sizes: Any,
) -> Any:
    # Leading dimensions: the axis, then other mesh axes, which the known scalars have too.
    own = (1,) * (src.ndim - shift.ndim)
    ranks = jnp.arange(len(src), dtype=shift.dtype).reshape(
        -1, *(1,) * (shift.ndim - 1)
    )
    sender = (ranks - shift) % len(src)
    arrives = jnp.take_along_axis(live.astype(bool), sender, 0)
    payload = jnp.take_along_axis(src, sender.reshape(*sender.shape, *own), 0)
    return jnp.where(
        arrives.reshape(*arrives.shape, *own), payload.astype(dst.dtype), dst
    )


__all__ = ["over", "per_core", "rank", "send", "send_next"]
