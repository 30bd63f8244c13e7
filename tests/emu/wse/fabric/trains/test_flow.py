"""Programs worked out in dependency order: values bit for bit, and trains to the cycle."""

import ml_dtypes
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from emu import strict_jit
from emu.datasheet import Device
from emu.wse import WSE2, WSE3
from emu.wse.fabric import ops
from emu.wse.fabric.encoding.encode import Encoded, encode
from emu.wse.fabric.errors import Deadlock, Unread
from emu.wse.fabric.program import FabricProgram
from emu.wse.fabric.trains import flow
from emu.wse.fabric.trains.clock import Clock
from emu.wse.fabric.trains.work import Work
from emu.wse.pe import maps
from tests.emu.wse.fabric.straight_programs import DEVICES, Made, programs
from tests.emu.wse.fabric.wavelets import simulate

SLOW = (HealthCheck.too_slow, HealthCheck.data_too_large)
FEW = settings(max_examples=80, deadline=None, suppress_health_check=SLOW)
MANY = settings(FEW, max_examples=2000)


def bits(x: np.ndarray) -> np.ndarray:
    return x.view({2: np.uint16, 4: np.uint32}[x.dtype.itemsize])


def check(made: Made, device: Device) -> None:
    """Values are those worked out one by one; exact times are the plain simulation's."""
    e = encode(made.program, device)
    pes = np.arange(e.entry[0].size)
    flowed = flow.run(e, made.data, timed=True, traced=pes)
    for name, wanted in made.wanted.items():
        np.testing.assert_array_equal(bits(flowed.values[name]), bits(wanted))
    assert (flowed.times is not None) == (not flowed.why)
    if flowed.times is not None:
        check_times(e, flowed.times, pes)


def check_times(e: Encoded, times: flow.Times, pes: np.ndarray) -> None:
    """Ends, stamps, links and every operation's dispatch and issues."""
    plain = simulate(e)
    assert not (plain.stuck or plain.unread or plain.stranded)
    assert times.ends.reshape(-1).tolist() == [plain.ends.get(n, 0) for n in pes]
    links = times.links.reshape(5, -1)
    assert {(d, n): links[d, n] for d, n in np.argwhere(links)} == dict(plain.links)
    for name, cycles in times.stamps.items():
        assert cycles.reshape(-1).tolist() == [
            plain.stamps.get((name, n), -1) for n in pes
        ]
    on_datapath = times.operations[times.operations.first >= 0]
    assert sorted(on_datapath.rows()) == sorted(
        (n, at, *cycles) for at, n, *cycles in plain.operations
    )


@FEW
@given(programs(), st.sampled_from(DEVICES))
def test_straight_programs(made: Made, device: Device) -> None:
    check(made, device)


@pytest.mark.slow
@MANY
@given(programs(), st.sampled_from(DEVICES))
def test_straight_programs_two_thousand_times(made: Made, device: Device) -> None:
    check(made, device)


def line(pes: int, words: int, late_cycles: int = 1) -> FabricProgram:
    """PE 0 sends `words` float32 to the last PE of a row, which begins to read late."""
    p = FabricProgram(pes)
    p.route("red", np.s_[0, 0], receive="ramp", send="east")
    p.route("red", np.s_[0, 1:-1], receive="west", send="east")
    p.route("red", np.s_[0, -1], receive="west", send="ramp")
    x = p.buffer("x", words)
    p.task("main", [ops.copy(ops.send("red"), x[:])], np.s_[0, 0], start=True)
    code = [ops.Code(late_cycles), ops.copy(x[:], ops.receive("red"))]
    p.task("main", code, np.s_[0, -1], start=True)
    return p


def worked_out(p: FabricProgram, device: Device) -> flow.Flow:
    return flow.run(encode(p, device), None, timed=True)


def times_of(p: FabricProgram, device: Device) -> flow.Times:
    times = worked_out(p, device).times
    assert times is not None
    return times


@pytest.mark.parametrize("pes", [2, 9])
def test_times_by_hand(pes: int) -> None:
    hops = pes - 1
    # Set-up 4, push 1, ramps 2 + 2, 8 words, drain 4.
    wse3 = times_of(line(pes, 8), WSE3.at())
    assert wse3.ends[0, -1] == 4 + 1 + 2 + 2 * hops + 2 + 8 + 4
    assert wse3.ends[0, 0] == 4 + 4 + 4  # two words an issue
    wse2 = times_of(line(pes, 8, 1), WSE2.at())
    # The reader's own set-up, or the wavelet.
    first = max(17 + 1 + 2 + hops + 2, 1 + 17)
    assert wse2.ends[0, -1] == first + 8 + 4
    assert wse2.links[1].sum() == 8 * hops and wse2.links[4].sum() == 8


def test_the_table_of_the_readme() -> None:
    """`trains/README.md`: three PEs, 8 words from PE 0 to PE 2."""
    encoded = encode(line(3, 8), WSE3.at())
    work = Work(encoded, None, True, None, None)
    clock = Clock(encoded, work.static, None)
    work.go(clock)
    red = work.static[0]
    assert red.pushes is not None and red.leaves is not None and red.reads is not None
    assert red.pushes.tolist() == [4, 4, 5, 5, 6, 6, 7, 7]
    assert red.leaves.tolist() == list(range(5, 13))
    assert red.reads.tolist() == list(range(13, 21))
    assert clock.ends.tolist() == [12, 0, 25]


