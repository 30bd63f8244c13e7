"""Whose bytes lie in a wafer's PEs: each region's, by kind, and what every wafer has in use.

A region's PEs hold the same tiles, so one PE's bytes are all PEs'. Of one of Llama 3.1 8B's layers
on 160 x 128 PEs, with 8,192 tokens in bfloat16, a PE has 21,736 bytes of weights, 1,664 of cache,
1,492 of buffers and 4,176 of code, 29,068 of 49,152.
"""

import dataclasses

from emu.wse.placement.regions import Rect
from kernels.wse.decode.pe_bytes import Bytes
from kernels.wse.decode.plan import WaferPlan


@dataclasses.dataclass(frozen=True)
class Entry:
    """A region in the ledger.

    Attributes:
      name: `layer 0` and so on, or `head`.
      wafer: which one.
      region: the rectangle on it.
      pe_bytes: of each of its PEs: weights, all users' caches, buffers, code, a variant's tables.
    """

    name: str
    wafer: int
    region: Rect
    pe_bytes: Bytes

    @property
    def peak_bytes(self) -> int:
        """Of one PE, all kinds together."""
        return sum(self.pe_bytes.values())


@dataclasses.dataclass(frozen=True)
class WaferUse:
    """What one wafer has in use.

    Attributes:
      wafer: which one.
      regions: that lie on it.
      pes: in use.
      peak_bytes: of its fullest PE.
      sram_bytes: of all its PEs, by kind.
    """

    wafer: int
    regions: int
    pes: int
    peak_bytes: int
    sram_bytes: Bytes


def entries(plan: WaferPlan) -> tuple[Entry, ...]:
    """Every region of a plan: the layers' in order, then the head's."""
    each = zip(plan.of_wafers, plan.regions, plan.layers, strict=True)
    layers = [
        Entry(f"layer {number}", wafer, region, kind.bytes)
        for number, (wafer, region, kind) in enumerate(each)
    ]
    head = Entry("head", plan.head_wafer, plan.head_region, plan.head_bytes)
    return (*layers, head)


def wafers(plan: WaferPlan) -> tuple[WaferUse, ...]:
    """Every wafer of a plan, in order."""
    ledger = entries(plan)
    found = []
    for wafer in range(plan.wafers):
        own = [entry for entry in ledger if entry.wafer == wafer]
        total: Bytes = {}
        for entry in own:
            for kind, nbytes in entry.pe_bytes.items():
                total[kind] = total.get(kind, 0) + nbytes * entry.region.pes
        found.append(
            WaferUse(
                wafer=wafer,
                regions=len(own),
                pes=sum(entry.region.pes for entry in own),
                peak_bytes=max(entry.peak_bytes for entry in own),
                sram_bytes=total,
            )
        )
    return tuple(found)


__all__ = ["Entry", "WaferUse", "entries", "wafers"]
