"""The table of a layer's stages."""

import csv
import json
import pathlib

import pytest

from experiments.__main__ import do
from experiments.model_layer.measure import layers_of
from models.configurations import published


def test_stages_add_up_to_the_layer(
    tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A layer with a window, timed with even counts and with uneven ones."""
    small = ["--layer", "0", "--tokens", "256", "--chips", "2", "--cores", "8"]
    do(["model-layer", "--model", "gpt-oss-20b", *small, "--out", str(tmp_path)])
    printed = capsys.readouterr().out
    assert "layer 0 (12 of 24 are like it)" in printed
    with (tmp_path / "model_layer.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 2 * 5
    for begin in range(0, len(rows), 5):
        *stages, layer = rows[begin : begin + 5]
        names = [row["stage"] for row in (*stages, layer)]
        assert names == ["projections", "attention", "output", "mixture", "layer"]
        for figure in ("nominal_seconds", "matmul_flops", "hbm_bytes", "link_bytes"):
            total = sum(float(row[figure]) for row in stages)
            assert float(layer[figure]) == pytest.approx(total)
        low, nominal, high = (
            float(layer[f"{band}_seconds"]) for band in ("low", "nominal", "high")
        )
        assert low < nominal < high
        assert 0 < float(layer["peak_share"]) < 1
    even, worst = (float(rows[number]["nominal_seconds"]) for number in (3, 8))
    assert worst != even
    figures = json.loads((tmp_path / "model_layer.json").read_text())["stages"]
    assert [str(figure["flops"]) for figure in figures] == [
        row["flops"] for row in rows
    ]


def test_one_layer_of_each_form() -> None:
    """Windows in every other layer; three layers with an MLP before those with experts."""
    assert layers_of(published("gpt-oss-20b").config) == [0, 1]
    assert layers_of(published("deepseek-v3").config) == [0, 3]


def test_what_cannot_be_ends_with_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    for words, told in (
        (["--model", "nothing"], "nothing"),
        (["--model", "gpt-oss-20b", "--layer", "24"], "0 to 23"),
        (["--model", "gpt-oss-20b", "--tokens", "100", "--chips", "3"], "multiple"),
    ):
        with pytest.raises(SystemExit):
            do(["model-layer", *words])
        assert told in capsys.readouterr().err
