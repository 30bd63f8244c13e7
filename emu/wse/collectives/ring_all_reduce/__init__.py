"""Sums and maxima on every PE of a line, chunk by chunk round a ring folded onto it."""

import numpy as np

from emu.datasheet import Device
from emu.wse.collectives.collective import Collective, Use, of_a_line, on_a_line
from emu.wse.collectives.ring_all_reduce import arrival, meaning, program
from emu.wse.timeline.times import Times
from emu.wse.timeline.wires import wires


def _draw(rng: np.random.Generator, pes: int) -> Use:
    pes = min(pes, 12)  # 2 (P - 1) steps of P chunks take long to step
    chunk = int(rng.choice([1, 2, 5, 13, 30]))
    op = str(rng.choice(["add", "max"]))

    def formula(armed: Times, device: Device) -> Times:
        return arrival.ring_all_reduce(armed, chunk, wires(device))

    return Use(
        of=f"{op} on a ring of {pes} PEs, chunks of {chunk} words",
        shape=(1, pes),
        elements=chunk * pes,
        result=("x", chunk * pes),
        instruction=lambda x: meaning.ring_all_reduce(x, x, axis="col", op=op),
        program=on_a_line(lambda line, x, y: program.ring_all_reduce(line, x, "r", op)),
        arrival=of_a_line(formula),
    )


COLLECTIVE = Collective(
    instruction=meaning.ring_all_reduce,
    arrival=arrival.ring_all_reduce,
    program=program.ring_all_reduce,
    draw=_draw,
)

__all__ = ["COLLECTIVE"]
