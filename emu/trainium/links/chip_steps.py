"""The steps of a collective between chips: what each costs, and when every core is through.

A collective is one or more legs. In a leg *in turn* every rank sends once a step, and goes on when
that has left it and what the step brings it has arrived; *at once* all transfers of the leg run
together; down a *chain* the first rank's buffer passes from rank to rank in as many pieces as there
are ranks. A transfer takes the way `emu.trainium.links.routes` finds, and no step is shorter than
its reads and writes through DMA engines and HBM.
"""

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any

import numpy as np

from emu.datasheet import Device
from emu.instruction import Cost, Crossing
from emu.trainium.datasheets.sheet import DMA_QUEUES
from emu.trainium.links.collectives import Pass
from emu.trainium.links.neuronlink import per_core
from emu.trainium.links.routes import shifted


@dataclasses.dataclass(frozen=True)
class Group:
    """The mesh axis of a collective among those over chips: their `sizes`, and `at`, its place."""

    sizes: tuple[int, ...]
    at: int

    @property
    def number(self) -> int:
        """Ranks that take part in one collective."""
        return self.sizes[self.at]

    @functools.cached_property
    def index(self) -> np.ndarray:
        """Each rank's place along the axis, `int[ranks]`."""
        return np.indices(self.sizes)[self.at].ravel()


@dataclasses.dataclass(frozen=True, eq=False)
class Leg:
    """One part of a collective.

    Attributes:
      kind: `"turn"`, `"once"` or `"chain"`.
      shifts: how much further along the axis each transfer of a rank goes; one for each step in
        turn, one at all for a chain.
      nbytes: of one transfer, of one piece for a chain.
      pieces: transfers of a rank for each shift: the pieces of a chain.
      read_bytes, written_bytes: HBM traffic of one rank in the whole leg.
      sends: which ranks send, `bool[ranks]`, or None if all do.
    """

    kind: str
    shifts: tuple[int, ...]
    nbytes: float
    read_bytes: float
    written_bytes: float
    pieces: int = 1
    sends: np.ndarray | None = None


@dataclasses.dataclass(frozen=True, eq=False)
class Steps:
    """A leg's times.

    Attributes:
      leg: what it is.
      sends: which ranks send, `bool[ranks]`.
      busy, latency: ticks of each transfer, `int64[shifts, ranks]`.
      link_s: seconds each rank keeps its links busy, `float[ranks]`.
      data_s: seconds of its DMA engines.
    """

    leg: Leg
    sends: np.ndarray
    busy: np.ndarray
    latency: np.ndarray
    link_s: np.ndarray
    data_s: float

    @property
    def alone(self) -> np.ndarray:
        """Ticks of the leg on each rank if all begin together and are alike: `int64[ranks]`."""
        if self.leg.kind == "once":
            return self.latency.max(0)
        if self.leg.kind == "turn":
            return self.latency.sum(0)
        return self.latency[0] + (self.leg.pieces - 1) * self.busy[0]

    @property
    def occupied(self) -> np.ndarray:
        """Ticks of the leg in which each rank moves data: `int64[ranks]`."""
        if self.leg.kind == "once":
            return self.busy.max(0)
        return self.leg.pieces * self.busy.sum(0)


def steps(device: Device, group: Group, leg: Leg) -> Steps:
    """The times of a leg when every core of a chip runs the same collective."""
    sends = np.ones(len(group.index), bool) if leg.sends is None else leg.sends
    load = device.cores_running * sends.astype(np.float64)
    data_s, _ = Pass(0, leg.read_bytes, leg.written_bytes).seconds(device, 1)
    if leg.kind == "once":
        way = shifted(device, group.sizes, group.at, leg.shifts, load)
        hops = way.hops
        link_s = leg.nbytes * way.seconds_per_byte
    else:
        each = {
            by: shifted(device, group.sizes, group.at, (by,), load)
            for by in {*leg.shifts}
        }
        hops = np.concatenate([each[by].hops for by in leg.shifts])
        link_s = np.concatenate(
            [leg.nbytes * each[by].seconds_per_byte for by in leg.shifts]
        )
    in_sequence = 1 if leg.kind == "once" else len(leg.shifts) * leg.pieces
    busy_s = np.maximum(link_s, data_s / in_sequence) * sends
    used_s = link_s.max(0) if leg.kind == "once" else leg.pieces * link_s.sum(0)
    return Steps(
        leg,
        sends,
        _ticks(device, busy_s),
        _ticks(device, busy_s + hops * device.link_hop_s),
        used_s,
        data_s,
    )


def _ticks(device: Device, seconds: np.ndarray) -> np.ndarray:
    """Whole ticks, rounded up, as `Device.ticks` does."""
    return np.ceil(np.round(seconds * device.tick_hz, 6)).astype(np.int64)


