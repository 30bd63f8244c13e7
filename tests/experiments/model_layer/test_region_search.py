"""Regions that were tried are told, and which one was chosen and why."""

import json
import pathlib

import pytest
from rich.console import Console

from experiments.__main__ import do
from experiments.model_layer import search_table
from experiments.model_layer.decode import decoded
from models.configurations import published
from models.precision import precision


def test_what_was_tried_is_told(tmp_path: pathlib.Path) -> None:
    config = published("smollm2-135m").config
    path = tmp_path / "searches.json"
    steps = list(decoded(config, [0], [64], precision("bfloat16"), 2, path))
    (step,) = steps
    assert step.time is not None
    rows = [
        dict(zip(search_table.HEADING, line, strict=True))
        for line in search_table.lines(steps)
    ]
    (chosen,) = [row for row in rows if row["chosen"]]
    assert len(rows) == 2
    assert chosen["cycles"] == min(row["cycles"] for row in rows)
    assert chosen["cycles"] == step.time.cycles["nominal"]
    with Console(width=120, record=True) as console:
        search_table.show(steps, console)
    told = console.export_text()
    assert "chosen: the least clock, the first by estimate if several have it" in told
    assert f"{chosen['cycles']:,}" in told
    (kept,) = json.loads(path.read_text("utf-8"))["searches"]
    assert [reading[-1] for reading in kept["readings"]] == [r["cycles"] for r in rows]


def test_a_file_needs_a_search(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        do(["model-layer", "--model", "smollm2-135m", "--searches", "s.json"])
    assert "let --search be 2 or more" in capsys.readouterr().err
