"""Blocks of a line's first PE to all of its PEs."""

import math

import numpy as np

from emu.datasheet import Device
from emu.wse import spaces
from emu.wse.collectives.collective import Collective, Use, of_a_line, on_a_line
from emu.wse.collectives.scatter import arrival, meaning, program
from emu.wse.pe.isa import sram_tile
from emu.wse.pe.laws import move_cycles
from emu.wse.timeline.times import Times
from emu.wse.timeline.wires import wires


def _draw(rng: np.random.Generator, pes: int) -> Use:
    words = int(rng.choice([1, 2, 5, 13, 30]))

    def formula(armed: Times, device: Device) -> Times:
        copy_cycles = math.ceil(move_cycles(device, 4 * words, descriptors=0))
        return arrival.scatter(armed, words, copy_cycles, wires(device), turned=True)

    def scattered(x: spaces.Sram) -> spaces.Sram:
        block = sram_tile(shape=(words,), dtype=x.dtype)
        return meaning.scatter(block, x.reshape(pes, words), axis="col")

    return Use(
        of=f"blocks of {words} words to {pes} PEs",
        shape=(1, pes),
        elements=pes * words,
        result=("y", words),
        instruction=scattered,
        program=on_a_line(lambda line, x, y: program.scatter(line, y[:], x, "s")),
        arrival=of_a_line(formula),
        same_clock=pes == 2,
    )


COLLECTIVE = Collective(
    instruction=meaning.scatter,
    arrival=arrival.scatter,
    program=program.scatter,
    draw=_draw,
    starts_apart=False,
)

__all__ = ["COLLECTIVE"]
