"""Sums and maxima along a line of PEs into one of them, by any tree."""

import numpy as np

from emu.datasheet import Device
from emu.wse import trees
from emu.wse.collectives.collective import Collective, Use, of_a_line, on_a_line
from emu.wse.collectives.reduce import arrival, meaning, program
from emu.wse.timeline.times import Times
from emu.wse.timeline.wires import wires


def _draw(rng: np.random.Generator, pes: int) -> Use:
    """Along a tree whose streams never meet on a link."""
    words = int(rng.choice([1, 2, 3, 5, 8, 16, 30, 64]))
    op = str(rng.choice(["add", "max"]))
    kinds = [("chain", trees.chain(pes)), ("star", trees.star(pes))]
    name, tree = kinds[int(rng.integers(2))]

    def formula(armed: Times, device: Device) -> Times:
        length = np.array(words).reshape(1, 1, 1)
        return arrival.reduce(armed, length, tree, wires(device), turned=True)

    return Use(
        of=f"{op}, {name} of {pes} PEs, {words} words",
        shape=(1, pes),
        elements=words,
        result=("x", words),
        instruction=lambda x: meaning.reduce(x, x, axis="col", tree=tree, op=op),
        program=on_a_line(
            lambda line, x, y: program.reduce(line, x[:], tree, "r", op=op)
        ),
        arrival=of_a_line(formula),
        receivers=(np.arange(pes) == tree.root)[None],
        same_clock=name == "chain",
    )


COLLECTIVE = Collective(
    instruction=meaning.reduce,
    arrival=arrival.reduce,
    program=program.reduce,
    draw=_draw,
)

__all__ = ["COLLECTIVE"]
