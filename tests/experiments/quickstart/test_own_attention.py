"""`quickstart --attention FILE.py:NAME`: a user's attention through both machines, or its fault."""

import json
import pathlib

import pytest

from experiments.quickstart import __main__ as quickstart
from experiments.shared import cli
from tests.experiments.misuse import refused

MINE = """
import jax.numpy as jnp
from kernels import attention

def capped(s, b, h, q, k):
    near = q - k < 3 * (h + 1)
    return jnp.where(near, 5 * jnp.tanh(s / 5) - 0.1 * (q - k), -jnp.inf)

def near(b, h, q, k):
    return q - k < 4

layers = [near, capped]
three = [near, near, capped]
numbers = [1, 2]

def by_score(s, b, h, q, k):
    return jnp.where(s > 0, s, -jnp.inf)

def no_instruction(s, b, h, q, k):
    return jnp.floor(s)

def raises(s, b, h, q, k):
    return s + undefined
"""


@pytest.fixture
def mine(tmp_path: pathlib.Path) -> pathlib.Path:
    path = tmp_path / "mine.py"
    path.write_text(MINE)
    return path


def call(*args: str) -> None:
    tiny = ("--model", "tiny", "--chips", "2", "--tokens", "6", "--ignore-eos")
    cli.run("quickstart", quickstart.options, quickstart.main, [*tiny, *args])


def test_a_pattern_of_ones_own_answers_as_the_oracle_does(
    mine: pathlib.Path, tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """And otherwise than without it: tokens far back are not seen."""
    prompt = ("--prompt", "Return the value of the first item that")
    call(*prompt, "--attention", f"{mine}:layers", "--out", str(tmp_path / "own"))
    assert "under near, capped" in capsys.readouterr().out.replace("\n", " ")
    own = json.loads((tmp_path / "own" / "quickstart.json").read_text())
    assert own["attention"] == ["near", "capped"]
    assert own["tokens_equal"] and len(own["tokens"]) == 6
    assert own["max_abs_logit_diff"] < 1e-4
    decode = own["decode"]
    # Of a window steps do not cost ever more, so that all are read.
    assert decode["steps"] == decode["steps_read"] == 5
    assert decode["peak_bytes_per_pe"]["layer"]["tables"] > 0


@pytest.mark.parametrize(
    ("name", "told"),
    [
        (
            ":gone",
            "{mine} has no function 'gone', must be one of layers, three, capped",
        ),
        ("", "--attention is '{mine}', must be FILE.py:NAME"),
        (":by_score", "score of by_score: whether a key is attended depends on the"),
        (
            ":raises",
            "score of raises: raises NameError: name 'undefined' is not defined",
        ),
        (":no_instruction", "score of no_instruction: no instruction of a NeuronCore"),
        (
            ":three",
            "{mine}:three: ModelError: attention is a pattern of 3 variants, the",
        ),
    ],
)
def test_what_is_wrong_is_told_in_one_line_with_the_users(
    name: str, told: str, mine: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        call("--attention", f"{mine}{name}")
    assert ended.value.code == 2
    error = capsys.readouterr().err
    assert error.startswith("error: " + told.format(mine=mine)), error
    assert error.count("\n") == 1
    if name in (":by_score", ":raises", ":no_instruction"):
        line = MINE.splitlines().index(f"def {name[1:]}(s, b, h, q, k):") + 2
        assert error.endswith(f"(mine.py:{line})\n")


def test_a_file_that_is_not_there_is_refused(
    capsys: pytest.CaptureFixture[str],
) -> None:
    missing = "nowhere.py: no such file"
    refused(call, ["--attention", "nowhere.py:x"], missing, capsys)
