"""Routes of static colors: whose wavelets pass a router, and what is wrong with a program's."""

import numpy as np
import pytest
from hypothesis import given, settings

from emu.wse import WSE3
from emu.wse.fabric import ops
from emu.wse.fabric.directions import OPPOSITE, RAMP
from emu.wse.fabric.encoding.encode import Encoded, encode
from emu.wse.fabric.encoding.instructions import NONE
from emu.wse.fabric.errors import FabricError
from emu.wse.fabric.program import FabricProgram
from emu.wse.fabric.trains import routing
from tests.emu.wse.fabric.straight_programs import Made, programs


def routes_of(e: Encoded) -> dict[str, routing.Routes]:
    return {r.name: r for r in routing.static_routes(e).values()}


def traced(r: routing.Routes, width: int, pe: int) -> tuple[int, int, int]:
    """Source, hops and tail of a router, walked upstream one link at a time."""
    receive, send = r.color.receive[0].reshape(-1), r.color.send[0].reshape(-1)
    hops, tail = 0, NONE
    while True:
        side = int(receive[pe]).bit_length() - 1
        parts = bin(send[pe]).count("1") > 1
        tail = hops if tail == NONE and parts else tail
        if side in (RAMP, NONE):
            return (pe, hops, tail) if side == RAMP else (NONE, 0, NONE)
        pe += (-width, 1, width, -1)[side]
        if not send[pe] >> OPPOSITE[side] & 1:
            return NONE, 0, NONE
        hops += 1


@settings(max_examples=60, deadline=None)
@given(programs())
def test_routes_are_those_walked_upstream(made: Made) -> None:
    e = encode(made.program, WSE3.at())
    for r in routes_of(e).values():
        for pe in range(made.program.width * made.program.height):
            wanted = traced(r, made.program.width, pe)
            assert (r.source[pe], *(int(x[pe]) for x in (r.hops, r.tail))) == wanted
        for sender in np.unique(r.source[r.receivers]):
            heard = r.heard_by(np.array([sender]))
            ramps = (r.send >> RAMP & 1).astype(bool)
            assert (
                sorted(heard) == np.flatnonzero((r.source == sender) & ramps).tolist()
            )


def row(pes: int) -> FabricProgram:
    """PE 0 sends along a row, whose other PEs all hear it."""
    p = FabricProgram(pes)
    p.route("red", np.s_[0, 0], receive="ramp", send="east")
    p.route("red", np.s_[0, 1:-1], receive="west", send=("ramp", "east"))
    p.route("red", np.s_[0, -1], receive="west", send="ramp")
    p.buffer("x", 2)
    return p


def test_a_row_hears_its_first_pe() -> None:
    r = routes_of(encode(row(5), WSE3.at()))["red"]
    assert r.source.tolist() == [0] * 5
    assert r.hops.tolist() == [0, 1, 2, 3, 4]
    assert r.tail.tolist() == [NONE, 0, 0, 0, 1]
    assert r.heard_by(np.array([0])).tolist() == [1, 2, 3, 4]


def refused(p: FabricProgram) -> str:
    e = encode(p, WSE3.at())
    with pytest.raises(FabricError) as error:
        routing.check_operations(e, routing.static_routes(e))
    return str(error.value)


def test_a_sender_must_be_heard_by_its_router() -> None:
    p = row(4)
    p.task(
        "main", [ops.copy(ops.send("red"), p.buffers["x"][:])], np.s_[0, 2], start=True
    )
    said = refused(p)
    assert said.startswith(
        "color 'red': PE (x=2, y=0) sends on it, but its router receives from "
        "west, must be from ramp (test_routing.py:"
    )


@pytest.mark.parametrize("end", [True, False])
def test_a_reader_must_be_delivered_to(end: bool) -> None:
    p = FabricProgram(4)
    if end:
        p.route("red", np.s_[0, 0], receive="ramp", send="east")
    p.route("red", np.s_[0, 1], receive="west", send="east")
    p.route("red", np.s_[0, 2], receive="west", send="ramp")
    p.buffer("x", 2)
    at = 1 if end else 2
    p.task(
        "main",
        [ops.copy(p.buffers["x"][:], ops.receive("red"))],
        np.s_[0, at],
        start=True,
    )
    why = "passes it on" if end else "hears no sender"
    assert f"PE (x={at}, y=0) receives on it, but its router {why}" in refused(p)


def test_streams_through_an_operation_are_of_one_width() -> None:
    p = row(2)
    p.color("blue")
    op = ops.copy(ops.send("blue", 2, "float32"), ops.receive("red", 2, "float16"))
    p.route("blue", np.s_[0, 1], receive="ramp", send="west")
    p.route("blue", np.s_[0, 0], receive="east", send="ramp")
    p.task("main", [op], np.s_[0, 1], start=True)
    assert "takes 1 wavelets and sends 2, must be as many" in refused(p)


def test_a_route_that_turns_in_a_circle() -> None:
    p = FabricProgram(2, 2)
    for at, receive, send in (
        ((0, 0), "south", "east"),
        ((0, 1), "west", "south"),
        ((1, 1), "north", "west"),
        ((1, 0), "east", "north"),
    ):
        p.route("red", np.s_[at], receive=receive, send=send)
    e = encode(p, WSE3.at())
    with pytest.raises(
        FabricError, match=r"'red': its route turns in a circle .*\(x=0, y=0\)"
    ):
        routing.static_routes(e)
