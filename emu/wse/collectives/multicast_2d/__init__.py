"""The corner PE's tile to every PE of a rectangle, as one stream."""

import numpy as np

from emu.datasheet import Device
from emu.wse.collectives.collective import AXES, Collective, Use
from emu.wse.collectives.multicast_2d import arrival, meaning, program
from emu.wse.timeline.wires import wires


def _draw(rng: np.random.Generator, pes: int) -> Use:
    """Over a few rows of so many PEs."""
    words = int(rng.choice([1, 8, 30]))
    rows = int(rng.integers(1, 6))

    def ends(device: Device, starts: np.ndarray) -> np.ndarray:
        return arrival.multicast_2d(starts, words, wires(device))

    return Use(
        of=f"{rows} x {pes} PEs, {words} words",
        shape=(rows, pes),
        elements=words,
        result=("x", words),
        instruction=lambda x: meaning.multicast_2d(x, x, axes=AXES),
        program=lambda p, within, x, y: program.multicast_2d(p, x[:], "m", within),
        arrival=ends,
    )


COLLECTIVE = Collective(
    instruction=meaning.multicast_2d,
    arrival=arrival.multicast_2d,
    program=program.multicast_2d,
    draw=_draw,
    starts_apart=False,
)

__all__ = ["COLLECTIVE"]
