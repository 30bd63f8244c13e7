"""Values that depend on time: switches, merges, tasks and microthreads, as the cycles have them."""

from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings

from emu.datasheet import Device
from emu.errors import EmulationError
from emu.wse import WSE2, WSE3
from emu.wse.fabric import ops, stepper
from emu.wse.fabric.cycles import run as cycle_run
from emu.wse.fabric.cycles import verdict
from emu.wse.fabric.encoding.encode import encode
from emu.wse.fabric.errors import FabricError
from emu.wse.fabric.program import FabricProgram
from emu.wse.fabric.result import Run
from emu.wse.fabric.trains import flow
from emu.wse.fabric.trains.order import with_ends
from tests.emu.wse.fabric import random_programs
from tests.emu.wse.fabric.wavelet_values import values

SHEETS = (WSE2, WSE3)
FEW = settings(
    max_examples=20,
    deadline=None,
    suppress_health_check=(HealthCheck.too_slow, HealthCheck.filter_too_much),
)


def check(p: FabricProgram, data: dict[str, np.ndarray], device: Device) -> Run:
    """Every buffer holds what the plain simulation leaves in it."""
    run = stepper.run(p, device, data, path="cycles")
    plain = values(run.encoded, data)
    for name, x in run.values.items():
        np.testing.assert_array_equal(
            x.reshape(plain.held_values[name].shape), plain.held_values[name]
        )
    return run


def numbers(p: FabricProgram, **given: Any) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(3)
    shape = lambda b: (p.height, p.width, b.elements)  # noqa: E731
    made = {
        b.name: rng.standard_normal(shape(b)).astype(b.dtype)
        for b in p.buffers.values()
    }
    return made | given


@pytest.mark.parametrize("sheet", SHEETS)
@pytest.mark.parametrize("reach", [ops.OWN, ops.ALL])
def test_star_by_switches(sheet: Any, reach: int) -> None:
    """Each PE sends its own, then lets those behind it pass."""
    pes, n = 6, 3
    p = FabricProgram(pes)
    x, y = p.buffer("x", n), p.buffer("y", n * (pes - 1))
    p.route("red", np.s_[0, 0], receive="east", send="ramp")
    p.route("red", np.s_[0, 1:-1], receive="ramp", send="west", then=[("east", "west")])
    p.route("red", np.s_[0, -1], receive="ramp", send="west")
    sends = [ops.copy(ops.send("red"), x[:]), ops.Control("red", reach)]
    p.task("main", sends, np.s_[0, 1:-1], start=True)
    p.task("main", sends[:1], np.s_[0, -1], start=True)
    p.task("main", [ops.copy(y[:], ops.receive("red"))], np.s_[0, 0], start=True)
    data = numbers(p)
    run = check(p, data, sheet.at())
    wanted = data["x"][0, 1:].reshape(-1)
    np.testing.assert_array_equal(run.values["y"][0, 0], wanted)


@pytest.mark.parametrize("sheet", SHEETS)
def test_parked_words_are_what_was_sent(sheet: Any) -> None:
    """The last PE's words wait for the middle one's to pass, and are overwritten at home."""
    p = FabricProgram(3)
    x, y = p.buffer("x", 4), p.buffer("y", 8)
    p.route("red", np.s_[0, 0], receive="east", send="ramp")
    p.route("red", np.s_[0, 1], receive="ramp", send="west", then=[("east", "west")])
    p.route("red", np.s_[0, 2], receive="ramp", send="west")
    send = ops.copy(ops.send("red"), x[:])
    p.task("main", [ops.copy(y[:], ops.receive("red"))], np.s_[0, 0], start=True)
    late = [ops.Code(100), send, ops.Control("red")]
    p.task("main", late, np.s_[0, 1], start=True)
    tripled = ops.fmac(x[:], x[:], 2.0)
    p.task("main", [send, tripled], np.s_[0, 2], start=True)
    data = numbers(p)
    run = check(p, data, sheet.at())
    wanted = data["x"][0, 1:].reshape(-1)
    np.testing.assert_array_equal(run.values["y"][0, 0], wanted)
    np.testing.assert_array_equal(run.values["x"][0, 2], data["x"][0, 2] * 3)


