"""Multicasts over a mesh: one stream, on the timeline and stepped."""

from typing import Any

import numpy as np
import pytest

from emu import EmulationError, Program, wse
from emu.wse import WSE2, WSE3
from emu.wse.collectives.multicast_2d import arrival
from emu.wse.collectives.programs import (
    multicast_2d,
)
from emu.wse.timeline.wires import wires
from tests.emu.wse.collectives.on_timeline import ENDS, like, on_line
from tests.emu.wse.collectives.rectangles import rectangle
from tests.emu.wse.collectives.side_by_side import fabric
from tests.emu.wse.single_pe import struct


@pytest.mark.parametrize("mesh", [{"row": 3, "col": 5}, {"col": 5, "row": 3}])
def test_multicast_over_a_mesh(mesh: dict[str, int]) -> None:
    call = lambda x: wse.multicast_2d(like(x), x, axes=("row", "col"))  # noqa: E731
    program = Program(call, mesh, (tuple(mesh),))
    x = np.arange(30, dtype=np.float32).reshape(*mesh.values(), 2)
    assert (np.asarray(program.run(x)) == x[0, 0]).all()
    clock = program.read(WSE2.at(), x)
    assert clock.end_ticks == ENDS["WSE-2"] + 2 + (2 + 4) + 2 * 2 + 1
    assert clock.tally.by("other")["wavelet_hops"] == 2 * 14
    assert clock.tally.by("bytes") == {"sram_read": 8, "sram_write": 8 * 14}
    line = on_line(4, lambda x: wse.multicast_2d(like(x), x, axes=("row", "row")))
    with pytest.raises(EmulationError, match="must be two"):
        line.read(WSE2.at(), struct((4, 2)))


def test_multicast_over_a_mesh_is_one_stream() -> None:
    """HPDC'24: B + M + N - 2 and two ramps; here with the push, set-up and drain."""
    d = WSE2.at()
    done = arrival.multicast_2d(np.zeros((5, 7), np.int64), 30, wires(d))
    ends = d.fabric_setup_cycles + d.vector_drain_cycles
    assert done.max() == done[4, 6] == ends + 30 + (5 + 7 - 2) + 2 * 2 + 1
    assert done[0, 0] == ends + 30 and done[0, 3] == done[3, 0] == done[2, 1]


SHEETS = pytest.mark.parametrize("sheet", [WSE2, WSE3], ids=lambda s: s.name)


@pytest.mark.parametrize(
    ("rows", "columns"),
    [
        (1, 1),
        (5, 7),
        *(pytest.param(*s, marks=pytest.mark.slow) for s in ((1, 5), (4, 1))),
    ],
)
@SHEETS
def test_over_a_rectangle_it_is_one_stream(sheet: Any, rows: int, columns: int) -> None:
    device, w = fabric(sheet)
    for words in (1, 8, 30):
        begin = np.ones((rows, columns), np.int64)
        got = rectangle(
            device, begin, words, lambda p, x, at: multicast_2d(p, x, "b", at)
        )
        expected = (
            begin if rows * columns == 1 else arrival.multicast_2d(begin, words, w)
        )
        assert got.tolist() == expected.tolist()
