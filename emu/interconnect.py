"""The link between the two machines: EFA out of the chips, Ethernet into the wafers.

Each chip's NIC sends its messages in order; all of them share the links at a wafer's edge, through
which a message goes in parts. A message is complete when its last byte is counted in, not when its
last packet was sent: EFA does not order packets. Two machines' clocks meet here, so times are exact
fractions of a second.
"""

import dataclasses
import heapq
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from fractions import Fraction
from typing import TypeAlias

from emu.datasheet import Device
from emu.link_clock import Resources, Server, Unit, take_together

Port: TypeAlias = tuple[int, int]
"""A link at a wafer's edge: which wafer, and which of its links."""

MODES = ("push", "pull")


Streams: TypeAlias = Mapping[int, Fraction]
"""Of the streams behind a link that take part: for how long each is busy."""


@dataclasses.dataclass(frozen=True)
class Entry:
    """The part of a message that goes through one link at a wafer's edge.

    Attributes:
      port: which link.
      nbytes: how many.
      line_s: what they take on the link.
      streams: what they take on the wafer's routers behind it, which pass them on as they come.
    """

    port: Port
    nbytes: int
    line_s: Fraction = Fraction(0)
    streams: Streams = dataclasses.field(default_factory=dict[int, Fraction])


@dataclasses.dataclass(frozen=True)
class Message:
    """Bytes that leave one chip together.

    Attributes:
      ready_s: when they stand in the chip's HBM.
      chip: which NIC sends them.
      nbytes: how many.
      operations: writes that they are sent by.
      entries: where they enter a wafer, each link once.
      gather_s: what the chip takes to bring them into order, as they are sent.
      tail_s: from the last byte at the edge to its place on the wafer.
    """

    ready_s: Fraction
    chip: int
    nbytes: int
    operations: int
    entries: tuple[Entry, ...]
    gather_s: Fraction = Fraction(0)
    tail_s: Fraction = Fraction(0)

    def __post_init__(self) -> None:
        if self.nbytes < 1:
            raise ValueError(
                f"a message of {self.nbytes} bytes from chip {self.chip}, at least 1"
            )
        if self.operations < 1:
            raise ValueError(
                f"a message of {self.operations} operations from chip {self.chip}, at least 1"
            )
        entered = sum(entry.nbytes for entry in self.entries)
        if entered != self.nbytes:
            raise ValueError(
                f"{entered} bytes of a message from chip {self.chip} enter wafers, must be all "
                f"{self.nbytes}"
            )

    @property
    def wafer(self) -> int:
        """That it goes to."""
        return self.entries[0].port[0]


@dataclasses.dataclass(frozen=True)
class Transfer:
    """What sending a list of messages took.

    Attributes:
      nbytes, operations: sums.
      started_s, finished_s: first byte out, last byte in its place.
      arrived_s: when each message was complete, in the order given.
      alone_s: by resource, what its busiest part takes for its own share of it all.
    """

    nbytes: int
    operations: int
    started_s: Fraction
    finished_s: Fraction
    arrived_s: list[Fraction]
    alone_s: Mapping[str, Fraction]

    @property
    def bound(self) -> str:
        """The resource that takes longest by itself."""
        return max(self.alone_s, key=lambda name: self.alone_s[name])


