"""The experiment `precision`: errors of logits, times of plans, and what is refused."""

import csv
import json
import pathlib

import numpy as np
import pytest

from experiments.__main__ import do
from experiments.precision.values import FORMATS_ALONE, Prompt, errors
from models.catalogue import SMOLLM2_135M
from models.loading.load import load
from models.machines.prefill import useful_flops
from models.precision import precision


def test_errors_of_logits() -> None:
    """Of two positions one has another greatest, which float32 had 1 ahead of its second."""
    exact = np.array([[3.0, 2.0, 0.0], [0.0, 1.0, 4.0]], np.float32)
    found = np.array([[2.0, 2.5, 0.0], [0.0, 1.0, 4.0]], np.float32)
    own = errors("mxfp8", FORMATS_ALONE, found, exact)
    assert own.rms == pytest.approx(np.sqrt((1 + 0.25) / (9 + 4 + 1 + 16)))
    assert (own.largest, own.agreement, own.lost) == (1.0, 0.5, 1.0)
    assert own.margin == pytest.approx((1 + 3) / 2)


def test_fewer_bits_are_further_off() -> None:
    model = load("tiny")
    prompt = Prompt(model.config, model.weights, model.tokenizer.encode("Return the"))
    plans = "int8", "mxfp8", "mxfp4"
    rms = [prompt.by_formats(precision(words)).rms for words in plans]
    assert 0 < rms[0] < rms[1] < rms[2]


def test_times(tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Times of a model without weights; what has no kernels is said and left out."""
    plans = "bfloat16", "mxfp8", "mxfp4"
    words = "--model smollm2-135m --tokens 64 --cores 8".split()
    do(["precision", *plans, *words, "--out", str(tmp_path)])
    assert "not timed: mxfp4; " in capsys.readouterr().out
    figures = json.loads((tmp_path / "precision.json").read_text())
    assert figures["errors"] == []
    with (tmp_path / "times.csv").open() as file:
        wide, coded = csv.DictReader(file)
    assert (wide["plan"], coded["plan"]) == plans[:2]
    for row in (wide, coded):
        assert int(row["useful_flops"]) == useful_flops(SMOLLM2_135M, 64)
        seconds = [float(row[f"{band}_seconds"]) for band in ("low", "nominal", "high")]
        assert seconds == sorted(seconds)
        # 8 cores of 78.6 TFLOP/s, in MX four times as many.
        peak = 8 * 2 * 128 * 128 * 2.4e9 * (4 if row is coded else 1)
        share = int(row["useful_flops"]) / seconds[1] / peak
        assert float(row["peak_share"]) == pytest.approx(share)
    assert int(coded["weight_bytes"]) < int(wide["weight_bytes"])
    ratio = float(wide["nominal_seconds"]) / float(coded["nominal_seconds"])
    assert float(coded["speedup"]) == pytest.approx(ratio)


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["fp9"], "no format 'fp9'"),
        (["--model", "nothing"], "must be one of"),
        (["mxfp8", "--model", "tiny", "--prompt", " "], "--prompt is empty"),
    ],
)
def test_bad_options_are_one_line(
    words: list[str], told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stopped:
        do(["precision", *words])
    said = capsys.readouterr().err
    assert stopped.value.code == 2 and told in said and said.count("\n") == 1
