"""Ring all-reduces: sums in the order of the ring, times by a simulation of every word."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings

from emu import EmulationError, Program, wse
from emu.errors import LimitExceeded
from emu.wse import WSE2
from emu.wse.collectives import programs
from emu.wse.collectives.programs import (
    Line,
    ring_all_reduce,
)
from emu.wse.collectives.ring_all_reduce import arrival
from emu.wse.fabric.program import FabricProgram
from emu.wse.timeline.folded_ring import places, ring_hops
from emu.wse.timeline.wires import wires
from tests.emu.wse.collectives import line_simulation as simulated
from tests.emu.wse.collectives.line_simulation import as_line
from tests.emu.wse.collectives.on_fabric import (
    DTYPES,
    PES,
    same,
    stepped,
    timeline,
    values,
)
from tests.emu.wse.collectives.on_timeline import like, on_line
from tests.emu.wse.collectives.strategies import SHEETS, WORDS, skews
from tests.emu.wse.single_pe import struct


def chained(x: np.ndarray, join: Any) -> np.ndarray:
    """From the far end to the first, each sum rounded to the array's dtype."""
    acc = x[-1]
    for own in x[-2::-1]:
        acc = join(own.astype(np.float64), acc.astype(np.float64))
        acc = acc.astype(np.float32).astype(x.dtype)
    return acc


@pytest.mark.parametrize("op", ["add", "max"])
@pytest.mark.parametrize("pes", [1, 2, 5, 6])
def test_chunks_are_added_round_the_ring(pes: int, op: str) -> None:
    """Chunk c starts one place beyond place c of the ring and ends there, everywhere at last."""
    x = np.random.default_rng(pes).standard_normal((2, pes, 3 * pes)).astype(np.float16)
    call = lambda x: wse.ring_all_reduce(like(x), x, axis="row", op=op)  # noqa: E731
    program = Program(call, {"col": 2, "row": pes}, (("col", "row"),))
    got = np.asarray(program.run(x))
    line = [*range(0, pes, 2), *reversed(range(1, pes, 2))]
    for col in range(2):
        for c in range(pes):
            part = slice(3 * c, 3 * c + 3)
            order = [line[(c + k) % pes] for k in range(pes, 0, -1)]
            expected = chained(
                x[col][order, part], np.add if op == "add" else np.maximum
            )
            assert (got[col][:, part] == expected).all()
    clock = program.read(WSE2.at(), x)
    # A step sends 2 words and takes 2; the ring is there and back.
    assert clock.tally.by("other")["wavelet_hops"] == 2 * 2 * 2 * (pes - 1) * 2 * (
        pes - 1
    )
    assert clock.tally.flops == 2 * pes * (pes - 1) * 3


def test_ring_wants_whole_chunks() -> None:
    program = on_line(4, lambda x: wse.ring_all_reduce(like(x), x, axis="row"))
    with pytest.raises(EmulationError, match="n a multiple of the ring's 4 PEs"):
        program.read(WSE2.at(), struct((4, 7)))


@DTYPES
def test_the_program_is_the_instruction(dtype: str) -> None:
    x = values((PES, 2 * PES), dtype)
    got = stepped(x, lambda line, x, y: ring_all_reduce(line, x, "r")).values["x"][0]
    program = timeline(lambda x: wse.ring_all_reduce(like(x), x, axis="row"))
    same(got, program.run(x))


@settings(max_examples=60, deadline=None)
@given(SHEETS, skews(2), WORDS)
def test_every_word_is_where_the_formula_says(
    sheet: Any, armed: list[int], words: int
) -> None:
    """Even places send first and odd ones receive first; nobody waits for ever."""
    pes, w = len(armed), wires(sheet.at())
    line, hops = places(pes), ring_hops(pes).tolist()
    assert sum(hops) == 2 * (pes - 1)  # there and back
    starts = [armed[i] for i in line]
    expected = simulated.ring(starts, hops, words, 2 * (pes - 1), w)
    got = arrival.ring_all_reduce(as_line(armed), words, w)[0, :, 0]
    assert got[line].tolist() == expected


def test_a_program_wants_whole_chunks() -> None:
    program = FabricProgram(5)
    with pytest.raises(LimitExceeded, match="multiple of the ring's 5 PEs; pad it"):
        programs.ring_all_reduce(Line(program), program.buffer("x", 8), "r")
