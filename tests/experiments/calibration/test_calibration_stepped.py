"""Calibration cases on the stepper: every published point within its goal, and every misuse."""

import math
from typing import Any

import pytest

from emu.datasheet import BANDS
from emu.wse.datasheets.datasheet import WSE2, WSE3
from experiments.calibration.points import POINTS, Point, read_points
from experiments.calibration.stepped import CASES
from experiments.calibration.trainium import Unsupported, predict

DEVICES = {"wse2": WSE2, "wse3": WSE3}
GOAL_PERCENT = {"matvec_1pe": 5, "mesh_gemm": 5}
OTHERS_PERCENT = 1
STEPPED = [p for p in read_points(POINTS) if p.case in CASES]
# One of each kind of what takes longest: the rest is marked slow.
LONG = ("mesh_gemm", "two_phase_reduce")
QUICK = ("wse-0013", "wse-0091", "wse-0101", "wse-0112", "wse-0136")


def point_marks(p: Point) -> Any:
    slow = p.case in LONG and p.id not in QUICK
    return pytest.param(p, id=p.id, marks=[pytest.mark.slow] if slow else [])


@pytest.mark.parametrize("p", [point_marks(p) for p in STEPPED])
def test_published_points(p: Point) -> None:
    cycles = predict(DEVICES[p.device].at(), p.case, p.params, CASES)[p.metric]
    off = abs(cycles / p.value - 1) * 100
    assert off <= GOAL_PERCENT.get(p.case, OTHERS_PERCENT), (
        f"{cycles:.1f} for {p.value}"
    )


def test_every_case_has_a_published_point() -> None:
    assert {p.case for p in STEPPED} == set(CASES)


SMALL = {
    "chain_reduce": {"pes": 3, "words": 4},
    "two_phase_reduce": {"pes": 5, "words": 4, "group": 2},
    "matvec_1pe": {"n": 3, "padded_rows": 4, "dtype": "float16"},
    "vector_op": {"op": "add", "dtype": "int16", "elements": 9, "bank_conflict": True},
    "vector_op_issue": {"op": "mul", "dtype": "float32", "elements": 3},
    "vector_op_completion": {"op": "add", "dtype": "bfloat16", "elements": 1},
    "send": {"words": 1, "hops": 3},
    "mesh_gemm": {
        "p": 2,
        "mt": 1,
        "kt": 2,
        "nt": 1,
        "compute_repeats": 1,
        "communicate": True,
        "dtype": "float16",
    },
}


def case_marks(case: str) -> Any:
    return pytest.param(
        case, marks=[pytest.mark.slow] if case in (*LONG, "send") else []
    )


@pytest.mark.parametrize("case", [case_marks(case) for case in CASES])
@pytest.mark.parametrize("device", DEVICES)
def test_small_sizes_on_both_wafers_and_their_bands(case: str, device: str) -> None:
    low, nominal, high = (
        predict(DEVICES[device].at(band), case, SMALL[case], CASES)["cycles"]
        for band in BANDS
    )
    assert 0 < low <= nominal <= high < math.inf


def of(device: str, case: str, **params: Any) -> float:
    return predict(DEVICES[device].at(), case, params, CASES)["cycles"]


def test_a_group_of_all_is_a_chain() -> None:
    chain = of("wse2", "chain_reduce", pes=6, words=3)
    assert chain == of("wse2", "two_phase_reduce", pes=6, words=3, group=9)
    assert chain == 17 + 2 * 9 + 17 + 3 + 6 * 5 + 4


def test_fewer_iterations_carry_more_of_the_loop_s_entry() -> None:
    """Entry and branch are 8 cycles, once."""
    one, ten = (
        of("wse2", "matvec_1pe", n=25, padded_rows=28, dtype="float32", iters=k)
        for k in (1, 10)
    )
    assert one - ten == pytest.approx(8 - 0.8)
    assert of("wse2", "matvec_1pe", n=25, padded_rows=28, dtype="float32") == ten


def test_integers_are_timed_to_completion() -> None:
    assert of("wse3", "vector_op", op="add", dtype="int16", elements=64) == 2 + 16
    assert of("wse3", "vector_op", op="add", dtype="float16", elements=64) == 16 + 16


@pytest.mark.parametrize(
    ("case", "changes", "why"),
    [
        ("chain_reduce", {"pes": 1}, "1 PE"),
        ("chain_reduce", {"pes": 751}, "width is 751"),
        ("chain_reduce", {"words": 20_000}, "bytes"),
        ("two_phase_reduce", {"group": 0}, "group is 0"),
        ("matvec_1pe", {"n": 200, "padded_rows": 200}, "bytes"),
        ("matvec_1pe", {"iters": 0}, "iters is 0"),
        ("matvec_1pe", {"dtype": "int16"}, "dtype is 'int16'"),
        ("vector_op", {"bank_conflict": "no"}, "bank_conflict is 'no'"),
        ("vector_op", {"op": "tanh"}, "op is 'tanh'"),
        ("vector_op_issue", {"elements": True}, "elements is True"),
        ("send", {"hops": 800}, "width is 801"),
        ("mesh_gemm", {"p": 1}, "p is 1"),
        ("mesh_gemm", {"compute_repeats": -1}, "compute_repeats is -1"),
        ("mesh_gemm", {"compute_repeats": True}, "compute_repeats is True"),
        ("mesh_gemm", {"communicate": 1}, "communicate is 1"),
        ("mesh_gemm", {"dtype": "float32"}, "dtype is 'float32'"),
        ("mesh_gemm", {"mt": 200, "kt": 100}, "bytes"),
        ("mesh_gemm", {"colour": 1}, "must have p, mt, kt"),
    ],
)
def test_unsupported_says_why(case: str, changes: dict[str, Any], why: str) -> None:
    device = WSE3.at() if case in ("mesh_gemm", "send") else WSE2.at()
    with pytest.raises(Unsupported, match=why):
        predict(device, case, SMALL[case] | changes, CASES)
