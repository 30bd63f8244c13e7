"""What AWS's Elastic Fabric Adapter does between chips and wafers: rates, latency, first use."""

import dataclasses
from collections.abc import Mapping

from emu.datasheet import Quantity, Sheet

_EFA = "aws-neuron-sdk 2.32 neuron-runtime/explore/internode-collective-comm.rst"
_MOONCAKE = (
    "Mooncake transfer engine documentation at 3b5a594, p5en 16x200G, EFA writes"
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class LinkSheet(Sheet):
    """One direction of the hand-off link.

    Attributes:
      latency_s: from one machine's memory to the other's.
      nic_bytes_per_s: of one chip.
      nic_operations_per_s: writes that one chip's NIC begins.
      operation_bytes: most that pages are coalesced to.
      read_share: of that rate, what reads by the receiver reach.
      first_submit_s: what a NIC's first operation takes longer, where nothing was sent before.
    """

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
    read_share: Quantity
    first_submit_s: Quantity


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
    read_share=Quantity(
        304 / 366,
        "derived",
        f"{_MOONCAKE}: reads 304 GB/s, writes 366; low: p5 382 and 389; high: as measured",
        382 / 389,
        304 / 366,
    ),
    first_submit_s=Quantity(
        26e-3,
        "published",
        f"{_MOONCAKE}: cold first submit 26 ms; 99 before endpoints were shared",
        26e-3,
        99e-3,
    ),
)

__all__ = ["EFA", "LinkSheet"]
