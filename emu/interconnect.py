"""The link between the two machines: EFA out of the chips, Ethernet into the wafer.

Each chip's NIC sends its messages in order; all of them share the wafer's ingress. A message is
complete when its last byte is counted in, not when its last packet was sent: EFA does not order
packets. Two machines' clocks meet here, so times are exact fractions of a second.
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from fractions import Fraction

from emu.datasheet import Device, Quantity, Sheet

_EFA = "aws-neuron-sdk 2.32 neuron-runtime/explore/internode-collective-comm.rst"
_MOONCAKE = (
    "Mooncake transfer engine documentation at 3b5a594, p5en 16x200G, EFA writes"
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class LinkSheet(Sheet):
    """One direction of the hand-off link."""

    core: str = "link"
    home: str = "hbm"
    tick_hz: int | None = None
    engines: Mapping[str, str | None] = dataclasses.field(
        default_factory=dict[str, str | None]
    )
    capacity: Mapping[str, str | None] = dataclasses.field(
        default_factory=dict[str, str | None]
    )

    latency_s: Quantity
    nic_bytes_per_s: Quantity
    nic_operations_per_s: Quantity
    operation_bytes: Quantity
    ingress_bytes_per_s: Quantity


EFA = LinkSheet(
    name="EFA",
    latency_s=Quantity(
        15e-6,
        "published",
        f"{_EFA}: 15 us HBM to HBM on Trn2's EFAv3; none published for Trn3",
    ),
    nic_bytes_per_s=Quantity(
        22.8e9,
        "derived",
        f"200 Gbps a chip (trn3-arch.rst) times 365/400 reached ({_MOONCAKE}); best seen 97.5 %",
        24.4e9,
        18.9e9,
    ),
    nic_operations_per_s=Quantity(
        92_000, "derived", f"{_MOONCAKE}: min(1.47 M/s x block, 365 GB/s) over 16 NICs"
    ),
    operation_bytes=Quantity(
        1 << 20,
        "assumed",
        "blocks coalesced to the size at which the line saturates",
        2 << 20,
        256 << 10,
    ),
    ingress_bytes_per_s=Quantity(
        150e9,
        "published",
        "CS-3: 12 x 100 GbE; a ceiling, the path into SRAM is undocumented",
    ),
)


@dataclasses.dataclass(frozen=True)
class Message:
    """Bytes that leave one chip together.

    Attributes:
      ready_s: when they stand in the chip's HBM.
      chip: which NIC sends them.
      nbytes: how many.
    """

    ready_s: Fraction
    chip: int
    nbytes: int


@dataclasses.dataclass(frozen=True)
class Transfer:
    """What sending a list of messages took.

    Attributes:
      nbytes, operations: sums.
      started_s, finished_s: first byte out, last byte counted in.
      arrived_s: when each message was complete, in the order given.
    """

    nbytes: int
    operations: int
    started_s: Fraction
    finished_s: Fraction
    arrived_s: list[Fraction]


def send(link: Device, messages: Sequence[Message]) -> Transfer:
    """Sends messages in the order in which they are ready; cut-through, first come first served.

    A NIC is busy `max(bytes / rate, operations / operation rate)`: the operation-rate law measured
    on EFA.

    Example: of the nominal `EFA`, 1 MiB in one operation from one chip takes 46.0 us to leave at
    22.8 GB/s, and is complete 15 us later. From each of eight chips at once, 182.4 GB/s want to
    come in and 150 GB/s can: the last is complete after 55.9 us and the same 15 us.

    Raises:
      ValueError: no messages, or one without bytes.
    """
    if not messages:
        raise ValueError("no messages to send")
    for message in messages:
        if message.nbytes < 1:
            raise ValueError(
                f"a message of {message.nbytes} bytes from chip {message.chip}, at least 1"
            )
    # A float is a fraction exactly, so nothing is rounded from here on: messages that are ready at
    # the same time compare equal, and no order hangs on a last bit.
    nic_rate = Fraction(link.nic_bytes_per_s)
    operation_rate = Fraction(link.nic_operations_per_s)
    ingress_rate = Fraction(link.ingress_bytes_per_s)
    latency_s = Fraction(link.latency_s)

    def turn(number: int) -> tuple[Fraction, int]:
        return messages[number].ready_s, messages[number].chip

    never_used = Fraction(0)
    nic_free: dict[int, Fraction] = {}
    ingress_free = never_used
    started: list[Fraction] = []
    arrived = [Fraction(0)] * len(messages)
    operations = 0
    for number in sorted(range(len(messages)), key=turn):
        message = messages[number]
        count = math.ceil(message.nbytes / link.operation_bytes)
        start = max(message.ready_s, nic_free.get(message.chip, never_used))
        # The size of an operation decides which holds: 92,000 a second of 1 MiB would be 96 GB/s,
        # far over the line's 22.8; of 64 KiB they are 6.0 GB/s.
        sent = start + max(message.nbytes / nic_rate, count / operation_rate)
        nic_free[message.chip] = sent
        # Cut-through: the wafer counts bytes in from the moment at which the NIC begins to send.
        ingress_free = max(start, ingress_free) + message.nbytes / ingress_rate
        # Complete once the slower of the two is through: of 1 MiB alone the NIC, 46.0 us, not the
        # ingress, 7.0 us.
        arrived[number] = max(sent, ingress_free) + latency_s
        started.append(start)
        operations += count
    return Transfer(
        nbytes=sum(message.nbytes for message in messages),
        operations=operations,
        started_s=min(started),
        finished_s=max(arrived),
        arrived_s=arrived,
    )
