"""The floor plan's table, files and picture."""

import csv
import json
import pathlib

import pytest

from experiments.__main__ import do


def test_a_small_model_on_two_wafers(
    tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = "--model smollm2-135m --context 64 --users 3 --wafers 2".split()
    do(["floor_plan", *words, "--out", str(tmp_path)])
    printed = capsys.readouterr().out
    assert "64 tokens for each of 3 users, on 2 WSE-3" in printed
    figures = json.loads((tmp_path / "floor_plan.json").read_text())
    with (tmp_path / "floor_plan.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["region"] for row in rows] == [
        *(f"layer {n}" for n in range(30)),
        "head",
    ]
    assert {row["wafer"] for row in rows} == {"0", "1"}
    crossing = [row["region"] for row in rows if row["crosses"] == "True"]
    assert len(crossing) == 2 and crossing[0] == "layer 0"
    # Every stage's cycles are in some region, but the host's.
    stages = figures["stages"]
    assert (
        sum(int(row["cycles"]) for row in rows) == sum(stages.values()) - stages["host"]
    )
    nominal = figures["token_s"]["nominal"] - figures["token_without_host_s"]["nominal"]
    assert nominal == pytest.approx(10e-6)
    for use in figures["wafers"]:
        own = [row for row in rows if int(row["wafer"]) == use["wafer"]]
        pes = [int(row["rows"]) * int(row["columns"]) for row in own]
        each = [int(row["bytes_a_pe"]) for row in own]
        assert use["pes"] == sum(pes) and use["peak_bytes_a_pe"] == max(each) <= 49_152
        held = sum(a * b for a, b in zip(pes, each, strict=True))
        assert sum(use["sram_bytes"].values()) == held
    assert (tmp_path / "floor_plan.png").read_bytes().startswith(b"\x89PNG")


def test_what_does_not_fit_ends_with_one_line(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(SystemExit) as stop:
        do("floor-plan --model llama-3.1-70b --wafers 1 --context 64".split())
    assert stop.value.code == 2
    error = capsys.readouterr().err
    assert "5 wafers would hold it" in error and error.count("\n") == 1
