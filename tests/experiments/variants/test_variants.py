"""`trn-wse variants`: a researcher's own file beside the catalogue, and files that are wrong."""

import csv
import json
import pathlib
import re

import pytest

from experiments.shared import cli
from experiments.variants import __main__ as variants
from experiments.variants.table import HEADING

MINE = """
import jax.numpy as jnp
from kernels import attention

def gated(s, b, h, q, k):
    near = q - k < 64 * (h + 1)
    return jnp.where((k <= q) & near, 30 * jnp.tanh(s / 30), -jnp.inf)

def no_instruction(s, b, h, q, k):
    return jnp.floor(s)

def by_score(s, b, h, q, k):
    return jnp.where(s > 0, s, -jnp.inf)

def near(b, h, q, k):
    return (k <= q) & (q - k < 100)

def two(a, b):
    return a
"""
SMALL = ["--tokens", "2048", "--chips", "2", "--heads", "4", "--kv-heads", "2"]


@pytest.fixture
def mine(tmp_path: pathlib.Path) -> pathlib.Path:
    path = tmp_path / "mine.py"
    path.write_text(MINE)
    return path


def run(*words: str) -> None:
    cli.run("variants", variants.options, variants.main, [*SMALL, *words])


def test_functions_of_ones_own_stand_beside_the_catalogue(
    mine: pathlib.Path, tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    files = ["--file", f"{mine}:gated", "--file", f"{mine}:near"]
    run(*files, "--only", "causal", "--no-values", "--out", str(out))
    with (out / "variants.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert tuple(rows[0]) == HEADING
    by_name = {row["variant"]: row for row in rows}
    assert set(by_name) == {"full", "gated", "near", "causal"}
    live = {name: int(row["live_tiles"]) for name, row in by_name.items()}
    assert live["near"] < live["causal"] < live["full"]
    seconds = {name: float(row["prefill_s"]) for name, row in by_name.items()}
    assert seconds["near"] < seconds["causal"] < seconds["full"]
    assert float(by_name["full"]["over_full"]) == 1
    assert json.loads((out / "variants.json").read_text())["variants"]
    assert (out / "variants.png").stat().st_size > 10_000
    for name in ("gated", "near", "causal"):
        assert (out / f"{name}_tiles.png").stat().st_size > 10_000
    assert not (out / "full_tiles.png").exists()
    assert "gated" in capsys.readouterr().out


@pytest.mark.slow
def test_values_are_held_to_the_oracle(
    mine: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    out = tmp_path / "out"
    run("--file", f"{mine}:gated", "--only", "full", "--out", str(out))
    with (out / "variants.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 2
    for row in rows:
        assert 0 < float(row["prefill_error"]) < 2e-6
        assert 0 < float(row["decode_error"]) < 2e-6


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--file", "{mine}:no_instruction"], r"computes floor; use .*\(mine.py:10\)"),
        (
            ["--file", "{mine}:by_score"],
            r"depends on the score's value.*\(mine.py:13\)",
        ),
        (["--file", "{mine}:two"], r"two takes neither .*\(mine.py:18\)"),
        (["--file", "{mine}:gone"], "no function 'gone', must be one of gated"),
        (["--file", "{mine}"], "must be FILE.py:NAME"),
        (["--file", "nowhere.py:x"], "nowhere.py: no such file"),
        (["--only", "causual"], "no variant 'causual', must be one of full, causal"),
        (["--tokens", "0"], "tokens"),
    ],
)
def test_what_is_wrong_is_told_in_one_line(
    words: list[str],
    told: str,
    mine: pathlib.Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(SystemExit) as stopped:
        run(*(word.format(mine=mine) for word in words))
    assert stopped.value.code not in (0, None)
    printed = capsys.readouterr()
    *_, last = printed.err.strip().splitlines()
    assert re.search(told, last), printed.err
    assert "Traceback" not in printed.err
