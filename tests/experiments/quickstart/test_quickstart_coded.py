"""The quickstart under precisions with codes: what it compares, computes and tells."""

import io
import json
import math
import pathlib
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from experiments.quickstart import __main__ as quickstart
from experiments.quickstart import coded_report
from experiments.quickstart.coded import CodedRun, Perplexity, perplexity
from experiments.quickstart.comparison import (
    differences,
    first_difference,
    logit_error,
    margin,
)
from experiments.quickstart.text import MOST_TOKENS, PREFILLED, TEXT
from experiments.shared import cli
from models.held_bytes import weight_bytes
from models.loading.load import load_tiny
from models.precision import precision

OURS = list(np.array([[1, 3, 2], [2, 1, 0], [9, 0, 0]], np.float32))
THEIRS = np.array([[1, 4, 2], [1.5, 1.75, 0], [0, 0, 9]], np.float32)


def test_logits_are_compared_up_to_the_first_other_token() -> None:
    assert first_difference(OURS, THEIRS) == 1
    assert first_difference(OURS, np.stack(OURS)) is None
    assert margin(THEIRS[1]) == 0.25
    expected = [[0, -1, 0], [0.5, -0.75, 0]]
    np.testing.assert_array_equal(differences(OURS, THEIRS), expected)
    error = logit_error(OURS, THEIRS)
    assert error["max_over_largest"] == 1 / 4
    squares = 1 + 0.5**2 + 0.75**2
    assert error["rms_over_largest"] == pytest.approx(math.sqrt(squares / 6) / 4)


def test_perplexity() -> None:
    # As surprised as by a die, however large all logits are.
    assert perplexity(np.full((4, 6), 1e4, np.float32), [0, 1, 2, 5]) == pytest.approx(
        6
    )
    # Of chances 1/2 and 1/8 the geometric mean is 1/4.
    logits = np.log(np.array([[0.5, 0.25, 0.25], [0.5, 0.375, 0.125]]))
    assert perplexity(logits, [0, 2]) == pytest.approx(4)


def test_the_text_is_long_enough_for_every_tokenizer() -> None:
    assert len(load_tiny().tokenizer.encode(TEXT)) >= MOST_TOKENS
    # Of whole words there are fewer than of tokens.
    assert len(TEXT.split()) > MOST_TOKENS - 10
    assert 0 < PREFILLED < MOST_TOKENS


@pytest.fixture(scope="module")
def run() -> Any:
    """A run's figures without its machines."""
    model = load_tiny()
    coded = CodedRun(precision("mxfp8"), model.weights, wide_tokens=[1, 0, 2])
    coded.wide_logits = THEIRS
    coded.perplexity = Perplexity(128, 64, 8.5, 8.25, 8.0)

    def clock(ttft_s: float, *tpot_s: float) -> Any:
        steps = [SimpleNamespace(seconds=seconds) for seconds in tpot_s]
        return SimpleNamespace(ttft_s=lambda band: ttft_s, steps={"nominal": steps})

    coded.wide = clock(2e-3, 4e-6, 2e-6, 3e-6)
    machine = SimpleNamespace(prefill_precision=precision("bfloat16"))
    return SimpleNamespace(
        model=model,
        coded=coded,
        logits=OURS,
        clock=clock(1e-3, 5e-6, 6e-6, 7e-6),
        machine=machine,
    )


def test_figures(run: Any) -> None:
    data = coded_report.figures(run, run.coded)
    parts = {name: data[name] for name in ("weights", "activations", "cache", "wide")}
    assert parts == {
        "weights": "mxfp8",
        "activations": "mxfp8",
        "cache": "bfloat16",
        "wide": "bfloat16",
    }
    assert (data["first_divergence"], data["margin_there"]) == (1, 0.25)
    assert data["perplexity"]["difference"] == 0.5
    assert data["ttft_s"] == {"held": 1e-3, "wide": 2e-3}
    assert data["tpot_s"] == {"held": 6e-6, "wide": 3e-6}
    config = run.model.config
    assert data["weights_bytes"] == {
        "held": weight_bytes(config, precision("mxfp8")),
        "wide": 2 * config.parameters,
    }


def test_what_a_machine_does_not_compute_in_is_said(run: Any) -> None:
    console = Console(width=200, file=(printed := io.StringIO()))
    coded_report.show(coded_report.figures(run, run.coded), console)
    told = printed.getvalue()
    assert (
        "prefill: weights mxfp8, dequantised to bfloat16; activations bfloat16" in told
    )
    assert told.count("not mxfp8: it has no such product") == 2
    assert "first other token than without codes: 1, where the margin was 0.25" in told
    assert "64 tokens of a text: 8.5, the plain model's on these weights 8.25" in told


def test_a_model_that_does_not_fit_without_codes(run: Any) -> None:
    alone = SimpleNamespace(**{**vars(run.coded), "wide": None})
    data = coded_report.figures(run, alone)  # type: ignore[arg-type]
    assert data["tpot_s"] == {"held": 6e-6, "wide": None}
    console = Console(width=200, file=(printed := io.StringIO()))
    coded_report.show(data, console)
    assert printed.getvalue().count("does not fit") == 2


def test_a_cache_that_decode_has_not_is_refused(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(SystemExit) as ended:
        cli.run(
            "quickstart",
            quickstart.options,
            quickstart.main,
            ["--dtype", "cache=mxfp4"],
        )
    assert ended.value.code == 2
    assert (
        "cache must be in bfloat16 or one of fp8, int8, mxfp8, got mxfp4"
        in capsys.readouterr().err
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    "dtype",
    [
        "mxfp8",
        # In float32, whose rounding decides no token; in bfloat16 it decides some.
        "weights=int8,activations=float32,cache=float32",
        "weights=fp8,activations=float32,cache=fp8",
        "weights=mxfp4,activations=float32,cache=float32",
    ],
)
def test_tokens_are_the_oracles_on_the_same_numbers(
    dtype: str, tmp_path: pathlib.Path
) -> None:
    words = ["--model", "tiny", "--tokens", "4", "--chips", "2", "--out", str(tmp_path)]
    words += ["--dtype", dtype]
    cli.run("quickstart", quickstart.options, quickstart.main, words)
    data = json.loads((tmp_path / "quickstart.json").read_text())
    assert data["dtype"] == precision(dtype).name
    assert data["tokens_equal"] is True
    found = data["precision"]
    text = found["perplexity"]
    assert (text["tokens"], text["predicted"]) == (MOST_TOKENS, MOST_TOKENS - PREFILLED)
    # Of bfloat16's rounding, or of float32's, besides the codes.
    assert text["machines"] == pytest.approx(text["oracle"], rel=2e-2)
    assert 0 < found["logit_error"]["rms_over_largest"] < 0.1
    assert found["weights_bytes"]["held"] < found["weights_bytes"]["wide"]
    assert found["tpot_s"]["held"] > 0 and found["tpot_s"]["wide"] > 0
