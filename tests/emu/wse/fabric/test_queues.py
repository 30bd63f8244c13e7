"""Queues at the PEs' ramps: given out PE by PE, one color each, and counted."""

from typing import Any

import numpy as np
import pytest

from emu.errors import LimitExceeded
from emu.wse import WSE2, WSE3
from emu.wse.fabric import stepper
from emu.wse.fabric.encoding.encode import encode
from emu.wse.fabric.encoding.instructions import NONE
from emu.wse.fabric.errors import FabricError
from emu.wse.fabric.ops import copy, receive, send
from emu.wse.fabric.program import FREE, FabricProgram

WORDS = 10
SHEETS = pytest.mark.parametrize("sheet", [WSE2, WSE3], ids=lambda s: s.name)


def streams(colors: int, **queues: tuple[Any, ...]) -> FabricProgram:
    """PE 0 sends to PE 1 on several colors, one after the other."""
    p = FabricProgram(2)
    x, y = p.buffer("x", WORDS * colors), p.buffer("y", WORDS * colors)
    names = [f"c{number}" for number in range(colors)]
    free = (FREE,) * colors
    into, out = queues.get("into", free), queues.get("out", free)
    for name, input_queue, output_queue in zip(names, into, out, strict=True):
        p.color(name, input_queue=input_queue, output_queue=output_queue)
        p.route(name, np.s_[0, 0], receive="ramp", send="east")
        p.route(name, np.s_[0, 1], receive="west", send="ramp")
    parts = [slice(n * WORDS, (n + 1) * WORDS) for n in range(colors)]
    sends = [copy(send(name), x[at]) for name, at in zip(names, parts, strict=True)]
    takes = [copy(y[at], receive(name)) for name, at in zip(names, parts, strict=True)]
    p.task("t", sends, np.s_[0, 0], start=True)
    p.task("t", takes, np.s_[0, 1], start=True)
    return p


def test_colors_take_the_free_queues_of_each_pe() -> None:
    p = streams(5, into=(FREE, 3, FREE, FREE, FREE), out=(FREE, FREE, 2, FREE, FREE))
    encoded = encode(p, WSE3.at())
    # PE 0 only sends and PE 1 only takes; a given number is passed over.
    assert encoded.outputs.number[:, 0, 0].tolist() == [3, 4, 2, 5, 6]
    assert encoded.inputs.number[:, 0, 1].tolist() == [2, 3, 4, 5, 6]
    assert (encoded.outputs.number[:, 0, 1] == NONE).all()
    assert (encoded.inputs.number[:, 0, 0] == NONE).all()


def test_queues_0_and_1_come_last() -> None:
    encoded = encode(streams(8), WSE3.at())
    assert encoded.inputs.number[:, 0, 1].tolist() == [2, 3, 4, 5, 6, 7, 0, 1]
    assert (
        encoded.inputs.words[:, 0, 1].tolist() == [4] * 6 + [8] * 2
    )  # the sheet's depths


def test_a_queue_of_another_depth_on_another_pe() -> None:
    """What a color's sender may run ahead depends on the PE's queue, on both paths alike."""
    cycles = []
    for color in range(6):
        p = streams(6)
        assert encode(p, WSE2.at()).outputs.words[color, 0, 0] in (2, 6)
    for path in ("auto", "cycles"):
        run = stepper.run(streams(6), WSE2.at(), {"x": np.arange(60.0)}, path=path)
        cycles.append(run.cycles)
        assert run.values["y"][0, 1].tolist() == list(range(60))
    assert cycles[0] == cycles[1]


@pytest.mark.parametrize("side", ["into", "out"])
@SHEETS
def test_two_colors_on_one_queue_are_refused(sheet: Any, side: str) -> None:
    what = {"into": "input", "out": "output"}[side]
    p = streams(3, **{side: (2, 3, 3)})
    with pytest.raises(
        FabricError, match=f"'c1' and 'c2' are both on {what} queue 3, .*test_queues.py"
    ):
        stepper.run(p, sheet.at())
    by_turns = streams(3, **{side: (None,) * 3})
    with pytest.raises(FabricError, match=f"'c0' and 'c2' are both on {what} queue 2"):
        stepper.run(by_turns, sheet.at())
    # On other PEs the same number is another queue.
    p = FabricProgram(4)
    x = p.buffer("x", 4)
    for first, name in ((0, "a"), (2, "b")):
        p.color(name, input_queue=3, output_queue=3)
        p.route(name, np.s_[0, first], receive="ramp", send="east")
        p.route(name, np.s_[0, first + 1], receive="west", send="ramp")
        p.task("t", [copy(send(name), x[:])], np.s_[0, first], start=True)
        p.task("t", [copy(x[:], receive(name))], np.s_[0, first + 1], start=True)
    stepper.run(p, sheet.at())


def test_more_colors_than_queues_are_refused() -> None:
    stepper.run(streams(8), WSE3.at())
    with pytest.raises(
        LimitExceeded, match="takes words of 9 colors .*, WSE-3 has 8 input queues"
    ) as wrong:
        stepper.run(streams(9, out=tuple(range(8)) + (FREE,)), WSE3.at())
    assert "'c8'" in str(wrong.value) and "share a color" in str(wrong.value)
    with pytest.raises(
        LimitExceeded, match="sends on 7 colors .*, WSE-2 has 6 output queues"
    ):
        stepper.run(streams(7), WSE2.at())