def test_a_sender_may_run_ahead_by_what_its_route_holds() -> None:
    # WSE-3, one hop: output 8 + 1, router 2 + 2, next router 2 + 2, input 4 + 2 words of room.
    room = 9 + 4 + 4 + 6
    assert worked_out(line(2, room, 500), WSE3.at()).times is not None
    flowed = worked_out(line(2, room + 1, 500), WSE3.at())
    assert flowed.times is None
    assert flowed.why == (
        "PE (x=1, y=0) reads color 'red' so late that PE (x=0, y=0) would have to wait for room"
    )


def test_a_link_that_two_colors_want() -> None:
    p = line(3, 8)
    p.route("blue", np.s_[0, 1], receive="ramp", send="east")
    p.route("blue", np.s_[0, 2], receive="west", send="ramp")
    y = p.buffer("y", 8)
    p.task("other", [ops.copy(ops.send("blue"), y[:])], np.s_[0, 1], start=True)
    p.task("other", [ops.copy(y[:], ops.receive("blue"))], np.s_[0, 2], start=True)
    flowed = worked_out(p, WSE3.at())
    assert flowed.times is None
    assert (
        "'red' and 'blue' want the link to east of PE (x=1, y=0) at once" in flowed.why
    )


def test_chain_rounds_at_every_hop() -> None:
    pes, n = 40, 6
    p = FabricProgram(pes)
    x = p.buffer("x", n, "bfloat16")
    for k in range(pes):
        if k:
            p.route("ab"[k % 2], np.s_[0, k], receive="ramp", send="west")
            p.route("ab"[k % 2], np.s_[0, k - 1], receive="east", send="ramp")
    for k in range(pes):
        out = ops.send("ab"[k % 2]) if k else x[:]
        came = ops.receive("ab"[(k + 1) % 2])
        op = ops.add(out, x[:], came) if k < pes - 1 else ops.copy(out, x[:])
        p.task("main", [op], np.s_[0, k], start=True)
    data = (
        np.random.default_rng(0).standard_normal((1, pes, n)).astype(ml_dtypes.bfloat16)
    )
    acc = data[0, -1]
    for own in data[0, -2::-1]:
        acc = (own.astype(np.float64) + acc.astype(np.float64)).astype(np.float32)
        acc = acc.astype(ml_dtypes.bfloat16)
    e = encode(p, WSE2.at())
    flowed = flow.run(e, {"x": data}, timed=True)
    np.testing.assert_array_equal(bits(flowed.values["x"][0, 0]), bits(acc))
    assert flowed.times is not None
    assert flowed.sent == flowed.consumed == {"a": 3 * 19, "b": 3 * 20}


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
@pytest.mark.parametrize("acc", ["float32", "same"])
def test_map_is_the_hardware_loop(dtype: str, acc: str) -> None:
    p = FabricProgram(3)
    x, w = p.buffer("x", 5, dtype), p.buffer("w", 35, dtype)
    y = p.buffer("y", 7, dtype if acc == "same" else acc)
    p.task("main", [ops.Map(y[:], w[:], x[:])], start=True)
    rng = np.random.default_rng(1)
    data = {
        b.name: rng.standard_normal((1, 3, b.elements)).astype(b.dtype)
        for b in (x, w, y)
    }
    got = flow.run(encode(p, WSE3.at()), data, timed=False).values["y"]
    for k in range(3):
        own = {name: a[0, k] for name, a in data.items()}
        weights = own["w"].reshape(5, 7)
        # Compiled, as `run` does: XLA then sees the whole loop.
        wanted = np.asarray(strict_jit(maps.fmac_map)(own["y"], weights, own["x"]))
        np.testing.assert_array_equal(bits(got[0, k]), bits(wanted))


def test_what_is_unread_and_who_waits() -> None:
    p = line(3, 8)
    p.task(
        "more", [ops.copy(ops.send("red"), p.buffers["x"][:2])], np.s_[0, 0], start=True
    )
    with pytest.raises(
        Unread, match=r"2 wavelets on color 'red' are never read at PE \(x=2, y=0"
    ):
        worked_out(p, WSE3.at())
    p = line(3, 8)
    p.task(
        "more",
        [ops.copy(p.buffers["x"][:], ops.receive("red"))],
        np.s_[0, 2],
        start=True,
    )
    with pytest.raises(Deadlock, match=r"PE \(x=2, y=0\) waits for 8 .* 'red', 0 came"):
        worked_out(p, WSE3.at())


def test_operations_that_feed_each_other_word_by_word() -> None:
    """A ring of two whose words go round: the machine can, the trains say that they cannot."""
    p = FabricProgram(2)
    x = p.buffer("x", 6)
    for name, at, away in (("red", 0, "east"), ("blue", 1, "west")):
        back = "west" if away == "east" else "east"
        p.route(name, np.s_[0, at], receive="ramp", send=away)
        p.route(name, np.s_[0, 1 - at], receive=back, send="ramp")
    on = ops.add(ops.send("red"), x[:4], ops.receive("blue"))
    p.task(
        "main",
        [ops.copy(ops.send("red"), x[:2]), on, ops.copy(x[:2], ops.receive("blue"))],
        np.s_[0, 0],
        start=True,
    )
    p.task(
        "main",
        [ops.add(ops.send("blue"), x[:], ops.receive("red"))],
        np.s_[0, 1],
        start=True,
    )
    e = encode(p, WSE3.at())
    assert not simulate(e).stuck
    flowed = flow.run(e, None, timed=True)
    assert (
        flowed.times is None
        and "PE (x=1, y=0) passes on color 'red' word by word" in flowed.why
    )
