"""Shift, ring, gather, scatter and rectangles, stepped: when they end is what formulas say."""

from typing import Any

import numpy as np
import pytest

from emu.errors import LimitExceeded
from emu.wse import WSE2, WSE3, trees
from emu.wse.collectives.gather import arrival as of_gather
from emu.wse.collectives.multicast_2d import arrival as of_2d
from emu.wse.collectives.programs import (
    Code,
    Line,
    code,
    gather,
    multicast_2d,
    reduce_2d,
    reduce_snake,
    ring_all_reduce,
    scatter,
    shift,
)
from emu.wse.collectives.reduce import arrival as of_trees
from emu.wse.collectives.reduce.over_rectangle import snake
from emu.wse.collectives.ring_all_reduce import arrival as of_ring
from emu.wse.collectives.scatter import arrival as of_scatter
from emu.wse.collectives.shift import arrival as of_shift
from emu.wse.fabric import ops, stepper
from emu.wse.fabric.program import FabricProgram
from emu.wse.pe.laws import move_cycles
from emu.wse.timeline.folded_ring import places
from tests.emu.wse.side_by_side import Case, fabric, run, starts

SHEETS = pytest.mark.parametrize("sheet", [WSE2, WSE3], ids=lambda s: s.name)
few = pytest.param(18, id="few")
many = pytest.param(120, id="many", marks=pytest.mark.slow)
SKEWS = (0, 20, 300)


def drawn(
    count: int, pes: list[int], words: list[int], blocks: bool = False
) -> list[Case]:
    """Cases of `words` a PE, or of as many blocks of so many words as there are PEs."""
    rng = np.random.default_rng(count)
    out = []
    for n in range(count):
        p, w = int(rng.choice(pes)), int(rng.choice(words))
        out.append(Case(starts(rng, p, SKEWS[n % 3]), w * p if blocks else w, w))
    return out


def whole(x: ops.Memory) -> ops.Buffer:
    return ops.Buffer(x.buffer, x.elements, x.dtype, x.address)


def beside(line: Line, x: ops.Memory, elements: int) -> ops.Memory:
    """Room for more elements on a line."""
    return line.program.buffer(
        f"y{len(line.program.buffers)}", elements, where=line.place
    )[:]


@pytest.mark.parametrize("count", [few, many])
@pytest.mark.parametrize("by", [1, -1])
@SHEETS
def test_shift(sheet: Any, by: int, count: int) -> None:
    device, w = fabric(sheet)
    cases = drawn(count, [2, 3, 4, 5, 8, 16, 23, 64], [1, 2, 5, 13, 30, 64, 256])
    got = run(
        cases,
        lambda line, x, n: shift(line, beside(line, x, n), x, "s", by),
        device,
        path="cycles",
    )
    assert len(got.encoded.program.colors) == 3
    for row, case in enumerate(cases):
        line = places(len(case.starts))
        expected = of_shift.shift(case.armed[:, line], case.what, by, w)[0, :, 0]
        assert got.ends[row, line].tolist() == expected.tolist(), case


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


@pytest.mark.parametrize("count", [few, many])
@SHEETS
def test_ring_all_reduce(sheet: Any, count: int) -> None:
    device, w = fabric(sheet)
    cases = drawn(count, [2, 3, 4, 7, 8, 12], [1, 2, 5, 13, 30], blocks=True)
    got = run(
        cases,
        lambda line, x, n: ring_all_reduce(line, whole(x), "r"),
        device,
        path="cycles",
    )
    for row, case in enumerate(cases):
        expected = of_ring.ring_all_reduce(case.armed, case.what, w)[0, :, 0]
        assert got.ends[row, : len(case.starts)].tolist() == expected.tolist(), case


@pytest.mark.parametrize("count", [few, many])
@SHEETS
def test_gather(sheet: Any, count: int) -> None:
    """The first PE keeps its own block, then takes the others': a star that does not add."""
    device, w = fabric(sheet)
    cases = drawn(count, [2, 3, 4, 7, 16, 23], [1, 2, 5, 13, 30], blocks=True)

    def build(line: Line, x: ops.Memory, n: int) -> Code:
        return gather(line, whole(x), beside(line, x, n), "g")

    got = run(cases, build, device, path="cycles")
    for row, case in enumerate(cases):
        own = int(move_cycles(device, 4 * case.what, descriptors=0))
        expected = of_gather.gather(case.armed, case.what, own, w, True)[0, 0, 0]
        assert got.ends[row, 0] == expected, case


