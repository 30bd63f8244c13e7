"""Every PE's block to the first PE of its line."""

import math

import numpy as np

from emu.datasheet import Device
from emu.wse import spaces
from emu.wse.collectives.collective import Collective, Use, of_a_line, on_a_line
from emu.wse.collectives.gather import arrival, meaning, program
from emu.wse.pe.isa import sram_tile
from emu.wse.pe.laws import move_cycles
from emu.wse.timeline.times import Times
from emu.wse.timeline.wires import wires


def _draw(rng: np.random.Generator, pes: int) -> Use:
    words = int(rng.choice([1, 2, 5, 13, 30]))

    def formula(armed: Times, device: Device) -> Times:
        copy_cycles = math.ceil(move_cycles(device, 4 * words, descriptors=0))
        return arrival.gather(armed, words, copy_cycles, wires(device), turned=True)

    def gathered(x: spaces.Sram) -> spaces.Sram:
        blocks = sram_tile(shape=(pes, words), dtype=x.dtype)
        return meaning.gather(blocks, x, axis="col")

    return Use(
        of=f"blocks of {words} words from {pes} PEs",
        shape=(1, pes),
        elements=words,
        result=("y", pes * words),
        instruction=gathered,
        program=on_a_line(lambda line, x, y: program.gather(line, y, x[:], "g")),
        arrival=of_a_line(formula),
        same_clock=pes == 2,
        receivers=(np.arange(pes) == 0)[None],
    )


COLLECTIVE = Collective(
    instruction=meaning.gather,
    arrival=arrival.gather,
    program=program.gather,
    draw=_draw,
)

__all__ = ["COLLECTIVE"]