@pytest.mark.parametrize("sheet", SHEETS)
def test_a_pe_switches_its_own_router(sheet: Any) -> None:
    """The middle PE takes its share of a stream and lets the rest pass."""
    p = FabricProgram(3)
    x, y = p.buffer("x", 8), p.buffer("y", 4)
    p.route("red", np.s_[0, 0], receive="ramp", send="east")
    p.route(
        "red",
        np.s_[0, 1],
        receive="west",
        send="ramp",
        then=[("west", "east")],
        on_control="ignore",
    )
    p.route("red", np.s_[0, 2], receive="west", send="ramp")
    both = [
        ops.copy(ops.send("red"), x[:4]),
        ops.Code(200),
        ops.copy(ops.send("red"), x[4:]),
    ]
    p.task("main", both, np.s_[0, 0], start=True)
    take = ops.copy(y[:], ops.receive("red"))
    p.task("main", [take, ops.Switch("red", 1)], np.s_[0, 1], start=True)
    p.task("main", [take], np.s_[0, 2], start=True)
    data = numbers(p)
    run = stepper.run(p, sheet.at(), data, path="cycles")
    np.testing.assert_array_equal(run.values["y"][0, 1], data["x"][0, 0, :4])
    np.testing.assert_array_equal(run.values["y"][0, 2], data["x"][0, 0, 4:])


@pytest.mark.parametrize("sheet", SHEETS)
@pytest.mark.parametrize("late", [0, 2])
def test_who_is_first_at_a_merging_router(sheet: Any, late: int) -> None:
    p = FabricProgram(3)
    x, y = p.buffer("x", 5), p.buffer("y", 10)
    p.route("red", np.s_[0, 0], receive="ramp", send="east")
    p.route("red", np.s_[0, 1], receive=("west", "east"), send="ramp")
    p.route("red", np.s_[0, 2], receive="ramp", send="west")
    for at in (0, 2):
        code = [ops.Code(90 if at == late else 1), ops.copy(ops.send("red"), x[:])]
        p.task("main", code, np.s_[0, at], start=True)
    p.task("main", [ops.copy(y[:], ops.receive("red"))], np.s_[0, 1], start=True)
    data = numbers(p)
    run = check(p, data, sheet.at())
    wanted = data["x"][0, [2, 0] if late == 0 else [0, 2]].reshape(-1)
    np.testing.assert_array_equal(run.values["y"][0, 1], wanted)


@pytest.mark.parametrize("sheet", SHEETS)
def test_merging_streams_word_by_word(sheet: Any) -> None:
    """Two relays whose words reach the merging router by turns."""
    p = FabricProgram(3)
    x, y = p.buffer("x", 4), p.buffer("y", 8)
    p.route("red", np.s_[0, 0], receive="ramp", send="east")
    p.route("red", np.s_[0, 1], receive=("west", "east"), send="ramp")
    p.route("red", np.s_[0, 2], receive="ramp", send="west")
    for at, wait in ((0, 1), (2, 2)):
        code = [
            op
            for k in range(4)
            for op in (ops.Code(wait), ops.copy(ops.send("red"), x[k]))
        ]
        p.task("main", code, np.s_[0, at], start=True)
    p.task("main", [ops.copy(y[:], ops.receive("red"))], np.s_[0, 1], start=True)
    run = check(p, numbers(p), sheet.at())
    assert np.isfinite(run.values["y"][0, 1]).all()


