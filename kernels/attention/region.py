"""The region for a variant's decode: fastest by estimate among those that really fit.

Groups of columns do not speak to each other, so what is too wide for the wafer continues in another
band of rows below: 64 groups of 16 columns, on a wafer 755 PEs wide, are two bands, of 47 groups
and of 17.
"""

import dataclasses
import functools
import math
from collections.abc import Iterator

import numpy as np

from emu import Device
from emu.errors import OutOfMemory
from emu.wse.pe.maps import MOST_STRIDE
from emu.wse.placement.regions import DoesNotFit
from kernels.attention.decode_plan import DecodePlan, map_of, own_cycles, plan_on
from kernels.attention.on_pe import DecodeSizes, VariantOnPe
from kernels.refusal import refuse
from kernels.wse.decode.attention_map import AttentionMap, whole_blocks
from kernels.wse.decode.estimate import attention_cycles

# Heights that are tried, each a fixed ratio from the next; the estimate is flat around its least.
ROW_CHOICES = 40
# Slots between which the cycles of a variant's own arithmetic are taken as a straight line.
FEW, MANY = 8, 512


@dataclasses.dataclass(frozen=True)
class OwnCycles:
    """Cycles of a variant's arithmetic on a tile, `fixed + slots * each`."""

    fixed: float
    each: float

    @classmethod
    def of(cls, variant: VariantOnPe, queries: int, device: Device) -> "OwnCycles":
        def cycles(slots: int) -> float:
            return variant.lowered(queries, slots, 1, device).cycles

        few, many = cycles(FEW), cycles(MANY)
        each = (many - few) / (MANY - FEW)
        return cls(few - FEW * each, each)

    def on(self, slots: int) -> float:
        return self.fixed + slots * self.each


def bands(layout: AttentionMap, device: Device) -> int | None:
    """Bands of rows that the region takes; None if the wafer has not as many."""
    a_band = device.grid_width // layout.parts
    if not a_band:
        return None
    count = -(-layout.groups // a_band)
    return count if count * layout.rows <= device.grid_height else None


def regions(
    variant: VariantOnPe, device: Device, rows: int | None, parts: int | None
) -> Iterator[AttentionMap]:
    """Mappings that a wafer has room for, of a height and width if these are given."""
    sizes = variant.sizes
    value_dim = sizes.value_dim or sizes.head_dim
    common = math.gcd(sizes.head_dim, value_dim)
    most = min(device.grid_height, sizes.context)
    heights = np.unique(np.geomspace(1, most, ROW_CHOICES).round().astype(int))
    for height in heights.tolist() if rows is None else [rows]:
        widths = [n for n in _divisors(common) if _has_whole_blocks(sizes, n)]
        for width in widths if parts is None else [parts]:
            # Whether a gap is skipped is estimated once for all numbers of copies.
            of_one = map_of(variant, height, width, device)
            # Maps of one head are summed where they are, so a copy would have to have all of them.
            # Latents are multiplied by weights that a copy would have to have as well.
            is_one = bool(sizes.mixes) or sizes.values_are_keys
            for copies in [1] if is_one else _divisors(sizes.queries):
                layout = dataclasses.replace(of_one, copies=copies)
                if sizes.values_are_keys and layout.held_slots > MOST_STRIDE:
                    continue
                if bands(layout, device) is not None:
                    yield layout


def _has_whole_blocks(sizes: DecodeSizes, parts: int) -> bool:
    """Whether so many columns divide a head without cutting blocks that share a power of two."""
    dims = (sizes.head_dim // parts, (sizes.value_dim or sizes.head_dim) // parts)
    return not sizes.block or all(whole_blocks(n, sizes.block) for n in dims)


def _divisors(number: int) -> list[int]:
    return [n for n in range(1, number + 1) if number % n == 0]


def plan_decode(
    variant: VariantOnPe,
    *,
    device: Device,
    rows: int | None = None,
    parts: int | None = None,
) -> DecodePlan:
    """Chooses a region and checks, byte by byte, that it fits.

    Args:
      variant: what is attended to, and how.
      device: the wafer.
      rows, parts: height of the region and columns of a key/value head, if they are not to be
        chosen.

    Raises:
      DoesNotFit: no region has room for the cache; it says how many bytes there are.
    """

    @functools.cache
    def own(queries: int) -> OwnCycles:
        return OwnCycles.of(variant, queries, device)

    found = list(regions(variant, device, rows, parts))
    if not found and (rows is not None or parts is not None):
        refuse(
            f"a region of {rows or 'any'} rows and {parts or 'any'} columns a key/value head does "
            f"not lie on {device.name}, {device.grid_width} x {device.grid_height} PEs"
        )

    def cycles(layout: AttentionMap) -> float:
        of_slots = own(layout.queries).on
        of_variant, _ = own_cycles(layout, device, of_slots, variant.changes_softmax)
        return attention_cycles(layout, device) + of_variant

    least = None
    for layout in sorted(found, key=cycles):
        if layout.least_bytes > device.sram_bytes - device.code_bytes:
            continue
        plan = plan_on(variant, layout.rows, layout.parts, device, layout.copies)
        needed = plan.least_bytes(device)
        least = needed if least is None else min(least, needed)
        if needed > device.sram_bytes:
            continue
        try:
            plan.sram_bytes(device)
        except OutOfMemory:
            continue
        return plan
    raise _refusal(variant, device, found, least)


def _refusal(
    variant: VariantOnPe, device: Device, found: list[AttentionMap], least: int | None
) -> DoesNotFit:
    room = device.sram_bytes - device.code_bytes
    sizes = variant.sizes
    needed = min((layout.least_bytes for layout in found), default=0)
    why = f"cache and scores alone take at least {needed:,} bytes of a PE"
    if least is not None:
        why = f"cache, the variant's tables and scores take at least {least:,} bytes of a PE"
    dtype = sizes.cache_dtype or sizes.dtype
    return DoesNotFit(
        f"{device.name}: decode of {sizes.batch} x {sizes.heads} heads over {sizes.context:,} keys "
        f"in {dtype}: {why}, which has {device.sram_bytes:,}, {room:,} beside its code; use "
        "fewer keys, a narrower dtype or more rows"
    )


__all__ = ["OwnCycles", "bands", "plan_decode", "regions"]
