"""Multicasts along a line: values, hops, and times by hand, by simulation and stepped."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from emu import EmulationError, wse
from emu.wse import WSE2, WSE3
from emu.wse.collectives.multicast import arrival
from emu.wse.collectives.programs import (
    multicast,
)
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
from tests.emu.wse.collectives.on_timeline import ENDS, GAP, like, on_line
from tests.emu.wse.collectives.strategies import SHEETS, WORDS, skews


@pytest.mark.parametrize(("sheet", "hop"), [(WSE2, 1), (WSE3, 2)], ids=["wse2", "wse3"])
@pytest.mark.parametrize(("pes", "words"), [(2, 1), (8, 5), (64, 300)])
def test_multicast_takes_b_plus_hops_plus_two_ramps(
    sheet: Any, hop: int, pes: int, words: int
) -> None:
    program = on_line(pes, lambda x: wse.multicast(like(x), x, axis="row"))
    x = np.random.default_rng(0).standard_normal((pes, words)).astype(np.float32)
    assert (np.asarray(program.run(x)) == x[:1]).all()
    clock = program.read(sheet.at(), x)
    assert clock.end_ticks == ENDS[sheet.name] + words + hop * (pes - 1) + 2 * 2 + 1
    assert clock.tally.by("other")["wavelet_hops"] == words * (pes - 1)


def test_multicast_from_the_middle_sends_twice() -> None:
    """PE 2 of 9 sends west, then east: the far end is 6 hops away."""
    x = np.arange(27, dtype=np.float32).reshape(9, 3)
    program = on_line(9, lambda x: wse.multicast(like(x), x, axis="row", root=2))
    assert (np.asarray(program.run(x)) == x[2]).all()
    clock = program.read(WSE2.at(), x)
    assert clock.end_ticks == ENDS["WSE-2"] + 3 + GAP["WSE-2"] + 3 + 6 + 2 * 2 + 1
    assert clock.tally.by("other")["wavelet_hops"] == 3 * 8
    with pytest.raises(
        EmulationError, match="root is 9, must be a whole number from 0 to 8"
    ):
        on_line(9, lambda x: wse.multicast(like(x), x, axis="row", root=9)).read(
            WSE2.at(), x
        )


@settings(max_examples=100, deadline=None)
@given(SHEETS, skews(), WORDS, st.integers(0, 9))
def test_multicast_both_ways(
    sheet: Any, armed: list[int], words: int, root: int
) -> None:
    w, root = wires(sheet.at()), root % len(armed)
    got = arrival.multicast(as_line(armed), np.array([[[words]]]), root, w)[
        0, :, 0
    ].tolist()
    expected, sends = armed.copy(), armed[root]
    for side in (range(root - 1, -1, -1), range(root + 1, len(armed))):
        if side:
            sends, *received = simulated.multicast(
                sends, [armed[i] for i in side], words, w
            )
            for i, end in zip(side, received, strict=True):
                expected[i] = end
    expected[root] = sends
    assert got == expected


@pytest.mark.parametrize("root", [0, 5, PES - 1])
@DTYPES
def test_the_program_is_the_instruction(root: int, dtype: str) -> None:
    x = values((PES, 7), dtype)
    got = stepped(x, lambda line, x, y: multicast(line, x[:], "b", root)).values["x"][0]
    program = timeline(lambda x: wse.multicast(like(x), x, axis="row", root=root))
    same(got, program.run(x))
