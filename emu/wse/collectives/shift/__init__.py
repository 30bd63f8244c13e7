"""Every PE's tile to the next place of a ring folded onto the line, or to the one before."""

import numpy as np

from emu.datasheet import Device
from emu.wse import spaces
from emu.wse.collectives.collective import Collective, Use, of_a_line, on_a_line
from emu.wse.collectives.shift import arrival, meaning, program
from emu.wse.pe.isa import sram_tile
from emu.wse.timeline.folded_ring import places
from emu.wse.timeline.times import Times
from emu.wse.timeline.wires import wires


def _draw(rng: np.random.Generator, pes: int) -> Use:
    words = int(rng.choice([1, 2, 5, 13, 30, 64, 256]))
    by = int(rng.choice([1, -1]))
    ring = places(pes)

    def formula(armed: Times, device: Device) -> Times:
        done = np.empty_like(armed)
        done[:, ring] = arrival.shift(armed[:, ring], words, by, wires(device))
        return done

    def shifted(x: spaces.Sram) -> spaces.Sram:
        y = sram_tile(shape=x.shape, dtype=x.dtype)
        return meaning.shift(y, x, axis="col", by=by)

    return Use(
        of=f"by {by} on a ring of {pes} PEs, {words} words",
        shape=(1, pes),
        elements=words,
        result=("y", words),
        instruction=shifted,
        program=on_a_line(lambda line, x, y: program.shift(line, y[:], x[:], "s", by)),
        arrival=of_a_line(formula),
        order=ring,
    )


COLLECTIVE = Collective(
    instruction=meaning.shift,
    arrival=arrival.shift,
    program=program.shift,
    draw=_draw,
)

__all__ = ["COLLECTIVE"]
