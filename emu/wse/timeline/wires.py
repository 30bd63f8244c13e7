"""What lies between two PEs: stages, their latencies, and how many wavelets wait in them.

A wavelet passes an output queue, the routers on its way and an input queue. It enters a stage only
if fewer wavelets wait there, or are on their way to it, than the stage's depth plus its latency;
a place that becomes free is seen a cycle later by the stage behind.

Over two hops of a WSE-3, whose queues hold 8, 2 a router and 4 the input queue of a collective's
color, ramps of 2 cycles and hops of 2 cycles:

    stage           output queue   router   router   router   input queue
    depth           8              2        2        2        4
    cycles to it    1              2        2        2        2

`latency(2)` is 1 + 2 + 2 + 2 + 2 = 9 cycles. `room(2)` is what fits if nobody takes anything: the
depths, 18, and one wavelet for each cycle on the way, 9, that is 27.
"""

import dataclasses
from typing import TypeVar, cast

import numpy as np

from emu.datasheet import Device

_Count = TypeVar("_Count", int, np.ndarray)

QUEUE = 2  # of a collective's colours; the longer ones of those that system code leaves free


@dataclasses.dataclass(frozen=True)
class Wires:
    """A fabric's latencies in cycles and its stages' depths in wavelets.

    Attributes:
      hop_cycles, ramp_cycles: from router to router, and between a PE and its router.
      setup_cycles: from an operation's dispatch to its first element.
      drain_cycles: from its last element to the next one's dispatch, less one.
      out_words, router_words, in_words: depths.
      send_words: wavelets that a PE sends from memory in one cycle.
      stream_cycles: distance of two wavelets of one stream.
    """

    hop_cycles: int
    ramp_cycles: int
    setup_cycles: int
    drain_cycles: int
    out_words: int
    router_words: int
    in_words: int
    send_words: int
    stream_cycles: float

    @property
    def gap_cycles(self) -> int:
        """From the end of an operation's last element to the first one of the next."""
        return self.drain_cycles + self.setup_cycles

    @property
    def link_words(self) -> int:
        """What a router and the link to it hold."""
        return self.router_words + self.hop_cycles

    @property
    def inlet_words(self) -> int:
        """What an input queue and the ramp to it hold."""
        return self.in_words + self.ramp_cycles

    @property
    def outlet_words(self) -> int:
        """What an output queue, the first router and the ways to them hold."""
        return self.out_words + 1 + self.router_words + self.ramp_cycles

    def latency(self, hops: _Count) -> _Count:
        """From an element's execution to the earliest execution `hops` away."""
        return 1 + 2 * self.ramp_cycles + self.hop_cycles * hops

    def room(self, hops: _Count) -> _Count:
        """Wavelets sent and not yet consumed that fit between two PEs."""
        return self.outlet_words + self.inlet_words + hops * self.link_words

    def credit(self, hops: _Count) -> _Count:
        """From a consumption until the sender sees the place it freed: a cycle a stage."""
        # The input queue, a router for each hop, the sender's router and the output queue.
        return hops + 3

    def span(self, words: _Count) -> _Count:
        """From the first to the last of `words` wavelets of a stream that nothing holds up."""
        if self.stream_cycles == 1:
            return words - 1
        # At 1.1 cycles a wavelet the eleventh of a stream comes 11 cycles after the first, not 10.
        slowed = np.ceil((words - 1) * self.stream_cycles).astype(np.int64)
        return cast(_Count, slowed)

    def sending(self, words: _Count) -> _Count:
        """The same on the sender's datapath, which may fill its output queue faster."""
        if self.send_words == 1:
            return self.span(words)
        issues = -(-words // self.send_words)
        # Of 20 words two an issue, into a queue of 8, the last issue is not 9 but 20 - 8 = 12
        # cycles after the first (`_into_empty` in `fabric/trains/trains.py` lists them all).
        until_queued = self.span(words) + 1 - self.out_words
        return cast(_Count, np.maximum(issues - 1, until_queued))

    def dispatch_after(self, last: _Count) -> _Count:
        """When a PE dispatches its next operation, from this one's last element."""
        return last + 1 + self.drain_cycles


def wires(device: Device, queue: int = QUEUE) -> Wires:
    """The wires of a device between output queue and input queue `queue`."""
    return Wires(
        hop_cycles=int(device.hop_cycles),
        ramp_cycles=int(device.ramp_cycles),
        setup_cycles=int(device.fabric_setup_cycles),
        drain_cycles=int(device.vector_drain_cycles),
        out_words=int(device.output_queue_words[queue]),
        router_words=int(device.router_queue_words),
        in_words=int(device.input_queue_words[queue]),
        send_words=int(device.send_words),
        stream_cycles=float(device.stream_cycles),
    )


__all__ = ["QUEUE", "Wires", "wires"]
