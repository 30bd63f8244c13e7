"""All-reduces and a product as programs, stepped: when they end and what they give."""

from typing import Any

import numpy as np
import pytest

from emu.wse import WSE2, WSE3, trees
from emu.wse.collectives.multicast import arrival as of_multicasts
from emu.wse.collectives.programs import (
    Code,
    Line,
    everywhere,
    multicast,
    reduce,
)
from emu.wse.collectives.reduce import arrival as of_trees
from emu.wse.fabric import ops, stepper
from emu.wse.fabric.program import FabricProgram
from emu.wse.trees import Tree
from tests.emu.wse.collectives.reduce.test_reduce_program import MEETING, NAMED, drawn
from tests.emu.wse.collectives.side_by_side import fabric, run

SHEETS = pytest.mark.parametrize("sheet", [WSE2, WSE3], ids=lambda s: s.name)
few = pytest.param(24, id="few")
many = pytest.param(120, id="many", marks=pytest.mark.slow)


def all_reduce(line: Line, x: ops.Memory, tree: Tree, prefix: str = "") -> Code:
    to_root = reduce(line, x, tree, f"{prefix}r")
    return to_root + multicast(line, x, f"{prefix}b", tree.root)


@pytest.mark.parametrize("count", [few, many])
@SHEETS
def test_all_reduce_through_the_middle(sheet: Any, count: int) -> None:
    """Two-tree, then both ways from its root: every PE has the sum when the two formulas say."""
    device, w = fabric(sheet)
    made = (NAMED["two-tree"], NAMED["two-tree, stored"])
    cases = [case for tree in made for case in drawn(count // 2, tree, 7)]
    got = run(cases, all_reduce, device, path="cycles")
    for row, case in enumerate(cases):
        done = of_trees.reduce(case.armed, case.count, case.what, w, turned=True)
        expected = of_multicasts.multicast(done, case.count, case.what.root, w)[0, :, 0]
        assert got.ends[row, : len(case.starts)].tolist() == expected.tolist(), case


@pytest.mark.parametrize(
    ("along", "words", "name"),
    [
        ("x", 7, "two-tree"),
        pytest.param("y", 40, "two-tree", marks=pytest.mark.slow),
        pytest.param("x", 256, "two-tree", marks=pytest.mark.slow),
        pytest.param("y", 256, "chain", marks=pytest.mark.slow),
        pytest.param("x", 30, "binary", marks=pytest.mark.slow),
        pytest.param("y", 30, "two-phase", marks=pytest.mark.slow),
        pytest.param("x", 2, "star", marks=pytest.mark.slow),
    ],
)
def test_a_whole_line_of_the_wafer(along: str, words: int, name: str) -> None:
    """A row of 755 PEs or a column of 1,170: all-reduce by every kind of tree."""
    device, w = fabric(WSE3)
    pes = int(device.grid_width if along == "x" else device.grid_height)
    tree = {
        "two-tree": trees.two_tree(pes, 27),
        "chain": trees.chain(pes),
        "star": trees.star(pes),
        "binary": trees.binary(pes),
        "two-phase": trees.two_phase(pes, 30),
    }[name]
    program = FabricProgram(*((pes, 1) if along == "x" else (1, pes)))
    line = Line(program, along)
    all_reduce(line, program.buffer("x", words)[:], tree).declare(
        program, "main", start=True
    )
    got = stepper.run(program, device, path="cycles").ends.reshape(-1)
    done = of_trees.reduce(
        np.zeros((1, pes, 1), np.int64),
        np.array(words).reshape(1, 1, 1),
        tree,
        w,
        turned=True,
    )
    expected = of_multicasts.multicast(
        done, np.array(words).reshape(1, 1, 1), tree.root, w
    )
    late = got.max() - expected.max()
    assert 0 <= late <= (tree.depth * w.link_words if name in MEETING else 0)


def test_a_product_along_rows_and_columns() -> None:
    """Broadcast down, multiply, all-reduce along: `y = W^T x` by blocks, in float64 beside it."""
    height, width, n, m = 3, 4, 5, 6
    rng = np.random.default_rng(1)
    weights, x = (
        rng.standard_normal((height, width, n, m)),
        rng.standard_normal((width, n)),
    )
    program = FabricProgram(width, height)
    a, w = program.buffer("x", n), program.buffer("w", n * m)
    y = program.buffer("y", m)
    work = [ops.copy(y[:], 0.0), ops.Map(y[:], w[:], a[:])]
    total = multicast(Line(program, "y"), a[:], "down") + everywhere(program, *work)
    total += all_reduce(Line(program, "x"), y[:], trees.two_tree(width, 2), "")
    total.declare(program, "main", start=True)
    data = {
        "x": np.where(np.arange(height)[:, None, None] == 0, x, np.nan),
        "w": weights.reshape(height, width, n * m),
    }
    got = stepper.run(program, WSE3.at(), data).values["y"]
    expected = np.einsum("hwnm,wn->hm", weights, x)
    np.testing.assert_allclose(
        got, np.broadcast_to(expected[:, None], got.shape), rtol=1e-5
    )
