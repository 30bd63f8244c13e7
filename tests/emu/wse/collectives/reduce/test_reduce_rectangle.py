"""Reduces over a rectangle, stepped."""

from typing import Any

import numpy as np
import pytest

from emu.wse import WSE2, WSE3, trees
from emu.wse.collectives.programs import (
    reduce_2d,
    reduce_snake,
)
from emu.wse.collectives.reduce import arrival as of_trees
from emu.wse.collectives.reduce.over_rectangle import snake
from emu.wse.fabric.program import FabricProgram
from tests.emu.wse.collectives.rectangles import rectangle
from tests.emu.wse.collectives.side_by_side import fabric


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
