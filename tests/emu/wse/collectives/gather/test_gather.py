"""Gathers: blocks in their order, hops, and times by hand."""

from typing import Any

import numpy as np
import pytest

from emu import EmulationError, Program, wse
from emu.errors import LimitExceeded
from emu.wse import WSE3
from emu.wse.collectives.programs import (
    Line,
    gather,
)
from emu.wse.fabric.program import FabricProgram
from tests.emu.wse.collectives.on_fabric import (
    PES,
    same,
    stepped,
    timeline,
    values,
)
from tests.emu.wse.collectives.on_timeline import ENDS, GAP, like, on_line
from tests.emu.wse.single_pe import struct


def test_gather_and_scatter_are_there_and_back() -> None:
    x = np.random.default_rng(0).standard_normal((2, 6, 2, 3)).astype(np.float32)

    def there_and_back(x: Any) -> Any:
        tile = lambda shape: wse.sram_tile(shape=shape, dtype=x.dtype)  # noqa: E731
        y = wse.gather(tile((3, 2, 3)), x, axis="row", group=3)
        return y, wse.scatter(tile((2, 3)), y, axis="row", group=3)

    mesh = {"col": 2, "row": 6}
    program = Program(
        there_and_back, mesh, (("col", "row"),), (("col", "row"), ("col", "row"))
    )
    gathered, back = map(np.asarray, program.run(x))
    assert (gathered[:, ::3] == x.reshape(2, 2, 3, 2, 3)).all() and (back == x).all()
    assert np.isnan(gathered[:, 1:3]).all()
    assert program.read(WSE3.at(), x).tally.by("other")["wavelet_hops"] == 2 * 4 * 6 * (
        1 + 2
    )

    def one(x: Any) -> Any:
        return wse.gather(wse.sram_tile(shape=(4, 6), dtype=x.dtype), x, axis="row")

    # PE 0 copies its own 24 bytes (6 and 2 cycles), then three streams wait for it, one by one.
    clock = on_line(4, one).read(WSE3.at(), struct((4, 6)))
    assert clock.end_ticks == ENDS["WSE-3"] + 6 + 2 + 3 * 6 + 2 * GAP["WSE-3"]
    bad = on_line(4, lambda x: wse.gather(like(x), x, axis="row"))
    with pytest.raises(EmulationError, match="must be .4, 6."):
        bad.read(WSE3.at(), struct((4, 6)))


def test_the_program_is_the_instruction() -> None:
    x = values((PES, 3), "float32")
    run = stepped(x, lambda line, x, y: gather(line, y, x[:], "g"), 3 * PES)
    program = timeline(lambda x: wse.gather(like(x, (PES, 3)), x, axis="row"))
    got = run.values["y"][0, 0].reshape(PES, 3)
    same(got, np.asarray(program.run(x))[0])


def test_a_program_wants_a_block_of_every_pe() -> None:
    program = FabricProgram(5)
    line, x = Line(program), program.buffer("x", 8)
    with pytest.raises(
        LimitExceeded, match="blocks of 4 elements on 5 PEs and 'x' of 8, must be"
    ):
        gather(line, x, x[:4], "g")
    with pytest.raises(LimitExceeded, match="groups of 2 must divide 5 PEs"):
        Line(program, "x", group=2)
