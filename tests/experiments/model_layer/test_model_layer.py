"""The tables of a layer's stages, and of its decode step."""

import csv
import json
import pathlib

import pytest
from rich.console import Console

from experiments.__main__ import do
from experiments.model_layer import decode_picture, decode_table
from experiments.model_layer.decode import decoded
from experiments.model_layer.measure import layers_of
from models.configurations import published
from models.precision import precision


def test_stages_add_up_to_the_layer(
    tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A layer with a window, timed with even counts and with uneven ones."""
    small = ["--layer", "0", "--tokens", "256", "--chips", "2", "--cores", "8"]
    small += ["--context", "256"]
    small += ["--prefill-dtype", "experts=mxfp4,activations=mxfp8"]
    do(["model-layer", "--model", "gpt-oss-20b", *small, "--out", str(tmp_path)])
    printed = capsys.readouterr().out
    title = "layer 0 (12 of 24 are like it), experts=mxfp4,activations=mxfp8"
    assert title in " ".join(printed.split())
    with (tmp_path / "model_layer.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 2 * 5
    for begin in range(0, len(rows), 5):
        *stages, layer = rows[begin : begin + 5]
        names = [row["stage"] for row in (*stages, layer)]
        assert names == ["projections", "attention", "output", "mixture", "layer"]
        sums = "nominal_seconds", "matmul_flops", "mx_flops", "hbm_bytes", "link_bytes"
        for figure in sums:
            total = sum(float(row[figure]) for row in stages)
            assert float(layer[figure]) == pytest.approx(total)
        # Of experts' products, and of the router in bfloat16.
        assert [int(row["mx_flops"]) for row in stages[:3]] == [0, 0, 0]
        assert 0 < int(layer["mx_flops"]) < int(layer["matmul_flops"])
        low, nominal, high = (
            float(layer[f"{band}_seconds"]) for band in ("low", "nominal", "high")
        )
        assert low < nominal < high
        assert 0 < float(layer["peak_share"]) < 1
    even, worst = (float(rows[number]["nominal_seconds"]) for number in (3, 8))
    assert worst != even
    figures = json.loads((tmp_path / "model_layer.json").read_text())
    assert [str(figure["flops"]) for figure in figures["stages"]] == [
        row["flops"] for row in rows
    ]
    (step,) = figures["decode"]
    assert step["context"] == 256 and step["held"] == "bfloat16"
    assert step["low_cycles"] < step["nominal_cycles"] < step["high_cycles"]
    assert f"{step['nominal_cycles']:,}" in printed
    with (tmp_path / "model_layer_decode.csv").open() as file:
        (row,) = csv.DictReader(file)
    assert {name: str(value) for name, value in step.items()} == row
    for name in ("model_layer.png", "model_layer_decode.png"):
        assert (tmp_path / name).stat().st_size > 10_000


def test_a_layer_that_fits_no_wafer_says_so(tmp_path: pathlib.Path) -> None:
    """Kimi-K2's experts in bfloat16; in codes they fit."""
    config = published("kimi-k2").config
    (step,) = decoded(config, [60], [256], precision("bfloat16"))
    (line,) = decode_table.lines([step])
    figures = dict(zip(decode_table.HEADING, line, strict=True))
    assert "no context would do" in figures["refusal"]
    assert figures["nominal_cycles"] is None and figures["context"] == 256
    console = Console(width=150, record=True)
    decode_table.show([step], console)
    printed = " ".join(console.export_text().split())
    assert "does not fit" in printed and "--dtype mxfp8 halves" in printed
    decode_picture.draw([step], tmp_path / "none.png")
    assert (tmp_path / "none.png").exists()


def test_one_layer_of_each_form() -> None:
    """Windows in every other layer; three layers with an MLP before those with experts."""
    assert layers_of(published("gpt-oss-20b").config) == [0, 1]
    assert layers_of(published("deepseek-v3").config) == [0, 3]


def test_what_cannot_be_ends_with_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    for words, told in (
        (["--model", "nothing"], "nothing"),
        (["--model", "gpt-oss-20b", "--layer", "24"], "0 to 23"),
        (["--model", "gpt-oss-20b", "--tokens", "100", "--chips", "3"], "multiple"),
        (["--model", "gpt-oss-20b", "--prefill-dtype", "experts=mxfp4"], "no kernels"),
        (["--prefill-dtype", "fp8"], "take mxfp8 or bfloat16"),
        (["--tensor", "3"], "--tensor is 3, must divide the 64 of --chips"),
    ):
        with pytest.raises(SystemExit):
            do(["model-layer", *words])
        assert told in capsys.readouterr().err