# --- cost ---


def cost(device: Device, here: np.ndarray, legs: Sequence[Steps]) -> Cost:
    """What one core spends on a collective.

    Args:
      device: the machine.
      here: the rank of every core, broadcastable to the mesh.
      legs: its legs; none for a single rank.
    """
    if not legs:
        return Cost(engine="collective", moved_bytes={}, counts={"link_bytes": 0})

    def total(rows: list[Any]) -> Any:
        return per_core(np.sum(rows, 0)[here])

    read, written, sent = (
        total([np.ceil(amount(x.leg) * x.sends).astype(np.int64) for x in legs])
        for amount in (_read_bytes, _written_bytes, _sent_bytes)
    )
    data = per_core(_ticks(device, np.sum([x.data_s * x.sends for x in legs], 0))[here])
    link = per_core(_ticks(device, np.sum([x.link_s for x in legs], 0))[here])
    return Cost(
        engine="collective",
        busy_cycles=total([x.occupied for x in legs]),
        latency_cycles=total([np.maximum(x.alone, x.occupied) for x in legs]),
        moved_bytes={"hbm_read": read, "hbm_write": written},
        counts={"link_bytes": sent},
        taken=dict.fromkeys(DMA_QUEUES, data) | {"neuronlink": link},
    )


def _read_bytes(leg: Leg) -> float:
    return leg.read_bytes


def _written_bytes(leg: Leg) -> float:
    return leg.written_bytes


def _sent_bytes(leg: Leg) -> float:
    return len(leg.shifts) * leg.pieces * leg.nbytes


# --- arrival ---


def arrival(
    at: int, c: Crossing, here: np.ndarray, legs: Sequence[Steps], root: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """When every core has its result, and when it is free again: each `int64[*mesh]`.

    Args:
      at: the collective's axis among the mesh's.
      c: when every core could start.
      here: the rank of every core, broadcastable to the mesh.
      legs: one after the other.
      root: rank along the axis at which a chain begins.
    """
    free, ready = c.start_ticks, c.start_ticks
    for x in legs:
        if x.leg.kind == "chain":
            return _chain(at, free, c.destination_idle_ticks, here, x, root)
        through = _in_turn if x.leg.kind == "turn" else _at_once
        free, ready = through(at, free, c.destination_idle_ticks, here, x)
    return ready, free


def _in_turn(at: int, free: Any, idle: Any, here: np.ndarray, x: Steps) -> Any:
    ready = np.zeros_like(free)
    for by, busy, latency in zip(x.leg.shifts, x.busy, x.latency, strict=True):
        begin = np.maximum(free, np.roll(idle, -by, at))
        arrived = np.roll(begin + latency[here], by, at)
        ready = np.maximum(ready, arrived)
        free = np.maximum(begin + busy[here], arrived)
    return free, ready


def _at_once(at: int, free: Any, idle: Any, here: np.ndarray, x: Steps) -> Any:
    left = free
    ready = np.zeros_like(free)
    sends = x.sends[here]
    for by, busy, latency in zip(x.leg.shifts, x.busy, x.latency, strict=True):
        begin = np.maximum(free, np.roll(idle, -by, at))
        arrived = np.where(sends, begin + latency[here], 0)
        ready = np.maximum(ready, np.roll(arrived, by, at))
        left = np.maximum(left, np.where(sends, begin + busy[here], 0))
    ready = np.where(ready > 0, ready, left)  # nobody sends to the only one that does
    return np.maximum(left, ready), ready


def _chain(at: int, free: Any, idle: Any, here: np.ndarray, x: Steps, root: int) -> Any:
    """Rank by rank from the root; a piece leaves once it has come and the one before has left."""

    def from_root(a: np.ndarray) -> np.ndarray:
        return np.moveaxis(np.roll(np.broadcast_to(a, free.shape), -root, at), at, 0)

    start, idle, busy, latency = map(
        from_root, (free, idle, x.busy[0][here], x.latency[0][here])
    )
    piece = np.arange(x.leg.pieces).reshape(-1, *(1,) * (start.ndim - 1))
    come = np.zeros((x.leg.pieces, *start.shape[1:]), np.int64)
    ready, left = np.zeros_like(start), start.copy()
    for d in range(len(start) - 1):
        begin = np.maximum(come, np.maximum(start[d], idle[d + 1]))
        begin = np.maximum.accumulate(begin - piece * busy[d]) + piece * busy[d]
        left[d] = begin[-1] + busy[d]
        come = begin + latency[d]
        ready[d + 1] = come[-1]
    ready[0], left = left[0], np.maximum(left, ready)
    return tuple(np.roll(np.moveaxis(a, 0, at), root, at) for a in (ready, left))


__all__ = ["Group", "Leg", "Steps", "arrival", "cost", "steps"]
