"""The wafer's calibration cases: as near to the published points as promised, in their order."""

from typing import Any

import pytest

from emu.wse import WSE2
from experiments.calibration import __main__ as calibration
from experiments.calibration import wafer
from experiments.calibration.points import POINTS, Point, read_points
from experiments.calibration.table import Row, ladder
from experiments.calibration.trainium import Unsupported, predict


def of(case: str, **params: Any) -> float:
    return predict(WSE2.at(), case, params, wafer.CASES)["cycles"]


def rows(case: str) -> list[Row]:
    return [Row(p, {"nominal": of(p.case, **p.params)}) for p in points(case)]


def points(case: str) -> list[Point]:
    return [p for p in read_points(POINTS) if p.case == case]


def test_decode_layers_are_within_four_percent_and_fewer_pes_are_faster() -> None:
    found = rows("decode_layer")
    assert len(found) == 6 and max(abs(r.error_percent) for r in found) <= 4
    # From 420 to 660 PEs a side they grow by as much: no error leads the other by 2 %.
    for small, large in ((found[0], found[2]), (found[3], found[5])):
        assert abs(small.error_percent - large.error_percent) <= 2
    lines = ladder(found)
    assert len(lines) == 2
    for line in lines:
        assert line.endswith("as measured (660 > 540 > 420)") and "not" not in line


def test_gemv_is_within_ten_percent() -> None:
    (row,) = rows("gemv")
    assert abs(row.error_percent) <= 10


def test_gemv_on_a_mesh_is_no_faster_than_the_best() -> None:
    best = of("gemv", n=2048, dtype="float16", grid="best")
    assert best <= min(of("gemv", n=2048, dtype="float16", grid=g) for g in (240, 720))
    assert of("gemv", n=2048, dtype="float16", grid=48) > best


def test_heads_do_not_enter_the_timed_layer() -> None:
    sizes = {
        "d_model": 120,
        "d_ff": 240,
        "context": 120,
        "grid": 12,
        "dtype": "float16",
    }
    one, eight = (of("decode_layer", heads=n, kv_heads=n, **sizes) for n in (1, 8))
    assert one == eight > 0


@pytest.mark.parametrize(
    ("case", "params", "why"),
    [
        ("gemv", {"n": 16384, "dtype": "float16", "grid": "worst"}, "grid is 'worst'"),
        ("gemv", {"n": 16384, "dtype": "float16", "grid": 12}, "fits no mesh of 12"),
        (
            "decode_layer",
            {"n": 1},
            "must have d_model, heads, kv_heads, d_ff, context, grid",
        ),
        (
            "decode_layer",
            {
                "d_model": 4096,
                "heads": 1,
                "kv_heads": 1,
                "d_ff": 14336,
                "context": 4096,
                "grid": 24,
                "dtype": "float16",
            },
            "bytes of ",
        ),
    ],
)
def test_unsupported_says_why(case: str, params: dict[str, Any], why: str) -> None:
    with pytest.raises(Unsupported, match=why):
        of(case, **params)


def test_wafers_have_their_own_cases() -> None:
    for name in calibration.DEVICES:
        mine = calibration.cases_of(name)
        assert ("gemv" in mine) == name.startswith("wse") != ("matmul" in mine)
