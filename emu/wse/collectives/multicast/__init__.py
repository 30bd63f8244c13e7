"""One PE's tile to every PE of its line.

*Multicast* is the word for it here, as routers forward one wavelet to several places at once;
HPDC'24 and the catalogue of fabric programs list it as *broadcast*.
"""

import numpy as np

from emu.datasheet import Device
from emu.wse.collectives.collective import Collective, Use, of_a_line, on_a_line
from emu.wse.collectives.multicast import arrival, meaning, program
from emu.wse.timeline.times import Times
from emu.wse.timeline.wires import wires


def _draw(rng: np.random.Generator, pes: int) -> Use:
    """From either end or from inside.

    Where late PEs have held up the first side, its words may still be in the output queue, and the
    second one's take turns with them on the ramp.
    """
    words = int(rng.choice([1, 2, 3, 5, 8, 16, 30, 64, 256]))
    root = int(rng.choice([0, pes // 2, pes - 1]))

    def formula(armed: Times, device: Device) -> Times:
        length = np.array(words).reshape(1, 1, 1)
        return arrival.multicast(armed, length, root, wires(device))

    def late_cycles(device: Device) -> int:
        sends_both_ways = 0 < root < pes - 1
        return wires(device).out_words if sends_both_ways else 0

    return Use(
        of=f"from PE {root} of {pes}, {words} words",
        shape=(1, pes),
        elements=words,
        result=("x", words),
        instruction=lambda x: meaning.multicast(x, x, axis="col", root=root),
        program=on_a_line(lambda line, x, y: program.multicast(line, x[:], "m", root)),
        arrival=of_a_line(formula),
        late_cycles=late_cycles,
    )


COLLECTIVE = Collective(
    instruction=meaning.multicast,
    arrival=arrival.multicast,
    program=program.multicast,
    draw=_draw,
)

__all__ = ["COLLECTIVE"]
