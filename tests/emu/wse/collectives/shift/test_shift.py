"""Shifts round a ring: values, hops, and times by simulation and by hand."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from emu import EmulationError, wse
from emu.errors import LimitExceeded
from emu.wse import WSE3
from emu.wse.collectives.programs import (
    Line,
    code,
    shift,
)
from emu.wse.collectives.shift import arrival
from emu.wse.fabric import ops, stepper
from emu.wse.fabric.program import FabricProgram
from emu.wse.timeline.folded_ring import places, ring_hops
from emu.wse.timeline.wires import wires
from tests.emu.wse.collectives import line_simulation as simulated
from tests.emu.wse.collectives.line_simulation import as_line
from tests.emu.wse.collectives.on_fabric import PES, same, stepped, timeline, values
from tests.emu.wse.collectives.on_timeline import like, on_line
from tests.emu.wse.collectives.strategies import SHEETS, WORDS, skews


def test_shift_is_cyclic_and_two_hops_long() -> None:
    x = np.arange(15, dtype=np.float32).reshape(5, 3)
    for by in (1, -1):
        program = on_line(5, lambda x, by=by: wse.shift(like(x), x, axis="row", by=by))
        assert (np.asarray(program.run(x)) == np.roll(x, by, 0)).all()
        # A call; places 1 and 3 receive, then send, and place 2 has sent before it receives; of
        # five places the last one's receiver, the first, sends first too.
        clock = program.read(WSE3.at(), x)
        armed = np.full((1, 5, 1), 24)
        assert clock.end_ticks == arrival.shift(armed, 3, by, wires(WSE3.at())).max()
        assert clock.tally.by("other")["wavelet_hops"] == 3 * 2 * (5 - 1)
    with pytest.raises(EmulationError, match="by is 2, must be 1 or -1"):
        on_line(5, lambda x: wse.shift(like(x), x, axis="row", by=2)).read(WSE3.at(), x)


def test_shift_on_microthreads_sends_and_takes_at_once() -> None:
    """WSE-3, in cycles: 4 to set up, then 1 + 2 ramps + 2 hops of 2 to the datapath of the next.

    Even places dispatch their send in cycle 1, so that the first word is taken in cycle 5 + 9 and
    the eighth in 21, and the task starts in the next one; odd places dispatch the receive before.
    """
    device, program = WSE3.at(), FabricProgram(6)
    x, y = program.buffer("x", 8)[:], program.buffer("y", 8)[:]
    begins = code(program, [(np.s_[:, :], [ops.Code(1)])])
    moves = shift(Line(program), y, x, "s", threads=(1, 2), activate="on")
    (begins + moves).declare(program, "main", start=True)
    program.task("on", [ops.Stamp("on")])
    stamps = stepper.run(program, device, path="cycles").stamps["on"][0]
    late = int(device.async_cycles)
    nearer = 2  # a hop less, where the ring turns round: from PE 1 to 0 and from 4 to 5
    # the ring visits PEs 0, 2, 4, 5, 3, 1: those at odd places send to PEs 4, 3 and 0
    assert stamps.tolist() == [
        22 - nearer + late,
        22,
        22,
        22 + late,
        22 + late,
        22 - nearer,
    ]


@pytest.mark.parametrize("by", [1, -1])
def test_the_program_is_the_instruction(by: int) -> None:
    """A PE's number in the mesh is its place in the ring."""
    x, ring = values((PES, 5), "float32"), places(PES)
    line = np.empty_like(x)
    line[ring] = x
    got = stepped(line, lambda line, x, y: shift(line, y[:], x[:], "s", by), 5).values[
        "y"
    ][0]
    program = timeline(lambda x: wse.shift(like(x), x, axis="row", by=by))
    same(got[ring], program.run(x))


@settings(max_examples=60, deadline=None)
@given(SHEETS, skews(2), WORDS, st.sampled_from([1, -1]))
def test_every_word_is_where_the_formula_says(
    sheet: Any, armed: list[int], words: int, by: int
) -> None:
    """Even places send first and odd ones receive first; nobody waits for ever."""
    pes, w = len(armed), wires(sheet.at())
    hops = ring_hops(pes).tolist()
    way = [0, *range(1, pes)] if by == 1 else [0, *range(pes - 1, 0, -1)]
    back = hops if by == 1 else hops[::-1]
    expected = simulated.ring([armed[i] for i in way], back, words, 1, w)
    got = arrival.shift(as_line(armed), words, by, w)[0, :, 0]
    assert got[way].tolist() == expected


@pytest.mark.parametrize("by", [1, -1])
@pytest.mark.parametrize("pes", [3, 4, 5, 64])
def test_three_colors_serve_however_long_the_line_is(pes: int, by: int) -> None:
    program = FabricProgram(pes)
    x, y = program.buffer("x", 8)[:], program.buffer("y", 8)[:]
    shift(Line(program), y, x, "s", by)
    assert len(program.colors) == 3


def test_a_program_shifts_by_one() -> None:
    program = FabricProgram(5)
    x = program.buffer("x", 8)[:]
    with pytest.raises(LimitExceeded, match="by is 2, must be 1 or -1"):
        shift(Line(program), x, x, "s", 2)
