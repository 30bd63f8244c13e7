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
from emu.trainium.links.neuronlink import per_core, whole_ticks
from emu.trainium.links.routes import Routed, shifted


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

    @property
    def sent_bytes(self) -> float:
        """Bytes that one rank sends in the whole leg."""
        return len(self.shifts) * self.pieces * self.nbytes


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
        # The first piece is through after its latency; each further one leaves `busy` later.
        return self.latency[0] + (self.leg.pieces - 1) * self.busy[0]

    @property
    def occupied(self) -> np.ndarray:
        """Ticks of the leg in which each rank moves data: `int64[ranks]`."""
        if self.leg.kind == "once":
            return self.busy.max(0)
        return self.leg.pieces * self.busy.sum(0)


def steps(device: Device, group: Group, leg: Leg) -> Steps:
    """The times of a leg when every core of a chip runs the same collective.

    Example: a ring of 4 chips around one dimension of a Trn2 torus, one core each, 256 KiB a step.
    All four send to their neighbour at once, each over its own link of 128 B/ns: 2.05 us, and a hop
    of 1.5 us until it arrives. To the chip two further even ranks go up and odd ones down, so that
    no link carries two: again 2.05 us, and two hops. With 8 cores running, 8 transfers share every
    link: 16.4 us, and a hop.
    """
    everybody = np.ones(len(group.index), bool)
    sends = everybody if leg.sends is None else leg.sends
    # Each core of a chip runs the collective over data of its own: 8 cores put 8 transfers on a
    # link that one core's ring uses once a step.
    load = device.cores_running * sends.astype(np.float64)
    traffic = Pass(steps=0, reads=leg.read_bytes, writes=leg.written_bytes)
    # `Pass` counts in chunks; the leg's traffic is in bytes, which are chunks of one.
    data_s, _ = traffic.seconds(device, chunk_bytes=1)
    ways = _ways(device, group, leg, load)
    hops = np.concatenate([way.hops for way in ways])
    seconds_per_byte = np.concatenate([way.seconds_per_byte for way in ways])
    link_s = leg.nbytes * seconds_per_byte
    if leg.kind == "once":
        in_sequence = 1
        # What they share is in each transfer's seconds a byte already, so the longest is the time
        # of all together; the sum would count it again.
        used_s = link_s.max(0)
    else:
        in_sequence = len(leg.shifts) * leg.pieces
        used_s = leg.pieces * link_s.sum(0)
    # DMA engines and HBM work evenly through the leg: each transfer has an equal share of it.
    busy_s = np.maximum(link_s, data_s / in_sequence) * sends
    return Steps(
        leg=leg,
        sends=sends,
        busy=whole_ticks(device, busy_s),
        latency=whole_ticks(device, busy_s + hops * device.link_hop_s),
        link_s=used_s,
        data_s=data_s,
    )


def _ways(device: Device, group: Group, leg: Leg, load: np.ndarray) -> list[Routed]:
    """What the leg's transfers find: all of them together, or those of one shift after another."""
    if leg.kind == "once":
        return [shifted(device, group.sizes, group.at, leg.shifts, load)]
    return [shifted(device, group.sizes, group.at, (by,), load) for by in leg.shifts]


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

    def whole(nbytes: float, times: Steps) -> np.ndarray:
        return np.ceil(nbytes * times.sends).astype(np.int64)

    def total(of_legs: list[np.ndarray]) -> Any:
        # By rank, then to the cores: the mesh may have axes over a chip's cores, which are alike.
        of_ranks = np.sum(of_legs, 0)
        return per_core(of_ranks[here])

    busy = [times.occupied for times in legs]
    latency = [np.maximum(times.alone, times.occupied) for times in legs]
    read = [whole(times.leg.read_bytes, times) for times in legs]
    written = [whole(times.leg.written_bytes, times) for times in legs]
    sent = [whole(times.leg.sent_bytes, times) for times in legs]
    data_s = np.sum([times.data_s * times.sends for times in legs], 0)
    link_s = np.sum([times.link_s for times in legs], 0)
    data = per_core(whole_ticks(device, data_s)[here])
    link = per_core(whole_ticks(device, link_s)[here])
    return Cost(
        engine="collective",
        busy_cycles=total(busy),
        latency_cycles=total(latency),
        moved_bytes={"hbm_read": total(read), "hbm_write": total(written)},
        counts={"link_bytes": total(sent)},
        # Transfers of the core's own that run beside it share its DMA engines and links.
        taken={**dict.fromkeys(DMA_QUEUES, data), "neuronlink": link},
    )


# --- arrival ---


def arrival(
    at: int,
    crossing: Crossing,
    here: np.ndarray,
    legs: Sequence[Steps],
    root: int = 0,
) -> tuple[np.ndarray, np.ndarray]:
    """When every core has its result, and when it is free again: each `int64[*mesh]`.

    Args:
      at: the collective's axis among the mesh's.
      crossing: when every core could start.
      here: the rank of every core, broadcastable to the mesh.
      legs: one after the other.
      root: rank along the axis at which a chain begins.
    """
    idle = crossing.destination_idle_ticks
    free = crossing.start_ticks
    ready = free
    for times in legs:
        begins = Begins(at, here, free, idle)
        if times.leg.kind == "chain":
            ready, free = _chain(begins, times, root)
        elif times.leg.kind == "turn":
            ready, free = _in_turn(begins, times)
        else:
            ready, free = _at_once(begins, times)
    return ready, free


