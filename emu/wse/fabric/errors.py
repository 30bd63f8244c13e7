"""What may be wrong with a fabric program: refused before it runs, or found as it runs."""

import numpy as np

from emu.errors import EmulationError
from emu.wse.fabric.arrays import Grid


def first_of(mask: Grid) -> str:
    """`(x=3, y=0)`: where the first PE of a mask `bool[height, width]` is."""
    y, x = np.argwhere(mask)[0]
    return f"(x={x}, y={y})"


class FabricError(EmulationError):
    """A fabric program that the wafer cannot run as written."""


class Deadlock(FabricError):
    """PEs or wavelets that wait for what never comes."""


class Unread(FabricError):
    """Wavelets that nobody had read when all tasks were done."""


class TwoArrivals(FabricError):
    """Two wavelets on one color reached a router in one cycle."""


class Endless(FabricError):
    """A program that was still running at the cycle at which stepping was to stop."""


__all__ = [
    "Deadlock",
    "Endless",
    "FabricError",
    "TwoArrivals",
    "Unread",
    "first_of",
]
