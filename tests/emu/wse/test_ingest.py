"""Words from a wafer's edge to a region's PEs: the closed form against stepped wavelets."""

from typing import Any

import numpy as np
import pytest

from emu.wse import WSE2, WSE3
from emu.wse.collectives.programs import code
from emu.wse.fabric import ops, stepper
from emu.wse.fabric.ops import Control, copy, receive, send
from emu.wse.fabric.program import FREE, FabricProgram
from emu.wse.ingest import ingest
from emu.wse.timeline.wires import wires

SHEETS = pytest.mark.parametrize("sheet", [WSE2, WSE3], ids=lambda s: s.name)


def stepped(device: Any, words: list[int], columns: int) -> tuple[int, int]:
    """When the edge's PE, north of a region's first column, and the last PE are done."""
    rows = len(words)
    program = FabricProgram(columns, rows + 1)
    program.color("in", FREE, FREE)
    x = program.buffer("x", max(sum(words), 1))
    filled = [row for row in range(rows) if words[row]]
    program.route("in", np.s_[0, 0], receive="ramp", send="south")
    east = ["east"] if columns > 1 else []
    for row in range(filled[-1] + 1):
        here = np.s_[row + 1, 0]
        if not words[row]:
            program.route("in", here, receive="north", send="south")
            continue
        is_last = row == filled[-1]
        then = [] if is_last else [("north", "south")]
        own = ["ramp", *east]
        program.route("in", here, receive="north", send=own, then=then)
        for column in range(1, columns):
            onward = ["ramp"] if column == columns - 1 else ["ramp", "east"]
            there = np.s_[row + 1, column]
            program.route("in", there, receive="west", send=onward)
    sent: list[ops.Op] = []
    places = []
    begin = 0
    for row in filled:
        block = x[begin : begin + words[row]]
        begin += words[row]
        sent.append(copy(send("in", words[row]), block))
        if row != filled[-1]:
            sent.append(Control("in", ops.ALL))
        take = copy(x[: words[row]], receive("in", words[row]))
        places.append((np.s_[row + 1, :], [take]))
    (code(program, [(np.s_[0, 0], sent), *places])).declare(program, "main", start=True)
    ends = stepper.run(program, device, path="cycles").ends
    return int(ends[0, 0]), int(ends[filled[-1] + 1, -1])


@SHEETS
@pytest.mark.parametrize(
    ("words", "columns"),
    [
        ([5, 5], 3),
        ([1], 1),
        ([30, 30, 30], 4),
        ([7, 0, 12, 3], 2),
        ([64, 1, 40], 5),
    ],
)
def test_the_closed_form_is_what_wavelets_take(
    sheet: Any, words: list[int], columns: int
) -> None:
    device = sheet.at()
    w = wires(device)
    edge, last = stepped(device, words, columns)
    # A buffer may be longer than its last filled row: cut there, as the program is.
    found = ingest(np.array(words), w, columns=columns)
    assert int(found.busy) == edge
    # A PE is done with its operation a cycle and a drain after its last word.
    assert int(found.done) + 1 + w.drain_cycles == last


def test_the_modules_example() -> None:
    found = ingest(np.array([5, 5]), wires(WSE3.at()), columns=3)
    assert (int(found.busy), int(found.done)) == (31, 41)
    assert int(found.further(np.array(3), wires(WSE3.at())).done) == 47


def test_streams_side_by_side_and_hops_to_a_region() -> None:
    """Each stream is as if it were alone; each hop from the edge is two cycles more."""
    w = wires(WSE3.at())
    rows = np.array([[5, 5], [9, 0]])
    both = ingest(rows, w, columns=3).further(np.array([0, 10]), w)
    alone = [ingest(row, w, columns=3) for row in rows]
    assert both.busy.tolist() == [int(each.busy) for each in alone]
    assert both.done.tolist() == [int(alone[0].done), int(alone[1].done) + 20]


def test_a_slow_edge_is_slower_and_nothing_takes_no_time() -> None:
    w = wires(WSE3.at())
    words = np.array([1000, 1000])
    fast = ingest(words, w, columns=8)
    slow = ingest(words, w, columns=8, edge_cycles=1.25)
    assert int(slow.busy - fast.busy) == pytest.approx(2 * 250, abs=20)
    none = ingest(np.array([0, 0]), w, columns=8)
    assert (int(none.busy), int(none.done)) == (0, 0)
    assert int(none.further(np.array(7), w).done) == 0