def send(
    link: Device,
    messages: Sequence[Message],
    *,
    mode: str = "push",
    is_cold: bool = False,
    is_coalesced: bool = False,
) -> Transfer:
    """Sends each chip's messages as they are ready; cut-through, first come first served.

    A NIC is busy `max(bytes / rate, operations / operation rate)`: the operation-rate law measured
    on EFA; or longer, where bringing bytes into order takes longer.

    Example: of the nominal `EFA`, 1 MiB in one operation from one chip takes 46.0 us to leave at
    22.8 GB/s, and is complete 15 us later. From each of sixteen chips at once, 364.8 GB/s want to
    come in and twelve links of 12.5 GB/s let 150 in: the last is complete after 111.8 us and the
    same 15 us.

    Args:
      link: an `EFA` under one band.
      messages: in any order.
      mode: `"push"`, chips write; `"pull"`, the wafers' side reads, whose requests travel first.
      is_cold: whether each NIC's first operation has to set up its connections.
      is_coalesced: whether a NIC takes all that waits for one wafer together, up to the link's
        `operation_bytes`, as one operation; otherwise each message has its own.

    Raises:
      ValueError: no messages, or another mode.
    """
    if not messages:
        raise ValueError("no messages to send")
    if mode not in MODES:
        raise ValueError(f"mode is {mode!r}, must be one of {', '.join(MODES)}")
    pace = _Pace.of(link, mode, is_cold)
    unit, resources = Unit(_times(messages, pace)), Resources()
    count, ways = unit.count, _Ways(unit, resources)
    sending, request = _Sending(pace, unit), count(pace.request_s)
    most_bytes = int(link.operation_bytes) if is_coalesced else 0
    operations = 0
    ready = [count(message.ready_s) for message in messages]
    queues = _by_chip(messages, ready)
    # When each chip's next message starts: whatever the wafers' links do, so that messages enter in
    # the order of their starts.
    starts: list[tuple[int, int]] = []
    before = request + count(pace.first_s)
    for chip, queue in queues.items():
        heapq.heappush(starts, (ready[queue[0]] + before, chip))
    first_start = starts[0][0]
    arrived = [0] * len(messages)
    while starts:
        start, chip = heapq.heappop(starts)
        numbers = _waiting(queues[chip], messages, ready, start - request, most_bytes)
        together = [messages[number] for number in numbers]
        begun = together[0].operations if len(together) == 1 else 1
        operations += begun
        taken = sending.of(together, begun)
        sent = start + max(taken)
        for name, each in zip(_OF_CHIPS, taken, strict=True):
            resources.server(name, (chip,)).take(start, each)
        if queues[chip]:
            following = ready[queues[chip][0]] + request
            heapq.heappush(starts, (max(following, sent), chip))
        # Complete once the slowest is through: of 1 MiB alone the NIC, 46.0 us, not twelve links,
        # 7.0 us.
        done = max(sent, *(ways.enter(message.entries, start) for message in together))
        for number, message in zip(numbers, together, strict=True):
            arrived[number] = done + sending.latency + count(message.tail_s)
    return Transfer(
        nbytes=sum(message.nbytes for message in messages),
        operations=operations,
        started_s=unit.seconds(first_start),
        finished_s=unit.seconds(max(arrived)),
        arrived_s=list(map(unit.seconds, arrived)),
        alone_s=resources.longest(unit),
    )


_OF_CHIPS = "NIC's bytes", "NIC's operations", "chip's gathering"


@dataclasses.dataclass(frozen=True)
class _Pace:
    """A link's numbers as fractions, which floats are exactly: nothing is rounded from there on.

    Messages that are ready at the same time compare equal, and no order hangs on a last bit.

    Attributes:
      bytes_per_s, operations_per_s: of a NIC.
      latency_s: from memory to memory.
      request_s: until a read's request is there.
      first_s: what a NIC's first operation takes longer.
    """

    bytes_per_s: Fraction
    operations_per_s: Fraction
    latency_s: Fraction
    request_s: Fraction
    first_s: Fraction

    @classmethod
    def of(cls, link: Device, mode: str, is_cold: bool) -> "_Pace":
        rate, latency_s = Fraction(link.nic_bytes_per_s), Fraction(link.latency_s)
        request_s = Fraction(0)
        if mode == "pull":
            rate *= Fraction(link.read_share)
            request_s = latency_s
        first_s = Fraction(link.first_submit_s) if is_cold else Fraction(0)
        operations_per_s = Fraction(link.nic_operations_per_s)
        return cls(rate, operations_per_s, latency_s, request_s, first_s)


