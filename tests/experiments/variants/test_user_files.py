"""Variants in files of at most ten lines, as one writes them who has read the README alone."""

import csv
import pathlib
import re
import subprocess
import sys

import pytest

from experiments.shared import cli
from experiments.variants import __main__ as variants
from experiments.variants import request
from experiments.variants.measure import errors

FILES = pathlib.Path(__file__).parent / "user_files"
SMALL = "--tokens 512 --chips 2 --heads 4 --kv-heads 2 --head-dim 64".split()
RIGHT = ("nearby", "documents", "warm")
# What the message must hold: the place, what is wrong and what to do about it.
WRONG = {
    "strongest": (
        "strongest.py:6",
        "depends on the score's value: for b=0, h=0, q=0, k=0 a score of",
        "take a large number from the score in place of -inf",
    ),
    "branching": (
        "branching.py:5",
        "asks whether a value is true",
        "`jnp.where` in place of",
    ),
    "averaged": (
        "averaged.py:6",
        "is not associative: of a = (greatest=2, total=1, output=3), b =",
        "merge(merge(a, b), c) = (greatest=2, total=2, output=6) and merge(a, merge(b, c)) =",
        "machines meet keys in any order",
    ),
}
HEAD = "import numpy as np\nimport jax.numpy as jnp\nHELD = [np.ones(4)]\n\n"
UNTRACEABLE = {
    "if s > 0: return s\n    return -s": "`jnp.where` in place of",
    "return s if k <= q and q - k < 9 else -9.0": "write `&`, `|`, `~`",
    "return np.tanh(s)": "use `jnp`",
    "return float(s) + 1": "use `jnp`",
    "return s + HELD[0][h]": "`jnp.asarray(table)[k]` for a NumPy table",
    "return s + len(range(q))": "use `jnp`",
    "return s[0]": "0-dimensional",
    "return (s, s)": "must give one scalar",
    "s + 1": "gives None, must give a number; is its `return` missing?",
    "return s + nothing": "nothing",
}


def run(*words: str) -> None:
    cli.run("variants", variants.options, variants.main, [*SMALL, *words])


def of_file(name: str) -> list[str]:
    return ["--file", f"{FILES / name}.py:{name}"]


def table(out: pathlib.Path) -> dict[str, dict[str, str]]:
    with (out / "variants.csv").open() as file:
        return {row["variant"]: row for row in csv.DictReader(file)}


def test_files_are_those_that_are_told_of_and_short() -> None:
    found = {path.stem: path for path in FILES.glob("*.py")}
    assert set(found) == {*RIGHT, *WRONG}
    for path in found.values():
        lines = [line for line in path.read_text().splitlines() if line.strip()]
        assert len(lines) <= 10, path


def test_right_ones_are_timed_on_both_machines(tmp_path: pathlib.Path) -> None:
    files = [word for name in RIGHT for word in of_file(name)]
    run(*files, "--no-values", "--out", str(tmp_path))
    rows = table(tmp_path)
    assert set(rows) == {"full", *RIGHT}
    for name in RIGHT:
        row = rows[name]
        # A causal window or document leaves less than all. As a share: placements that cut a
        # sequence into two chunks a chip have smaller tiles.
        assert int(row["live_tiles"]) < int(row["tiles"])
        for what in ("prefill", "decode"):
            low, nominal, high = (
                float(row[f"{what}_{band}s"]) for band in ("low_", "", "high_")
            )
            assert 0 < low <= nominal <= high


@pytest.mark.parametrize(
    "name", [RIGHT[0], *(pytest.param(x, marks=pytest.mark.slow) for x in RIGHT[1:])]
)
def test_right_ones_agree_with_their_oracle(name: str) -> None:
    """Without the command line, which computes full attention's values beside them."""
    (wanted,) = request.asked([], [f"{FILES / name}.py:{name}"])
    found = errors(wanted)
    assert 0 < min(found) <= max(found) < 2e-6


@pytest.mark.slow
def test_the_command_itself_holds_them_to_their_oracle(tmp_path: pathlib.Path) -> None:
    files = [word for name in RIGHT for word in of_file(name)]
    done = command(*files, "--out", str(tmp_path))
    assert done.returncode == 0, done.stderr
    for name, row in table(tmp_path).items():
        assert name in done.stdout
        for error in (row["prefill_error"], row["decode_error"]):
            assert 0 < float(error) < 2e-6


def command(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "experiments.variants", *SMALL, *words],
        cwd=FILES.parents[3],
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize("name", WRONG)
def test_wrong_ones_are_refused_with_their_line_and_the_remedy(name: str) -> None:
    """By the command itself: it exits 2, with one line."""
    done = command(*of_file(name))
    assert done.returncode == 2 and not done.stdout
    (told,) = done.stderr.splitlines()
    for words in WRONG[name]:
        assert words in told


@pytest.mark.parametrize("body", UNTRACEABLE)
def test_what_jax_cannot_trace_is_told_with_its_line(
    body: str, tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "mine.py"
    path.write_text(f"{HEAD}def mine(s, b, h, q, k):\n    {body}\n")
    with pytest.raises(SystemExit) as stopped:
        run("--file", f"{path}:mine")
    assert stopped.value.code == 2
    told = capsys.readouterr().err.strip().splitlines()
    # Of the line that is wrong, or of the function where it is what it gives.
    assert len(told) == 1 and re.search(r"\(mine.py:[56]\)$", told[0]), told
    assert UNTRACEABLE[body] in told[0]
