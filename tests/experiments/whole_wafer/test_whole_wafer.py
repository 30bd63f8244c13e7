"""The whole-wafer GEMV, on a part of it: both ways of stepping it, float64 and the timeline."""

import re
import subprocess
import sys

import pytest

from emu.wse import WSE2, WSE3, trees
from experiments.shared.errors import UsageError
from experiments.whole_wafer import __main__ as whole_wafer
from kernels.wse.programs.wafer_gemv import WaferGemv

SMALL = WaferGemv(95, 75, 24, 20)  # both sizes are padded


@pytest.mark.parametrize("sheet", [WSE2, WSE3])
def test_trains_cycles_and_timeline_agree(sheet: object) -> None:
    device = sheet.at()  # type: ignore[attr-defined]
    trains = whole_wafer.measure(SMALL, device, "trains")
    cycles = whole_wafer.measure(SMALL, device, "cycles")
    assert trains.run.path == "trains" and cycles.run.path == "cycles"
    assert trains.run.cycles == cycles.run.cycles == trains.timeline_cycles
    assert (trains.run.ends == cycles.run.ends).all()
    assert (trains.run.values["y"] == cycles.run.values["y"]).all()
    assert 0 < trains.error < whole_wafer.TOLERANCE


def test_long_sums_take_a_chain() -> None:
    device = WSE3.at()
    long = WaferGemv(16, 240, 16, 6)
    assert long.tree(device) == trees.chain(16)
    result = whole_wafer.measure(long, device, "cycles")
    assert (
        result.run.cycles == result.timeline_cycles
        and result.error < whole_wafer.TOLERANCE
    )


def command(*words: str) -> subprocess.CompletedProcess[str]:
    line = [sys.executable, "-m", "experiments.whole_wafer", *words]
    return subprocess.run(line, capture_output=True, text=True, timeout=300)


@pytest.mark.parametrize(
    ("text", "why"),
    [("755", "columns x rows"), ("0x4", "columns x rows"), ("756x4", "at most")],
)
def test_rectangles_that_are_none(text: str, why: str) -> None:
    with pytest.raises(UsageError, match=why):
        whole_wafer.rectangle(text, WSE3.at())


def test_the_command_prints_both_rates() -> None:
    done = command("--size", "96", "--pes", "20x24")
    assert done.returncode == 0, done.stderr
    assert len(re.findall(r"\d\.\de[+]\d\d PE-cycles/s", done.stdout)) == 2
    assert "equal" in done.stdout and "DIFFERENT" not in done.stdout
    wrong = command("--pes", "9999x1")
    assert (
        wrong.returncode == 2
        and wrong.stderr.startswith("error: ")
        and not wrong.stdout
    )
