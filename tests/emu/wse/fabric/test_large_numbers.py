"""More than a small integer holds, and one name for several things: colors, hops, tasks, stamps."""

from typing import Any

import numpy as np
import pytest

from emu.wse import WSE2, WSE3
from emu.wse.fabric import ops, stepper
from emu.wse.fabric.encoding.encode import encode
from emu.wse.fabric.errors import Deadlock
from emu.wse.fabric.ops import Block, Code, Control, Stamp, add, copy, receive, send
from emu.wse.fabric.program import FREE, FabricProgram
from emu.wse.fabric.trains.routing import static_routes
from tests.emu.wse.fabric.wavelets import simulate

SHEETS = pytest.mark.parametrize("sheet", [WSE2, WSE3], ids=lambda s: s.name)


def chain(pes: int, words: int, one_name: bool) -> FabricProgram:
    """Each PE between doubles what comes, wavelet by wavelet, and sends it on the other color."""
    p = FabricProgram(pes + 2)
    x, y = p.buffer("x", words), p.buffer("y", words)
    word, twice = p.buffer("word", 1), p.buffer("twice", 1)
    colors = ("red", "blue")
    for pe in range(pes + 1):
        color = colors[pe % 2]
        p.route(color, np.s_[0, pe], receive="ramp", send="east")
        p.route(color, np.s_[0, pe + 1], receive="west", send="ramp")
    p.task("source", [copy(send("red"), x[:])], np.s_[0, 0], start=True)
    for pe in range(1, pes + 1):
        name = "work" if one_name else f"work {pe}"
        doubles = [
            Block(name),
            add(twice[:], word[:], word[:]),
            copy(send(colors[pe % 2]), twice[:], thread=1, unblock=name),
        ]
        heard = colors[(pe - 1) % 2]
        p.task(name, doubles, np.s_[0, pe], on_wavelet=heard, argument=word[0])
    into = receive(colors[pes % 2])
    p.task("sink", [copy(y[:], into)], np.s_[0, pes + 1], start=True)
    return p


@SHEETS
def test_a_data_task_s_color_is_that_of_its_pe(sheet: Any) -> None:
    """PEs whose tasks share a name may hear different colors under it."""
    x = np.arange(1, 6, dtype=np.float32)
    apart = stepper.run(chain(3, 5, one_name=False), sheet.at(), {"x": x})
    named_alike = chain(3, 5, one_name=True)
    together = stepper.run(named_alike, sheet.at(), {"x": x})
    assert together.values["y"][0, -1].tolist() == (8 * x).tolist()
    clock_alone = stepper.run(named_alike, sheet.at())
    assert apart.cycles == together.cycles == clock_alone.cycles
    plain = simulate(encode(named_alike, sheet.at()))
    assert max(plain.ends.values()) == together.cycles


def switched(colors: int) -> FabricProgram:
    """Only the last of many colors over one link is used: 3 words and control."""
    p = FabricProgram(3)
    x = p.buffer("x", 8)
    for number in range(colors):
        last = number == colors - 1
        name = f"c{number}"
        p.color(name, FREE, FREE)
        onward = [("west", "east")] if last else []
        p.route(name, np.s_[0, 0], receive="ramp", send="east")
        p.route(name, np.s_[0, 1], receive="west", send="ramp", then=onward)
        if last:
            p.route(name, np.s_[0, 2], receive="west", send="ramp")
    used = f"c{colors - 1}"
    p.task(
        "main",
        [copy(send(used), x[:3]), Control(used, ops.ALL)],
        np.s_[0, 0],
        start=True,
    )
    p.task("main", [copy(x[:3], receive(used))], np.s_[0, 1], start=True)
    return p


# Kinds of 15 colors go in one integer: 16 take two.
@pytest.mark.parametrize("colors", [16, pytest.param(24, marks=pytest.mark.slow)])
def test_control_is_no_data_on_any_of_a_link_s_colors(colors: int) -> None:
    p = switched(colors)
    run = stepper.run(p, WSE3.at(), path="cycles")
    plain = simulate(encode(p, WSE3.at()))
    assert not plain.stuck and run.cycles == max(plain.ends.values())
    # A word more, which nobody sends: the control wavelet must not be taken for it.
    more = copy(p.buffers["x"][:4], receive(f"c{colors - 1}"))
    p.task("again", [more], np.s_[0, 1], start=True)
    with pytest.raises(
        Deadlock, match=f"waits for 4 wavelets on color 'c{colors - 1}'"
    ):
        stepper.run(p, WSE3.at(), path="cycles")


def test_a_route_through_more_than_32_767_hops() -> None:
    """Row by row to and fro over a square, in all but the last hop to each PE."""
    side = 182
    p = FabricProgram(side, side)
    for y in range(side):
        forth = y % 2 == 0
        first, last = (0, side - 1) if forth else (side - 1, 0)
        back, on = ("west", "east") if forth else ("east", "west")
        end = y == side - 1
        p.route("red", np.s_[y, 1:-1], receive=back, send=on)
        p.route("red", np.s_[y, first], receive="north" if y else "ramp", send=on)
        p.route("red", np.s_[y, last], receive=back, send="ramp" if end else "south")
    x = p.buffer("x", 3)
    p.task("main", [copy(send("red"), x[:])], (0, 0), start=True)
    p.task("main", [copy(x[:], receive("red"))], (side - 1, 0), start=True)
    device = WSE3.at()
    hops = side * side - 1
    assert hops > 2**15
    (routes,) = static_routes(encode(p, device)).values()
    assert routes.hops.max() == hops
    # set-up 4, the push, a ramp, the hops, a ramp, three words and the drain
    cycles = 4 + 1 + 2 + device.hop_cycles * hops + 2 + 3 + 4
    assert stepper.run(p, device, path="trains").cycles == cycles


@SHEETS
def test_as_many_tasks_as_a_pe_has(sheet: Any) -> None:
    """The 31st is started by a microthread's end."""
    p = FabricProgram(1)
    x = p.buffer("x", 4)
    starts_last = add(x[:], x[:], 1.0, thread=1, activate="t30")
    p.task("t0", [starts_last, Code(3)], start=True)
    for number in range(1, 30):
        p.task(f"t{number}", [Code(1)])
    p.task("t30", [Code(5)])
    run = stepper.run(p, sheet.at())
    plain = simulate(encode(p, sheet.at()))
    assert run.cycles == max(plain.ends.values())


def test_more_stamps_than_six_bits_number() -> None:
    p = FabricProgram(1)
    p.task("main", [Stamp(f"s{number}") for number in range(100)], start=True)
    for path in ("trains", "cycles"):
        run = stepper.run(p, WSE3.at(), path=path)
        reads = [int(run.stamps[f"s{number}"][0, 0]) for number in range(100)]
        assert reads == [17 * number for number in range(100)]
