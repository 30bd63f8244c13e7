"""What lies between two PEs: stages, their latencies, and how many wavelets wait in them.

A wavelet passes an output queue, the routers on its way and an input queue. It enters a stage only
if fewer wavelets wait there, or are on their way to it, than the stage's depth plus its latency;
a place that becomes free is seen a cycle later by the stage behind.
"""

import dataclasses
import math
from typing import Any

import numpy as np

from emu.datasheet import Device

QUEUE = 2  # of a collective's colours; the longer ones of those that system code leaves free


@dataclasses.dataclass(frozen=True)
class Wires:
    """A fabric's latencies in cycles and its stages' depths in wavelets."""

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

    def latency(self, hops: Any) -> Any:
        """From an element's execution to the earliest execution `hops` away."""
        return 1 + 2 * self.ramp_cycles + self.hop_cycles * hops

    def room(self, hops: Any) -> Any:
        """Wavelets sent and not yet consumed that fit between two PEs."""
        ends = self.out_words + 1 + self.in_words + self.ramp_cycles
        return ends + self.router_words + self.ramp_cycles + hops * self.link_words

    @property
    def link_words(self) -> int:
        """What a router and the link to it hold."""
        return self.router_words + self.hop_cycles

    @property
    def inlet_words(self) -> int:
        """What an input queue and the ramp to it hold."""
        return self.in_words + self.ramp_cycles

    def credit(self, hops: Any) -> Any:
        """From a consumption until the sender sees the place it freed: a cycle a stage."""
        return hops + 3

    def span(self, words: Any) -> Any:
        """From the first to the last of `words` wavelets of a stream that nothing holds up."""
        if self.stream_cycles == 1:
            return words - 1
        return np.ceil((words - 1) * self.stream_cycles).astype(np.int64)

    def sending(self, words: Any) -> Any:
        """The same on the sender's datapath, which may fill its output queue faster."""
        if self.send_words == 1:
            return self.span(words)
        issues = -(-words // self.send_words)
        return np.maximum(issues - 1, self.span(words) + 1 - self.out_words)


def wires(device: Device, queue: int = QUEUE) -> Wires:
    """The wires of a device between output queue and input queue `queue`."""
    return Wires(
        int(device.hop_cycles),
        int(device.ramp_cycles),
        int(device.fabric_setup_cycles),
        int(device.vector_drain_cycles),
        int(device.output_queue_words[queue]),
        int(device.router_queue_words),
        int(device.input_queue_words[queue]),
        int(device.send_words),
        float(device.stream_cycles),
    )


def operation_cycles(device: Device, words: Any, sends: bool = False) -> Any:
    """One fabric operation that nothing holds up, from its dispatch to the next one's."""
    per = int(device.send_words) if sends else 1
    issues = -(-np.asarray(words) // per)
    return device.fabric_setup_cycles + issues + device.vector_drain_cycles


def call_cycles(device: Device) -> int:
    """What begins a collective: its address, one register load, the branches to a PE's role."""
    return math.ceil(device.role_cycles + device.descriptor_load_cycles)


__all__ = ["QUEUE", "Wires", "call_cycles", "operation_cycles", "wires"]
