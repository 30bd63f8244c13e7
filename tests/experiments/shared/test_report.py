"""The small things reports are made of, and the documents that are run."""

import pathlib
import re
import subprocess
import sys

import numpy as np
import pytest

from emu.clock.reading import Event
from emu.report.bands import banded, busy_share
from experiments.__main__ import experiments
from experiments.shared.units import count, duration

ROOT = pathlib.Path(__file__).parents[3]


def test_banded_asks_each_band_once() -> None:
    assert banded(str.upper) == {"low": "LOW", "nominal": "NOMINAL", "high": "HIGH"}


def test_busy_share_is_exact_per_bin() -> None:
    spans = [(0, 5), (5, 6), (12, 28)]
    events = [Event("a", "x", s, e, "k.py:1") for s, e in spans]
    events.append(Event("b", "y", 0, 100, "k.py:2"))
    share = busy_share(events, "a", np.array([0.0, 10.0, 20.0, 30.0, 40.0]))
    assert share.tolist() == [0.6, 0.8, 0.8, 0.0]
    assert busy_share([], "a", np.array([0.0, 1.0])).tolist() == [0.0]


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (None, "-"),
        (0, "0"),
        (2.5, "2.5 s"),
        (1.25e-3, "1.25 ms"),
        (3e-6, "3 us"),
        (4e-9, "4 ns"),
    ],
)
def test_durations_have_their_unit(seconds: float | None, text: str) -> None:
    assert duration(seconds) == text


def test_counts_have_decimal_prefixes() -> None:
    assert [count(n, "B") for n in (999, 1500, 2.5e6, 3e9)] == [
        "999 B",
        "1.5 kB",
        "2.5 MB",
        "3 GB",
    ]


def test_every_experiment_is_listed_with_its_question() -> None:
    listed = experiments()
    assert {"quickstart", "bench", "train_tiny"} <= set(listed)
    assert all(line.endswith(".") for line in listed.values())


def test_the_instruction_in_design_md_runs_and_is_short() -> None:
    text = (ROOT / "DESIGN.md").read_text(encoding="utf-8")
    block = re.findall(r"```python\n(.*?)```", text, re.S)[0]
    assert len(block.strip().splitlines()) <= 30
    space: dict = {"__name__": "design_example"}
    # Dataclasses look it up.
    sys.modules["design_example"] = type(sys)("design_example")
    try:
        exec(compile(block, "DESIGN.md", "exec"), space)
    finally:
        del sys.modules["design_example"]
    assert np.array_equal(space["numbers"], np.full((2, 8), 3.0))
    # Two dependent adds of 8 + 5 cycles; 8 additions each on 2 cores.
    assert f"`clock.end_ticks` is {space['clock'].end_ticks}" in text
    assert space["clock"].end_ticks == 2 * (8 + 5)
    assert space["clock"].tally.flops == 2 * 2 * 8


def test_the_readme_commands_are_one_line_each() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    blocks = re.findall(r"^```sh\n(.*?)^```", text, re.S | re.M)
    assert [b.count("\n") for b in blocks[:2]] == [1, 1]
    assert "experiments.quickstart" in blocks[0] and "pytest" in blocks[1]


def test_bad_arguments_of_the_bench_exit_2() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "experiments.bench", "--repeats", "0"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert done.stderr.startswith("error: --repeats is 0")
