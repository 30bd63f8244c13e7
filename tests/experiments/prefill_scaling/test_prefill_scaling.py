"""The table of best plans: what it prints, writes and refuses."""

import csv
import json
import pathlib

import pytest

from experiments.__main__ import do

SMALL = ["--model", "smollm2-135m", "--tokens", "128", "--chips", "1", "--cores", "1"]


def test_plans_are_printed_and_written(
    tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """One point that has a plan, and one of a model whose layers no stage computes."""
    words = [*SMALL, "--model", "gemma-3-4b", "--cached", "64", "--out", str(tmp_path)]
    do(["prefill-scaling", *words])
    printed = capsys.readouterr().out
    with (tmp_path / "prefill_scaling.csv").open() as file:
        planned, refused = csv.DictReader(file)
    assert planned["plan"] == "1 chip behind 64 cached tokens"
    times = [float(planned[f"{band}_ttft_s"]) for band in ("low", "nominal", "high")]
    assert 0 < times[0] < times[1] < times[2]
    # Cached tokens are not prefilled.
    assert float(planned["nominal_tokens_per_s"]) == pytest.approx(64 / times[1])
    parts = (int(planned[f"{name}_bytes"]) for name in ("weight", "cache", "working"))
    assert sum(parts) == int(planned["hbm_bytes"])
    assert 0 < float(planned["last_keys_s"]) < times[1]
    assert "first token after" in planned["why"] and "first token after" in printed
    assert refused["plan"] == "" and "no stage computes" in refused["why"]
    figures = json.loads((tmp_path / "prefill_scaling.json").read_text())
    assert figures["points"][0]["nominal_ttft_s"] == times[1]
    assert (tmp_path / "prefill_scaling.png").stat().st_size > 10_000


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--cached", "128"], "--cached is 128"),
        (["--chips", "145"], "--chips is 145"),
        (["--dtype", "float7"], "there is no format"),
    ],
)
def test_what_cannot_be_is_one_line(
    words: list[str], told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        do(["prefill-scaling", *SMALL, *words])
    assert ended.value.code == 2
    assert told in capsys.readouterr().err