class _Sending:
    """What messages take a chip, and from memory to memory, in units of time.

    Attributes:
      unit: of time.
      byte, operation, latency: of `_Pace`.
    """

    def __init__(self, pace: _Pace, unit: Unit) -> None:
        self.unit = unit
        self.byte = unit.count(1 / pace.bytes_per_s)
        self.operation = unit.count(1 / pace.operations_per_s)
        self.latency = unit.count(pace.latency_s)

    def of(self, together: Sequence[Message], operations: int) -> tuple[int, int, int]:
        """What bytes, operations and gathering take a chip; the longest of them holds.

        The size of an operation decides which: 92,000 a second of 1 MiB would be 96 GB/s, far over
        the line's 22.8; of 64 KiB they are 6.0 GB/s.
        """
        nbytes = sum(message.nbytes for message in together)
        gathering = sum(self.unit.count(message.gather_s) for message in together)
        return nbytes * self.byte, operations * self.operation, gathering


def _times(messages: Sequence[Message], pace: _Pace) -> Iterator[Fraction]:
    """All times that a transfer is made of."""
    yield from (pace.request_s, pace.first_s, pace.latency_s)
    yield from (1 / pace.bytes_per_s, 1 / pace.operations_per_s)
    for message in messages:
        yield from (message.ready_s, message.gather_s, message.tail_s)
    # Many messages take the same ways, and of several wafers like ones.
    ways = {id(each.entries): each.entries for each in messages}.values()
    yield from (entry.line_s for entries in ways for entry in entries)
    shared = {id(entry.streams): entry.streams for each in ways for entry in each}
    for streams in shared.values():
        yield from streams.values()


def _waiting(
    queue: deque[int],
    messages: Sequence[Message],
    ready: Sequence[int],
    latest: int,
    most_bytes: int,
) -> list[int]:
    """Takes the next message off a queue, and those behind it that wait for the same wafer.

    Args:
      queue: of one chip.
      messages: that it has numbers of.
      ready: when each of them is.
      latest: when those that wait are.
      most_bytes: of all together.
    """
    found = [queue.popleft()]
    nbytes, wafer = messages[found[0]].nbytes, messages[found[0]].wafer
    while queue:
        following = messages[queue[0]]
        nbytes += following.nbytes
        is_ready = ready[queue[0]] <= latest
        if not is_ready or nbytes > most_bytes or following.wafer != wafer:
            break
        found.append(queue.popleft())
    return found


class _Ways:
    """Links, and the streams behind them, that messages take; many messages take the same ones."""

    def __init__(self, unit: Unit, resources: Resources) -> None:
        self.unit = unit
        self.resources = resources
        self.known: dict[int, list[tuple[Server, int]]] = {}
        self.counted: dict[int, list[tuple[int, int]]] = {}

    def enter(self, entries: tuple[Entry, ...], start: int) -> int:
        """When the last of them has passed on its bytes.

        Cut-through: the wafer counts bytes in from the moment at which the NIC begins to send.
        """
        # Entries live as long as their messages do.
        if id(entries) not in self.known:
            self.known[id(entries)] = list(self._servers(entries))
        return take_together(self.known[id(entries)], start)

    def _servers(self, entries: tuple[Entry, ...]) -> Iterator[tuple[Server, int]]:
        server = self.resources.server
        for entry in entries:
            yield server("wafer's links", entry.port), self.unit.count(entry.line_s)
            wafer, link = entry.port
            for stream, taken in self._counted(entry.streams):
                yield server("wafer's fabric", (wafer, link, stream)), taken

    def _counted(self, streams: Streams) -> list[tuple[int, int]]:
        """Streams and what they take; entries of several wafers share them."""
        if id(streams) not in self.counted:
            count = self.unit.count
            self.counted[id(streams)] = [(n, count(s)) for n, s in streams.items()]
        return self.counted[id(streams)]


def _by_chip(
    messages: Sequence[Message], ready: Sequence[int]
) -> dict[int, deque[int]]:
    """Numbers of each chip's messages, in the order in which they are ready."""
    queues: dict[int, deque[int]] = {}
    for number in sorted(range(len(messages)), key=lambda number: ready[number]):
        queues.setdefault(messages[number].chip, deque()).append(number)
    return queues


__all__ = [
    "MODES",
    "Entry",
    "Message",
    "Port",
    "Streams",
    "Transfer",
    "send",
]
