"""A mesh as lines of PEs, and maxima over stretches of them."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from emu.wse.timeline.lines import Lines
from emu.wse.timeline.stretches import latest


def test_lines_that_nothing_tells_apart_are_one() -> None:
    mesh = {"row": 4, "col": 6}
    same = np.broadcast_to(np.arange(4)[:, None], (4, 6))
    lines = Lines(mesh, "row", 2, same, 3)
    assert lines.take(same).shape == (2, 2, 1) and lines.put(
        lines.take(same)
    ).shape == (4, 1)
    full = np.arange(24).reshape(4, 6)
    for axis, shape in (("row", (2, 2, 6)), ("col", (3, 2, 4))):
        lines = Lines(mesh, axis, 2, same, full)
        assert lines.take(full).shape == shape
        assert (lines.put(lines.take(full)) == full).all()


@given(st.lists(st.integers(-50, 50), min_size=1, max_size=20), st.data())
def test_latest_of_stretches(x: list[int], data: st.DataObject) -> None:
    start = [data.draw(st.integers(0, i)) for i in range(len(x))]
    got = latest(np.array(x)[None, :, None], np.array(start)[None])[0, :, 0]
    assert got.tolist() == [max(x[s : i + 1]) for i, s in enumerate(start)]