@pytest.mark.parametrize("count", [few, many])
@SHEETS
def test_scatter_where_nobody_is_late(sheet: Any, count: int) -> None:
    """A control wavelet behind each block turns its receiver's router."""
    device, w = fabric(sheet)
    cases = drawn(count, [2, 3, 4, 7, 16, 23], [1, 2, 5, 13, 30], blocks=True)
    cases = [Case((1,) * len(c.starts), c.words, c.what) for c in cases]

    def build(line: Line, x: ops.Memory, n: int) -> Code:
        return scatter(line, beside(line, x, n), whole(x), "s")

    got = run(cases, build, device, path="cycles")
    for row, case in enumerate(cases):
        own = int(move_cycles(device, 4 * case.what, descriptors=0))
        expected = of_scatter.scatter(case.armed, case.what, own, w, True)[0, :, 0]
        assert got.ends[row, : len(case.starts)].tolist() == expected.tolist(), case


# --- rectangles ---


def rectangle(
    device: Any, begin: np.ndarray, words: int, build: Any, within: Any = np.s_[:, :]
) -> np.ndarray:
    """`int[rows, columns]`: ends of a program inside a larger grid."""
    rows, columns = begin.shape
    program = FabricProgram(columns + 2, rows + 1)
    inside = np.s_[1:, 1:-1]
    x = program.buffer("x", words)[:]
    waits = [
        (np.s_[y + 1, c + 1], [ops.Code(int(begin[y, c]))])
        for y in range(rows)
        for c in range(columns)
    ]
    (code(program, waits) + build(program, x, inside)).declare(
        program, "main", start=True
    )
    return stepper.run(program, device, path="cycles").ends[inside]


@pytest.mark.parametrize(
    ("rows", "columns"),
    [
        (1, 1),
        (5, 7),
        *(pytest.param(*s, marks=pytest.mark.slow) for s in ((1, 5), (4, 1))),
    ],
)
@SHEETS
def test_broadcast_over_a_rectangle_is_one_stream(
    sheet: Any, rows: int, columns: int
) -> None:
    device, w = fabric(sheet)
    for words in (1, 8, 30):
        begin = np.ones((rows, columns), np.int64)
        got = rectangle(
            device, begin, words, lambda p, x, at: multicast_2d(p, x, "b", at)
        )
        expected = begin if rows * columns == 1 else of_2d.multicast_2d(begin, words, w)
        assert got.tolist() == expected.tolist()


@pytest.mark.parametrize("sheet", [pytest.param(WSE2, marks=pytest.mark.slow), WSE3])
def test_reduce_over_a_rectangle(sheet: Any) -> None:
    """Rows and then the roots' column; or one chain to and fro through all PEs."""
    device, w = fabric(sheet)
    rng = np.random.default_rng(0)
    begin, words = 1 + rng.integers(0, 50, (6, 9)), np.array(13).reshape(1, 1, 1)
    row, column = trees.two_tree(9, 3), trees.two_tree(6, 2)
    got = rectangle(
        device, begin, 13, lambda p, x, at: reduce_2d(p, x, row, column, "r", at)
    )
    armed = of_trees.reduce(begin.T[None], words, row, w, turned=True)[:, row.root]
    done = of_trees.reduce(armed[..., None], words, column, w, turned=True)
    assert got[column.root, row.root] == done[0, column.root, 0]

    got = rectangle(device, begin, 13, lambda p, x, at: reduce_snake(p, x, "s", at))
    path = snake(FabricProgram(9, 6)).reshape(-1)
    armed = np.empty((1, 54, 1), np.int64)
    armed[0, path, 0] = begin.reshape(-1)
    done = of_trees.reduce(armed, words, trees.chain(54), w)[0, :, 0]
    assert got.reshape(-1).tolist() == done[path].tolist()


def test_errors_name_what_is_wrong() -> None:
    program = FabricProgram(5)
    line, x = Line(program), program.buffer("x", 8)
    with pytest.raises(LimitExceeded, match="multiple of the ring's 5 PEs; pad it"):
        ring_all_reduce(line, x, "r")
    with pytest.raises(LimitExceeded, match="by is 2, must be 1 or -1"):
        shift(line, x[:], x[:], "s", 2)
    with pytest.raises(
        LimitExceeded, match="blocks of 4 elements on 5 PEs and 'x' of 8, must be"
    ):
        gather(line, x, x[:4], "g")
    with pytest.raises(LimitExceeded, match="groups of 2 must divide 5 PEs"):
        Line(program, "x", group=2)
