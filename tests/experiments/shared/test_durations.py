"""The long experiments say beforehand how long, and `--quick` says what it leaves out."""

import argparse
import json
import pathlib

import pytest
from rich.console import Console

from experiments.__main__ import command_of
from experiments.calibration import __main__ as calibration
from experiments.calibration.points import POINTS, read_points
from experiments.ring_precision import __main__ as ring_precision
from experiments.ring_scaling import __main__ as ring_scaling
from experiments.ring_scaling import cases
from experiments.ring_scaling.threshold import questions
from experiments.shared import cli, durations


def told(experiment: str, steps: int) -> str:
    console = Console(width=200)
    with console.capture() as capture:
        durations.tell(experiment, steps, console)
    return capture.get()


def parsed(name: str, *words: str) -> argparse.Namespace:
    return cli.parser(name, command_of(name).options).parse_intermixed_args(words)


@pytest.mark.parametrize("name", durations.MEASURED)
def test_every_one_has_a_quick_way_of_half_a_minute(name: str) -> None:
    measured = durations.MEASURED[name]
    assert measured.quick_cpu_s <= 30 < measured.cpu_s
    assert parsed(name, "--quick").quick and not parsed(name).quick
    assert durations.estimate_s(name, measured.steps) == measured.cpu_s
    line = told(name, measured.steps)
    assert line.startswith(f"about {measured.cpu_s / 60:.0f} min on two cores")
    assert "--quick" in line
    # What is short needs no telling.
    assert told(name, 1) == ""


def test_the_steps_measured_are_those_of_all_of_it() -> None:
    measured = durations.MEASURED
    assert measured["calibration"].steps == len(read_points(POINTS))
    args = parsed("ring_precision")
    ring_precision.sized(args)
    assert measured["ring_precision"].steps == len(ring_precision.points(args))
    whole = (2048, 144)
    steps = len(cases.sweep(*whole, whole=False)) + len(questions(144, whole=False))
    steps += sum(map(len, cases.schemes(*whole, whole=False)))
    assert measured["ring_scaling"].steps == steps


def test_quick_rings_are_few_and_small() -> None:
    args = parsed("ring_precision", "--quick")
    ring_precision.sized(args)
    assert ring_precision.points(args) == [
        ("bfloat16", recipe, ranks) for ranks in (1, 8) for recipe in ("fp32", "bf16-o")
    ]
    # What is named is measured.
    args = parsed("ring_precision", "float32", "--quick", "--ranks", "16")
    ring_precision.sized(args)
    assert {(d, n) for d, _, n in ring_precision.points(args)} == {
        ("float32", 1),
        ("float32", 16),
    }


def test_quick_scaling_asks_few_small_points(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = []
    monkeypatch.setattr(ring_scaling, "measure", asked.append)
    monkeypatch.setattr(ring_scaling, "find", lambda question: [])
    monkeypatch.setattr(ring_scaling, "show", lambda *_: None)
    monkeypatch.setattr(ring_scaling, "write", lambda *_: None)
    cli.run("ring_scaling", ring_scaling.options, ring_scaling.main, ["--quick"])
    shown = capsys.readouterr()
    assert f"left out: {cases.LEFT_OUT}" in shown.out
    assert 8 <= len(asked) <= 20
    assert {point.mask for point in asked} == set(cases.QUICK_MASKS)
    assert max(point.ranks for point in asked) == cases.QUICK_RANKS


def test_quick_calibration_says_what_it_left_out(
    tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    header, *lines = POINTS.read_text("utf-8").splitlines()
    kept = [line for line in lines if ",activation," in line or ",vector_op," in line]
    slow = [line for line in lines if ",mesh_gemm," in line]
    path = tmp_path / "points.csv"
    path.write_text("\n".join([header, *kept, *slow]), "utf-8")
    words = ["--points", str(path), "--quick", "--out", str(tmp_path)]
    cli.run("calibration", calibration.options, calibration.main, words)
    left_out = f"{len(slow)} of {len(kept) + len(slow)} points, {calibration.LEFT_OUT}"
    assert f"--quick left out: {left_out}" in capsys.readouterr().out
    figures = json.loads((tmp_path / "calibration.json").read_text("utf-8"))
    assert len(figures["points"]) == len(kept) > 0
    assert figures["quick_leaves_out"] == left_out


def test_nothing_left_is_an_error(
    tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    header, *lines = POINTS.read_text("utf-8").splitlines()
    slow = [line for line in lines if ",mesh_gemm," in line]
    path = tmp_path / "points.csv"
    path.write_text("\n".join([header, *slow]), "utf-8")
    with pytest.raises(SystemExit) as stopped:
        words = ["--points", str(path), "--quick"]
        cli.run("calibration", calibration.options, calibration.main, words)
    assert stopped.value.code == 2
    assert "none of" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize("name", durations.MEASURED)
def test_quick_ends_with_its_figures(
    name: str, tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    module = command_of(name)
    cli.run(name, module.options, module.main, ["--quick", "--out", str(tmp_path)])
    assert "left out: " in capsys.readouterr().out
    figures = json.loads((tmp_path / f"{name}.json").read_text("utf-8"))
    assert figures["quick_leaves_out"]