@dataclasses.dataclass(frozen=True, eq=False)
class Begins:
    """When a leg may begin on every core.

    Attributes:
      at: the collective's axis among the mesh's.
      here: the rank of every core, broadcastable to the mesh.
      free: when the core itself is, in ticks, `int64[*mesh]`.
      idle: when its destination is.
    """

    at: int
    here: np.ndarray
    free: np.ndarray
    idle: np.ndarray

    def receiver_idle(self, shift: int) -> np.ndarray:
        """When the destination is idle of the rank `shift` further along, to which a core sends."""
        # Of ranks 0 to 3 and shift 1, place 0 then holds what rank 1 had, place 3 what rank 0 had.
        return np.roll(self.idle, -shift, self.at)

    def at_receiver(self, ticks: np.ndarray, shift: int) -> np.ndarray:
        """Senders' times, each at the place of its receiver."""
        return np.roll(ticks, shift, self.at)


def _in_turn(begins: Begins, times: Steps) -> tuple[np.ndarray, np.ndarray]:
    """When each core has what the leg brings it, and is free: step by step."""
    free = begins.free
    ready = np.zeros_like(free)
    transfers = zip(times.leg.shifts, times.busy, times.latency, strict=True)
    for shift, busy, latency in transfers:
        # A late rank delays one more rank a step. Example: 4 ranks, shift 1, busy 10 and latency
        # 15, all at 0 but rank 0 at 100. After a step rank 1 has its data at 115, the others at 15;
        # after two ranks 1 and 2 at 125 and 130; after three ranks 1 to 3 at 135, 140 and 145, rank
        # 0 at 45.
        begin = np.maximum(free, begins.receiver_idle(shift))
        arrived = begins.at_receiver(begin + latency[begins.here], shift)
        ready = np.maximum(ready, arrived)
        # What a step brings is what the next one sends on or adds to.
        free = np.maximum(begin + busy[begins.here], arrived)
    return ready, free


def _at_once(begins: Begins, times: Steps) -> tuple[np.ndarray, np.ndarray]:
    """When each core has what the leg brings it, and is free: all transfers together."""
    left = begins.free
    ready = np.zeros_like(left)
    sends = times.sends[begins.here]
    transfers = zip(times.leg.shifts, times.busy, times.latency, strict=True)
    for shift, busy, latency in transfers:
        begin = np.maximum(begins.free, begins.receiver_idle(shift))
        # 0 is no arrival: it never is the latest.
        arrived = np.where(sends, begin + latency[begins.here], 0)
        ready = np.maximum(ready, begins.at_receiver(arrived, shift))
        left = np.maximum(left, np.where(sends, begin + busy[begins.here], 0))
    ready = np.where(ready > 0, ready, left)  # nobody sends to the only one that does
    return ready, np.maximum(left, ready)


def _chain(begins: Begins, times: Steps, root: int) -> tuple[np.ndarray, np.ndarray]:
    """When each core has its result, and is free: rank by rank from the root.

    A piece leaves once it has come and the one before has left. Example: 3 pieces that take 10
    ticks to leave and 15 to arrive. From a root that starts at 0 they leave at 0, 10 and 20 and
    come to the second rank at 15, 25 and 35; they leave it at the same times and come to the third
    at 30, 40 and 50. If the second may start at 30 only, they leave it at 30, 40 and 50.
    """

    at = begins.at
    pieces = times.leg.pieces

    def from_root(values: np.ndarray) -> np.ndarray:
        """The chain's axis first, the root at its place 0."""
        whole = np.broadcast_to(values, begins.free.shape)
        return np.moveaxis(np.roll(whole, -root, at), at, 0)

    def as_placed(values: np.ndarray) -> np.ndarray:
        """The inverse."""
        return np.roll(np.moveaxis(values, 0, at), root, at)

    start = from_root(begins.free)
    idle = from_root(begins.idle)
    busy = from_root(times.busy[0][begins.here])
    latency = from_root(times.latency[0][begins.here])
    others = start.shape[1:]
    number = np.arange(pieces).reshape(-1, *(1,) * len(others))
    come = np.zeros((pieces, *others), np.int64)
    ready = np.zeros_like(start)
    left = start.copy()
    for rank in range(len(start) - 1):
        # Once the piece has come, the rank itself is free, and the next one's buffer is.
        possible = np.maximum(come, np.maximum(start[rank], idle[rank + 1]))
        # Piece p begins at the largest, over the pieces q to p, of possible[q] + (p - q) · busy:
        # without p · busy that is a running maximum.
        before = number * busy[rank]
        begin = np.maximum.accumulate(possible - before) + before
        left[rank] = begin[-1] + busy[rank]
        come = begin + latency[rank]
        ready[rank + 1] = come[-1]
    # The root has what it sends from the start, and is done when the last piece has left it.
    ready[0] = left[0]
    left = np.maximum(left, ready)
    return as_placed(ready), as_placed(left)


__all__ = ["Group", "Leg", "Steps", "arrival", "cost", "steps"]
