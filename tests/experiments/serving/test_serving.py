"""Users' speeds: rows of the table against the schedule, and drafts measured on numbers."""

import csv
import json
import pathlib

import pytest

from experiments.serving import __main__ as command
from experiments.serving import acceptance
from experiments.serving.acceptance import Acceptance
from experiments.shared import cli
from models.loading.load import load_tiny
from models.plain.transformer import from_weights
from models.serving.drafts import LookupDraft

SMALL = ["--model", "smollm2-135m", "--context", "64", "--ahead", "2"]


def run(folder: pathlib.Path, *words: str) -> dict[str, list[dict[str, float]]]:
    words = (*SMALL, *words, "--json", "--out", str(folder))
    cli.run("serving", command.options, command.main, words)
    return json.loads((folder / "serving.json").read_text())


def test_rows_are_the_schedules(
    tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """One user waits for the way and 20 for the bottleneck; a band is in its order."""
    rows = run(tmp_path, "--users", "1", "--users", "20", "--right", "90")["speeds"]
    assert [(row["users"], row["ahead"]) for row in rows] == [
        *((1, 0), (20, 0)),
        *((1, 2), (20, 2)),
    ]
    one, many, *_ = rows
    hz = one["nominal_user_tokens_per_s"] * one["way_cycles"]
    assert many["nominal_tokens_per_s"] == pytest.approx(hz / many["bottleneck_cycles"])
    assert many["at_work"] == 1 and one["at_work"] < 0.2
    for row in rows:
        low, nominal, high = (
            row[f"{band}_token_seconds"] for band in ("low", "nominal", "high")
        )
        assert low < nominal < high
        assert 1 <= row["tokens_a_round"] <= row["ahead"] + 1
    with (tmp_path / "serving.csv").open(newline="") as file:
        written = list(csv.DictReader(file))
    assert [float(row["at_work"]) for row in written] == [
        row["at_work"] for row in rows
    ]


def test_rounds_through_an_answer_by_hand() -> None:
    """Behind a prompt of 2 and prefill's token 5 come 6, 7, 8, 9; the draft is wrong at 8.

    A round: 6 and 7 right, 8 wrong, which gives 6, 7, 8. The next has one token to make, and
    proposes none.
    """
    answers = [(2, [1, 2, 5, 6, 7, 8, 9])]
    drafts = [lambda known, most: [6, 7, 0, 9][len(known) - 3 :][:most]]
    found = acceptance._of_answers("m", "d", 3, answers, drafts)
    assert found == Acceptance("m", "d", 3, tokens=4, rounds=2, proposed=3, accepted=2)
    assert found.rate == pytest.approx(2 / 3) and found.tokens_a_round == 2


def test_a_draft_that_is_the_model_itself_is_always_right() -> None:
    """On numbers: what the plain model says behind its own answer is that answer."""
    model = load_tiny()
    plain = from_weights(model.config, model.weights)
    prompt = acceptance.prompts(model)[0]
    tokens, _ = acceptance.generate(plain, prompt, 8)
    answers = [(len(prompt), [*prompt, *tokens])]
    said = acceptance.next_tokens(model, model.weights, answers[0][1])
    found = acceptance._of_answers(
        "tiny", "itself", 3, answers, [acceptance._saying(said)]
    )
    assert found.rate == 1 and found.rounds == 2 and found.tokens == 7
    none = acceptance._of_answers(
        "tiny", "lookup", 3, [(2, list(range(9)))], [LookupDraft().proposed]
    )
    assert (none.rounds, none.proposed, none.rate) == (6, 0, 0)
