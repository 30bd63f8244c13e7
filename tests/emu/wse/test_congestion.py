"""Streams that share a link take turns on it; those that share none do not notice each other."""

from typing import Any

import numpy as np
import pytest

from emu.wse import WSE2, WSE3
from emu.wse.collectives.programs import Line, reduce
from emu.wse.fabric import stepper
from emu.wse.fabric.ops import Code, copy, receive, send
from emu.wse.fabric.program import FabricProgram
from emu.wse.trees import two_tree

SHEETS = pytest.mark.parametrize("sheet", [WSE2, WSE3], ids=lambda s: s.name)
Stream = tuple[int, int]  # from and to which PE of a row


def ends(
    device: Any, streams: dict[str, Stream], words: int, late: int = 0, only: str = ""
) -> dict[str, int]:
    """When the receivers of streams along a row of 5 PEs are done; color `b` starts late."""
    program = FabricProgram(5)
    x, y = program.buffer("x", words)[:], program.buffer("y", words)[:]
    for color, (begin, end) in streams.items():
        on, back = ("east", "west") if begin < end else ("west", "east")
        step = 1 if begin < end else -1
        program.route(color, np.s_[0, begin], receive="ramp", send=on)
        for between in range(begin + step, end, step):
            program.route(color, np.s_[0, between], receive=back, send=on)
        program.route(color, np.s_[0, end], receive=back, send="ramp")
        waits = [Code(1 + late if color == "b" else 1)]
        there = only in ("", color)
        sends, takes = [copy(send(color), x)], [copy(y, receive(color))]
        program.task("send", waits + there * sends, np.s_[0, begin], start=True)
        program.task("take", waits[:1] + there * takes, np.s_[0, end], start=True)
    run = stepper.run(program, device, path="cycles")
    return {color: int(run.ends[0, end]) for color, (_, end) in streams.items()}


def apart(
    device: Any, streams: dict[str, Stream], words: int, late: int = 0
) -> dict[str, int]:
    """The same, each alone."""
    return {c: ends(device, streams, words, late, only=c)[c] for c in streams}


@pytest.mark.parametrize("words", [2, 8, 50, 200])
@SHEETS
def test_two_streams_on_one_link_take_turns(sheet: Any, words: int) -> None:
    """From PEs 0 and 1, both over the link from 1 to 2.

    The nearer stream's first word is there `hop` cycles before the farther one's, and `hop` words
    pass alone. Then the two alternate: each of the nearer one's other `words - hop` waits a cycle
    more than the one before, and the farther one's last word waits for all of these.
    """
    device = sheet.at()
    hop = int(device.hop_cycles)
    both = {"a": (0, 3), "b": (1, 4)}
    alone, together = apart(device, both, words), ends(device, both, words)
    assert {c: together[c] - alone[c] for c in both} == {
        "a": words - hop,
        "b": words - hop,
    }


@SHEETS
def test_a_stream_that_comes_later_shares_what_is_left(sheet: Any) -> None:
    """Of 50 words, 30 have passed before the other's first: 20 are left to take turns with."""
    device = sheet.at()
    both, words, before = {"a": (0, 3), "b": (1, 4)}, 50, 30
    late = before + int(device.hop_cycles)  # its way to the link is a hop shorter
    alone, together = apart(device, both, words, late), ends(device, both, words, late)
    left = words - before
    # both want the link in the cycle in which the later one comes, which has waited for longer
    assert together["a"] - alone["a"] == left and together["b"] - alone["b"] == left


@pytest.mark.parametrize(
    "both",
    [
        {"a": (0, 3), "b": (4, 1)},
        {"a": (0, 2), "b": (3, 4)},
        {"a": (1, 0), "b": (2, 4)},
    ],
    ids=["opposite ways", "one behind the other", "apart"],
)
@SHEETS
def test_streams_that_share_no_link_do_not_meet(
    sheet: Any, both: dict[str, Stream]
) -> None:
    device = sheet.at()
    assert ends(device, both, 50) == apart(device, both, 50)


@SHEETS
def test_a_fixed_route_lets_a_waiting_stream_take_the_root_s_ramp(sheet: Any) -> None:
    """Both sides reach the middle of a line at once; turned routes hold the second one back.

    On fixed ones its words take turns with the first one's on the ramp until its input queue and
    the ramp are full.
    """
    device, words, pes = sheet.at(), 60, 9
    tree = two_tree(pes, 1)

    def root_ends(routes: str) -> int:
        program = FabricProgram(pes)
        x = program.buffer("x", words)[:]
        reduce(Line(program), x, tree, "r", routes=routes).declare(
            program, "main", start=True
        )
        return int(stepper.run(program, device, path="cycles").ends[0, tree.root])

    kept = int(device.input_queue_words[2] + device.ramp_cycles)
    turn = 1  # the control wavelet that turns the root's router comes a cycle after it is ready
    assert root_ends("fixed") - root_ends("turned") == kept - turn