@pytest.mark.parametrize("sheet", SHEETS)
@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_data_tasks(sheet: Any, dtype: str) -> None:
    """Each wavelet starts a task that adds it up."""
    p = FabricProgram(2)
    p.route("red", np.s_[0, 0], receive="ramp", send="east")
    p.route("red", np.s_[0, 1], receive="west", send="ramp")
    x, z, acc = p.buffer("x", 6), p.buffer("z", 1, dtype), p.buffer("acc", 1, dtype)
    n = 6 if dtype == "float32" else 12
    if dtype == "float16":
        x = p.buffer("half", n, dtype)
    p.task("main", [ops.copy(ops.send("red"), x[:])], np.s_[0, 0], start=True)
    p.task(
        "heard",
        [ops.add(acc[:], acc[:], z[:])],
        np.s_[0, 1],
        on_wavelet="red",
        argument=z[:],
    )
    run = check(p, numbers(p), sheet.at())
    assert np.isfinite(run.values["acc"]).all()


@pytest.mark.parametrize("sheet", SHEETS)
def test_a_microthread_ends_before_the_task_that_it_activates(sheet: Any) -> None:
    """Two streams are received side by side; the last one's end starts their sum."""
    p = FabricProgram(2)
    a, b, c = p.buffer("a", 8), p.buffer("b", 8), p.buffer("c", 8)
    for name in ("red", "blue"):
        p.route(name, np.s_[0, 0], receive="ramp", send="east")
        p.route(name, np.s_[0, 1], receive="west", send="ramp")
    sends = [
        ops.copy(ops.send("red"), a[:]),
        ops.Code(60),
        ops.copy(ops.send("blue"), b[:]),
    ]
    p.task("main", sends, np.s_[0, 0], start=True)
    takes = [
        ops.copy(b[:], ops.receive("blue"), thread=1, activate="sum"),
        ops.copy(a[:], ops.receive("red"), thread=2, unblock="sum"),
    ]
    p.task("main", takes, np.s_[0, 1], start=True)
    p.task("sum", [ops.add(c[:], a[:], b[:])], np.s_[0, 1], blocked=True)
    data = numbers(p)
    run = check(p, data, sheet.at())
    np.testing.assert_array_equal(
        run.values["c"][0, 1], data["a"][0, 0] + data["b"][0, 0]
    )


def test_two_threads_may_not_share_a_color_at_once() -> None:
    p = FabricProgram(2)
    x, y = p.buffer("x", 16), p.buffer("y", 16)
    p.route("red", np.s_[0, 0], receive="ramp", send="east")
    p.route("red", np.s_[0, 1], receive="west", send="ramp")
    sends = [ops.copy(ops.send("red"), x[:8], thread=u) for u in (1, 2)]
    p.task("main", sends, np.s_[0, 0], start=True)
    p.task("main", [ops.copy(y[:], ops.receive("red"))], np.s_[0, 1], start=True)
    with pytest.raises(
        FabricError, match=r"\(x=0, y=0\): two threads send words of color 'red'"
    ):
        stepper.run(p, WSE3.at(), numbers(p))


def racing(p: FabricProgram) -> bool:
    """Whether a microthread's operation shares a buffer with another that changes it."""
    for pe in range(p.width * p.height):
        tasks = [t for ts in p.tasks.values() for t in ts if t.place.flat[pe]]
        vectors = [op for t in tasks for op in t.code if isinstance(op, ops.Vector)]
        writes = sum(op.outward is None for op in vectors)
        writes += sum(t.argument is not None for t in tasks)
        if any(op.thread for op in vectors) and (
            writes > 1 or any(op.op == "fmac" for op in vectors)
        ):
            return True
    return False


@FEW
@given(random_programs.programs())
def test_random_programs(p: FabricProgram) -> None:
    """Whatever steps to its end has the plain simulation's values."""
    data = random_programs.data(0)
    pes = np.arange(p.width * p.height)
    for sheet in SHEETS:
        try:
            e = encode(p, sheet.at())
        except EmulationError:
            return
        run = cycle_run.run(e, watch=pes, shape=random_programs.wide_shape(e))
        try:
            verdict.check(e, run)
            order = with_ends(e, run.order, run.issues, run.watch)
        except FabricError:
            return
        if racing(p):
            return
        got = flow.run(e, data, timed=False, order=order, merges=run.merges).values
        plain = values(e, data)
        for name, x in got.items():
            np.testing.assert_array_equal(
                x.reshape(len(pes), -1), plain.held_values[name]
            )
