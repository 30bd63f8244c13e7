"""Scatters: times by a simulation of every word, values stepped."""

from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from emu import wse
from emu.wse.collectives.programs import (
    scatter,
)
from emu.wse.collectives.scatter import arrival
from emu.wse.timeline.wires import wires
from tests.emu.wse.collectives import line_simulation as simulated
from tests.emu.wse.collectives.line_simulation import as_line
from tests.emu.wse.collectives.on_fabric import (
    PES,
    same,
    stepped,
    timeline,
    values,
)
from tests.emu.wse.collectives.on_timeline import like
from tests.emu.wse.collectives.strategies import SHEETS, skews


@settings(max_examples=60, deadline=None)
@given(SHEETS, skews(2), st.integers(1, 6))
def test_every_word_is_where_the_formula_says(
    sheet: Any, armed: list[int], words: int
) -> None:
    w = wires(sheet.at())
    ways = [simulated.Way(w, i) for i in range(1, len(armed))]
    pes = [simulated.Pe(armed[0], [(None, way) for way in ways], words)]
    pes += [
        simulated.Pe(s, [(way, None)], words)
        for s, way in zip(armed[1:], ways, strict=True)
    ]
    got = arrival.scatter(as_line(armed), words, 0, w)[0, :, 0]
    assert got.tolist() == simulated.run(pes, ways, w)


def test_the_program_is_the_instruction() -> None:
    x = values((PES, 3 * PES), "float32")
    got = stepped(x, lambda line, x, y: scatter(line, y[:], x, "s"), 3).values["y"][0]
    program = timeline(
        lambda x: wse.scatter(like(x, (3,)), x.reshape(PES, 3), axis="row")
    )
    same(got, program.run(x))
