"""The table of models."""

import csv
import json
import pathlib

import pytest

from experiments.__main__ import do
from experiments.models.sizes import Sizes
from models.configurations import published


def test_files_have_every_model(tmp_path: pathlib.Path) -> None:
    do(["models", "--out", str(tmp_path)])
    with (tmp_path / "models.csv").open() as file:
        rows = {row["model"]: row for row in csv.DictReader(file)}
    assert len(rows) == 31
    assert rows["llama-3.1-8b"]["parameters"] == "8030261248"
    assert rows["llama-3.1-8b"]["computed_by"] == "oracle prefill decode"
    assert rows["gemma-3-27b"]["computed_by"] == "oracle prefill decode"
    assert rows["gemma-3-4b"]["computed_by"] == "oracle prefill decode"
    assert rows["deepseek-v4-pro"]["computed_by"] == ""
    figures = json.loads((tmp_path / "models.json").read_text())["models"]
    assert {figure["model"] for figure in figures} == rows.keys()


def test_machines_hold_what_they_must() -> None:
    """Llama 3.1 70B in bfloat16: 141.1 GB and 131,072 tokens of 327,680 bytes, 42.9 GB.

    One chip has 144 GiB, 154.6 GB; a wafer 750 x 1,170 PEs of 48 KiB, 43.1 GB.
    """
    sizes = Sizes(published("llama-3.1-70b"), 131_072)
    assert sizes.cache_bytes == 131_072 * 80 * 2 * 8 * 128 * 2
    assert sizes.weight_bytes("bf16") == 2 * 70_553_706_496
    assert sizes.chips("bf16") == 2
    assert sizes.wafers("bf16") == 5


def test_an_unknown_model_ends_with_one_line(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(SystemExit):
        do(["models", "--only", "nothing"])
    assert "nothing" in capsys.readouterr().err
