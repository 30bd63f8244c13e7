"""A mesh as lines of PEs, and maxima over stretches of them."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from emu.wse.timeline.lines import AlikeLines, Lines
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


def test_lines_that_start_alike_but_later_are_one() -> None:
    """The example of `AlikeLines`; an array in which two lines differ keeps them apart."""
    mesh = {"row": 3, "col": 3}
    starts = np.array([[5, 9, 6], [25, 29, 26], [7, 7, 7]])
    lines = AlikeLines(mesh, "col", 3, starts, 1)
    taken = lines.take(starts)
    assert taken.shape == (1, 3, 2)
    assert sorted(taken[0].T.tolist()) == [[5, 9, 6], [7, 7, 7]]
    assert lines.put(taken).tolist() == starts.tolist()
    of_rows = np.array([[1], [2], [1]])
    lines = AlikeLines(mesh, "col", 3, starts, of_rows)
    taken = lines.take(starts)
    assert sorted(taken[0].T.tolist()) == sorted(starts.tolist())
    assert sorted(lines.take(of_rows)[0, 0].tolist()) == [1, 1, 2]
    assert lines.put(taken).tolist() == starts.tolist()


@given(st.data())
def test_alike_lines_are_what_lines_are(data: st.DataObject) -> None:
    """Whatever is later with its line's starts, and depends on the array besides."""
    mesh = {"row": 4, "col": 6}
    numbers = st.integers(0, 2)

    def drawn(*shape: int) -> np.ndarray:
        size = int(np.prod(shape))
        each = data.draw(st.lists(numbers, min_size=size, max_size=size))
        return np.array(each, np.int64).reshape(shape)

    starts = (
        drawn(4, 1) * 10
        + drawn(1, 6)
        + drawn(*data.draw(st.sampled_from([(4, 6), (1, 1)])))
    )
    array = drawn(*data.draw(st.sampled_from([(4, 6), (4, 1), (1, 6), (1, 1)])))
    axis, group = data.draw(
        st.sampled_from([("row", 4), ("row", 2), ("col", 6), ("col", 3)])
    )
    done = []
    for kind in (Lines, AlikeLines):
        lines = kind(mesh, axis, group, starts, array)
        members = np.maximum.accumulate(lines.take(starts), axis=1) + lines.take(array)
        done.append(np.broadcast_to(lines.put(members), (4, 6)).tolist())
    assert done[0] == done[1]


@given(st.lists(st.integers(-50, 50), min_size=1, max_size=20), st.data())
def test_latest_of_stretches(x: list[int], data: st.DataObject) -> None:
    start = [data.draw(st.integers(0, i)) for i in range(len(x))]
    got = latest(np.array(x)[None, :, None], np.array(start)[None])[0, :, 0]
    assert got.tolist() == [max(x[s : i + 1]) for i, s in enumerate(start)]
