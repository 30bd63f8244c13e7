"""The quickstart end to end on the tiny model: tokens, figures, files, and every misuse."""

import json
import pathlib
import re
from typing import Any

import pytest

from experiments.quickstart import __main__ as quickstart
from experiments.shared import cli
from models.catalogue import LLAMA_3_1_70B
from models.held_bytes import cache_bytes_a_token
from models.loading.load import load_tiny
from models.loading.packages import SMOLLM2
from models.machines.decode import Decoder
from models.precision import precision

ROOT = pathlib.Path(__file__).parents[3]
FIELDS = {
    "": "prompt_tokens tokens oracle_tokens text tokens_equal max_abs_logit_diff ttft_s tpot_s "
    "tpot_without_host_s prefill handoff decode wall_s peak_rss_bytes",
    "tpot_s": "first median last",
    "prefill": "chips cores_per_chip time_s flops useful_flops engines hbm_bytes link_bytes",
    "handoff": "bytes time_s exposed_s",
    "decode": "cycles_per_token flops sram_bytes fabric_hops pes wafers constants",
    "wall_s": "load compile prefill decode timeline",
}


def call(*args: str) -> None:
    cli.run("quickstart", quickstart.options, quickstart.main, args)


@pytest.fixture(scope="module")
def result(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """One run with four chips and all outputs."""
    folder = tmp_path_factory.mktemp("quickstart")
    call(
        "--model",
        "tiny",
        "--chips",
        "4",
        "--tokens",
        "6",
        "--out",
        str(folder),
    )
    assert (folder / "quickstart.png").read_bytes().startswith(b"\x89PNG")
    return json.loads((folder / "quickstart.json").read_text())


def test_tokens_are_the_oracles(result: dict[str, Any]) -> None:
    assert result["tokens_equal"] is True
    assert result["tokens"] == result["oracle_tokens"] != []
    assert result["max_abs_logit_diff"] < 1e-4  # float32 sums in another order
    assert result["text"] == load_tiny().tokenizer.decode(result["tokens"])


@pytest.mark.parametrize("place", FIELDS)
def test_every_field_is_there(result: dict[str, Any], place: str) -> None:
    part = result[place] if place else result
    assert set(FIELDS[place].split()) <= set(part)


def test_bands_are_ordered_and_parts_sum(result: dict[str, Any]) -> None:
    for times in (
        result["ttft_s"],
        result["prefill"]["time_s"],
        result["tpot_s"]["median"],
        result["tpot_without_host_s"],
    ):
        assert 0 < times["low"] <= times["nominal"] <= times["high"]
    for band, host_s in {"low": 4e-6, "nominal": 10e-6, "high": 50e-6}.items():
        median = result["tpot_s"]["median"][band]
        without = result["tpot_without_host_s"][band]
        assert median - without == pytest.approx(host_s, abs=1e-9)
    for band, parts in result["ttft_parts_s"].items():
        assert sum(parts.values()) == pytest.approx(result["ttft_s"][band])


def test_counts_follow_from_the_model(result: dict[str, Any]) -> None:
    c = load_tiny().config
    n = result["prompt_tokens"]
    assert result["handoff"]["bytes"] == n * cache_bytes_a_token(
        c, precision("float32")
    )
    linear = c.hidden_size * (
        2 * (c.num_attention_heads + c.num_key_value_heads) * c.head_dim
        + 3 * c.intermediate_size
    )
    scores = c.num_attention_heads * c.head_dim * n * (n + 1) // 2
    useful = c.num_hidden_layers * (2 * linear * n + 4 * scores)
    useful += 2 * c.hidden_size * c.vocab_size
    assert result["prefill"]["useful_flops"] == useful < result["prefill"]["flops"]
    for engine in result["prefill"]["engines"].values():
        assert 0 <= engine["utilisation"] <= 1


@pytest.mark.parametrize(
    "chips, cores",
    [
        pytest.param(1, 1, marks=pytest.mark.slow),
        (7, 1),
        pytest.param(1, 2, marks=pytest.mark.slow),
        (4, 8),
    ],
)
def test_any_number_of_chips_and_cores_says_the_same(
    result: dict[str, Any],
    chips: int,
    cores: int,
    tmp_path: pathlib.Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    call(
        "--model",
        "tiny",
        "--chips",
        str(chips),
        "--cores",
        str(cores),
        "--tokens",
        "6",
        "--out",
        str(tmp_path),
    )
    again = json.loads((tmp_path / "quickstart.json").read_text())
    assert again["tokens_equal"] is True
    assert again["tokens"] == result["tokens"]
    assert (again["prefill"]["link_bytes"] == 0) == (chips == 1)
    assert (again["prefill"]["collective_bytes"] == 0) == (cores == 1)
    assert again["handoff"]["bytes"] == result["handoff"]["bytes"]
    assert f"{chips} chips, {cores} of 8 cores each" in capsys.readouterr().out


def test_ignore_eos_gives_exactly_as_many_as_asked(
    result: dict[str, Any], tmp_path: pathlib.Path
) -> None:
    """On one chip, whose tokens begin as those of four and go on behind the end of sequence."""
    call(
        "--model",
        "tiny",
        "--tokens",
        "9",
        "--chips",
        "1",
        "--ignore-eos",
        "--out",
        str(tmp_path),
    )
    data = json.loads((tmp_path / "quickstart.json").read_text())
    assert len(data["tokens"]) == 9
    assert data["tokens"][: len(result["tokens"])] == result["tokens"]
    assert data["tokens_equal"] is True
    assert data["prefill"]["link_bytes"] == data["prefill"]["collective_bytes"] == 0
    assert set(data["tokens"]) & load_tiny().tokenizer.eos_ids


def test_one_token_needs_no_decode(tmp_path: pathlib.Path) -> None:
    call(
        "--model",
        "tiny",
        "--tokens",
        "1",
        "--chips",
        "1",
        "--out",
        str(tmp_path),
    )
    data = json.loads((tmp_path / "quickstart.json").read_text())
    assert len(data["tokens"]) == 1
    assert data["decode"]["steps"] == 0
    assert data["tpot_s"]["median"]["nominal"] is None
    assert data["tpot_without_host_s"]["nominal"] is None


@pytest.mark.parametrize(
    "dtype", ["bfloat16", pytest.param("float16", marks=pytest.mark.slow)]
)
def test_narrow_dtypes_report_and_do_not_fail(
    dtype: str, tmp_path: pathlib.Path
) -> None:
    call(
        "--model",
        "tiny",
        "--dtype",
        dtype,
        "--chips",
        "1",
        "--tokens",
        "6",
        "--out",
        str(tmp_path),
    )
    data = json.loads((tmp_path / "quickstart.json").read_text())
    if data["first_divergence"] is None:
        assert data["tokens_equal"] is True
    else:
        assert data["oracle_margin_there"] >= 0
    # A narrow cache is half the bytes of float32's.
    c = load_tiny().config
    each = 2 * c.num_key_value_heads * c.head_dim * 2
    assert (
        data["handoff"]["bytes"] == data["prompt_tokens"] * c.num_hidden_layers * each
    )


BAD = {
    "chips": (["--chips", "0"], "--chips is 0"),
    "cores": (["--cores", "3"], "--cores is 3, must be one of 1, 2, 4, 8"),
    "no cores": (["--cores", "0"], "--cores is 0"),
    "tokens": (["--tokens", "-3"], "--tokens is -3"),
    "words": (["--tokens", "many"], "--tokens is 'many'"),
    "dtype": (["--dtype", "int3"], "--dtype is 'int3'"),
    "prompt": (["--prompt", "  "], "--prompt is empty"),
    "length": (["--prompt", "file " * 3000], "context"),
    "answer": (["--tokens", "2000"], "2000 are to be generated"),
    "model": (["--model", "no/such/model"], "no such file"),
    "option": (["--bogus"], "unrecognized arguments: --bogus"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_one_line_and_exits_2(
    case: str, capsys: pytest.CaptureFixture[str]
) -> None:
    args, expected = BAD[case]
    with pytest.raises(SystemExit) as stop:
        call(*(args if case == "model" else ["--model", "tiny", *args]))
    assert stop.value.code == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and error.count("\n") == 1
    assert expected in error


def test_out_that_cannot_be_written(
    capsys: pytest.CaptureFixture[str],
    tmp_path: pathlib.Path,
) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(SystemExit) as stop:
        call("--model", "tiny", "--out", str(tmp_path / "file"))
    assert stop.value.code == 2
    assert "cannot be written" in capsys.readouterr().err
    assert (tmp_path / "file").read_text() == "in the way"


def test_a_model_too_large_for_the_wafer_says_what_would_do(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(SystemExit) as stop, cli.exit_codes():
        Decoder(LLAMA_3_1_70B, {}, context=4096, dtype="bfloat16", wafers=1)
    assert stop.value.code == 2
    error = capsys.readouterr().err
    assert "wafers" in error and error.count("\n") == 1


# What it asks of the code the tiny model asks above; that the weights are read right is
# `test_tokenizer.py`'s and the loaders'. It takes two minutes a case.
@pytest.mark.slow
@pytest.mark.smollm2
@pytest.mark.parametrize(
    "chips, cores",
    [
        ("1", "1"),
        ("4", "1"),
        ("4", "8"),
        ("7", "1"),
    ],
)
def test_smollm2_knows_the_capital_of_france(
    chips: str, cores: str, tmp_path: pathlib.Path
) -> None:
    if SMOLLM2.cached is None:
        pytest.skip("SmolLM2's weights are not in the cache; run the quickstart once")
    call(
        "--model",
        "smollm2",
        "--prompt",
        "What is the capital of France?",
        "--chips",
        chips,
        "--cores",
        cores,
        "--tokens",
        "12",
        "--out",
        str(tmp_path),
    )
    data = json.loads((tmp_path / "quickstart.json").read_text())
    assert data["text"] == "The capital of France is Paris."
    assert data["tokens_equal"] is True


def test_more_chips_than_any_system_has(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        call("--model", "tiny", "--chips", "145")
    assert ended.value.code == 2
    assert re.search("--chips is 145, .* has 144", capsys.readouterr().err)


def test_the_prompt_as_the_model_sees_it(capsys: pytest.CaptureFixture[str]) -> None:
    """The tiny model has no chat template: it sees the prompt itself."""
    one = ("--model", "tiny", "--chips", "1", "--tokens", "1")
    call(*one, "--prompt", "Sort a", "--show-prompt")
    assert capsys.readouterr().out.count("Sort a") == 2
