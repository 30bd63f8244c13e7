"""The order that a program's code alone tells, against the order of a stepped run."""

import numpy as np

from emu.wse import WSE3
from emu.wse.fabric import stepper
from emu.wse.fabric.cycles import run as cycle_run
from emu.wse.fabric.encoding.encode import Encoded, encode
from emu.wse.fabric.ops import Activate, Code, add, copy, receive, send
from emu.wse.fabric.program import FabricProgram
from emu.wse.fabric.trains.order import fixed_order, with_ends

PES = 4


def chained(*, sends_beside: bool = False) -> FabricProgram:
    """PE 0 sends to all others, whose microthreads start what adds the words up."""
    program = FabricProgram(PES)
    x, y = program.buffer("x", 6), program.buffer("y", 6)
    program.route("c", np.s_[0, 0], receive="ramp", send="east")
    program.route("c", np.s_[0, 1:-1], receive="west", send=("east", "ramp"))
    program.route("c", np.s_[0, -1], receive="west", send="ramp")
    outward = send("c", 6)
    if sends_beside:
        program.task(
            "go", [copy(outward, x[:], thread=2), Code(3)], np.s_[0, 0], start=True
        )
    else:
        program.task(
            "go", [copy(outward, x[:]), Activate("then")], np.s_[0, 0], start=True
        )
    takes = copy(x[:], receive("c", 6), thread=1, activate="then")
    program.task("go", [Code(5), takes], np.s_[0, 1:], start=True)
    program.task("then", [Code(2), add(y[:], x[:], x[:])])
    return program


def by_pe(encoded: Encoded) -> list[list[int]]:
    """Of each PE the codes of a stepped run, in their order."""
    watch = np.arange(PES)
    stepped = cycle_run.run(encoded, watch=watch)
    order = with_ends(encoded, stepped.order, stepped.issues, watch)
    return [order.code[order.pe == pe].tolist() for pe in range(PES)]


def test_it_is_that_of_the_run() -> None:
    encoded = encode(chained(), WSE3.at())
    fixed = fixed_order(encoded)
    assert fixed is not None
    assert [fixed.code[fixed.pe == pe].tolist() for pe in range(PES)] == by_pe(encoded)


def test_values_need_no_log() -> None:
    x = np.arange(6, dtype=np.float32)
    run = stepper.run(chained(), WSE3.at(), {"x": x})
    assert run.path == "cycles" and run.stepped is not None
    assert not len(run.stepped.watch)
    assert (run.values["y"] == 2 * x).all()


def test_what_goes_on_beside_a_task_is_a_matter_of_time() -> None:
    assert fixed_order(encode(chained(sends_beside=True), WSE3.at())) is None
