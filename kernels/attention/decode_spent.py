"""What a decode step's time goes to on the PE that works most: four kinds that sum to the whole.

    hops and reductions       waits for other PEs, and the wires' own time
    products with the cache   scores and weighted values, every key and value from SRAM once
    scalar code               exponentials, sums and whatever has no vector operation
    vector operations         the rest of the arithmetic, tiles filled and copied

The PE that works most waits least: what it waits for is the fabric, where on another PE it would
be the work of this one. Of causal attention to 131,072 keys, 32 heads over 8: of 8,061 cycles 4,285
are hops and reductions, 2,358 products, 1,222 scalar code and 196 vector operations; a soft-cap
adds 1,056 of scalar code and 112 of vector operations.
"""

import functools
from typing import Any, Protocol

import numpy as np

from emu import Device, Reading
from emu.instruction import registered

HOPS = "hops and reductions"
PRODUCTS = "products with the cache"
SCALAR = "scalar code"
VECTOR = "vector operations"
SPENT_ON = (HOPS, PRODUCTS, SCALAR, VECTOR)

# By home of the instruction, or by its name where others of the same home count as something else.
_MODULES = {
    "emu.wse.pe.chosen_map": PRODUCTS,
    "emu.wse.pe.maps": PRODUCTS,
    "emu.wse.pe.narrow": SCALAR,
    "emu.wse.pe.nibbles": VECTOR,
    "emu.wse.pe.packed": VECTOR,
    "emu.wse.pe.ranking": SCALAR,
    "emu.wse.pe.scalar": SCALAR,
    "emu.wse.pe.isa": VECTOR,
    "emu.wse.pe.elementwise": VECTOR,
}
_NAMES = {
    "wse.scalar_of_one_live": SCALAR,
    "wse.scalar_of_two_live": SCALAR,
    "wse.scalar_select_live": SCALAR,
    "wse.lookup_live": SCALAR,
    # Beside the products that its codes are for.
    "wse.copy_chosen": VECTOR,
}


@functools.cache
def kinds() -> dict[str, str]:
    """Instruction of the wafer to what its time is counted as."""
    found: dict[str, str] = {}
    for one in registered():
        if not one.name.startswith("wse."):
            continue
        if one.arrival is not None:
            found[one.name] = HOPS
        elif one.name in _NAMES:
            found[one.name] = _NAMES[one.name]
        else:
            found[one.name] = _MODULES[one.meaning.__module__]
    return found


class Plan(Protocol):
    """What tells its clock."""

    def read(self, device: Device, **options: Any) -> Reading:
        """The clock."""
        ...


def decode_spent(plan: Plan, reading: Reading, device: Device) -> dict[str, int]:
    """Cycles by kind of the PE that works most; they sum to those of the whole region.

    Args:
      plan: of the step.
      reading: of it, on that device.
      device: the wafer.
    """
    work = sum(
        np.broadcast_to(ticks, reading.grid)
        for (_, what), ticks in reading.spent.items()
        if what == "work"
    )
    place = np.unravel_index(int(np.argmax(work)), reading.grid)
    core = tuple(int(index) for index in place)
    traced = plan.read(device, trace_core=core)
    spent: dict[str, int] = dict.fromkeys(SPENT_ON, 0)
    free = 0
    for event in traced.events:
        # From when the one before was done: waits are the fabric's, within its instructions.
        spent[kinds()[event.name]] += event.end - free
        free = event.end
    # Others end later by the hops that lie between.
    spent[HOPS] += reading.end_ticks - free
    return spent


__all__ = ["HOPS", "PRODUCTS", "SCALAR", "SPENT_ON", "VECTOR", "decode_spent", "kinds"]
