"""What every experiment's command line does alike, and the command `trn-wse`."""

import importlib
import importlib.metadata
import json
import pathlib
import subprocess

import pytest

from experiments import __main__ as command
from experiments.bench import __main__ as bench
from experiments.shared import cli
from experiments.shared.errors import UsageError
from experiments.shared.output import Output

ROOT = pathlib.Path(__file__).parents[3]
EXPERIMENTS = sorted(command.experiments())
# Words that answer each question in seconds.
NKI = ROOT / "examples" / "nki" / "old_elementwise.py"
SMALL = {
    "bench": ["clock", "--repeats", "1"],
    "calibration": ["--points", "{points}"],
    "fabric": ["reduce", "pes=4", "words=4"],
    "decode_scaling": ["--model", "smollm2-135m", "--context", "64"],
    "deployment": [
        *("--model", "smollm2-135m", "--tokens", "256", "--new-tokens", "4"),
        *("--chips", "2", "--cores", "1", "--dtype", "bfloat16"),
    ],
    "floor_plan": ["--model", "smollm2-135m", "--context", "64"],
    "handoff": ["--model", "smollm2-135m", "--tokens", "64", "--chips", "2"],
    "kernel": ["gemm", "m=512", "k=512", "n=512"],
    "model_layer": [
        "--model",
        "smollm2-135m",
        "--tokens",
        "64",
        "--chips",
        "1",
        "--cores",
        "1",
        "--context",
        "64",
    ],
    "models": ["--only", "smollm2-135m"],
    "nki": [f"{NKI}:gated_silu", "--inputs", f"{NKI}:inputs"],
    "precision": [
        *("bfloat16", "--model", "tiny", "--tokens", "16", "--cores", "1"),
        "--no-values",
    ],
    "prefill_scaling": [
        *("--model", "smollm2-135m", "--tokens", "64", "--chips", "1"),
        *("--cores", "1"),
    ],
    "quickstart": ["--model", "tiny", "--chips", "1", "--tokens", "1"],
    "ring_precision": ["bfloat16", "--tokens", "16", "--ranks", "1"],
    "ring_scaling": ["schemes", "--tokens", "16", "--ranks", "2", "--quick"],
    "serving": [
        *("--model", "smollm2-135m", "--context", "64"),
        *("--users", "2", "--ahead", "1"),
    ],
    "tune": ["gemm", "m=512", "k=512", "n=512", "variant=tiled"],
    "variants": [
        "--only",
        "causal",
        "--tokens",
        "64",
        "--chips",
        "1",
        "--heads",
        "2",
        "--kv-heads",
        "1",
        "--no-values",
    ],
    "whole_wafer": ["--size", "64", "--pes", "4x4"],
}


def run(name: str, *words: str) -> None:
    made = importlib.import_module(f"experiments.{name}.__main__")
    cli.run(name, made.options, made.main, words)


def small(name: str, folder: pathlib.Path) -> list[str]:
    """The words, and the first points of the calibration in a file of their own."""
    points = folder / "points.csv"
    shipped = ROOT / "experiments" / "calibration" / "data" / "points.csv"
    lines = shipped.read_text(encoding="utf-8").splitlines(keepends=True)
    cheap = [line for line in lines if ",vector_op" in line][:2]
    points.write_text("".join([lines[0], *cheap]), encoding="utf-8")
    return [word.format(points=points) for word in SMALL[name]]


# --- every experiment ---


@pytest.mark.parametrize("name", [n for n in EXPERIMENTS if n != "train_tiny"])
def test_json_is_all_of_stdout_and_out_has_the_same_and_more(
    name: str,
    tmp_path: pathlib.Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # One piece of work has the form of all; `test_bench.py` asks for each figure.
    monkeypatch.setattr(bench, "WORK", ("gemm",))
    out = tmp_path / "out"
    run(name, *small(name, tmp_path), "--json", "--out", str(out))
    said = capsys.readouterr()
    figures = json.loads(said.out)
    written = {path.suffix: path for path in out.iterdir()}
    assert figures and {".json", ".csv"} <= set(written)
    if name not in ("bench", "tune"):
        assert ".png" in written
    documents = [path for path in out.glob("*.json") if ".trace" not in path.name]
    assert [json.loads(path.read_text("utf-8")) for path in documents] == [figures]
    assert f"wrote {out}" in said.err


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_bad_options_are_one_line_and_exit_2(
    name: str, tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("in the way")
    for words, told in (
        (["--no-such-option"], "unrecognized arguments: --no-such-option"),
        (["--out"], "--out: expected one argument"),
        (["--out", str(tmp_path / "file" / "in")], "cannot be written"),
    ):
        with pytest.raises(SystemExit) as stopped:
            run(name, *words)
        said = capsys.readouterr()
        assert stopped.value.code == 2 and said.out == ""
        assert said.err.startswith("error: ") and said.err.count("\n") == 1
        assert told in said.err


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_help_tells_the_question_and_the_shared_options(
    name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stopped:
        run(name, "--help")
    text = " ".join(capsys.readouterr().out.split())
    assert stopped.value.code == 0
    assert "--out DIR" in text and "--json" in text
    assert command.experiments()[name].split(":")[0] in text
    assert f"python -m experiments.{name}" in text


# --- how runs end ---


def test_json_has_no_infinities(capsys: pytest.CaptureFixture[str]) -> None:
    output = Output(None, as_json=True)
    output.figures("f", {"a": float("inf"), "b": [float("nan"), 1.5, (2,)]})
    output.finish()
    assert json.loads(capsys.readouterr().out) == {"a": None, "b": [None, 1.5, [2]]}


def test_a_file_that_cannot_be_written_is_one_line(tmp_path: pathlib.Path) -> None:
    output = Output(str(tmp_path / "out"), as_json=False)

    def full(path: pathlib.Path) -> None:
        raise OSError(28, "No space left on device")

    with pytest.raises(UsageError, match=r"p.png: cannot be written \(No space left"):
        output.file("p.png", full)


# --- trn-wse ---


def test_the_command_alone_lists(
    capsys: pytest.CaptureFixture[str],
) -> None:
    for words in ([], ["--help"]):
        command.do(words)
        text = capsys.readouterr().out
        assert all(f"  {name} " in text for name in EXPERIMENTS)


def test_the_command_tells_its_version(
    capsys: pytest.CaptureFixture[str],
) -> None:
    command.do(["--version"])
    assert (
        capsys.readouterr().out == f"trn-wse {importlib.metadata.version('trn-wse')}\n"
    )


def test_the_command_runs_an_experiment_with_hyphens(
    capsys: pytest.CaptureFixture[str],
) -> None:
    command.do(["whole-wafer", *SMALL["whole_wafer"], "--json"])
    assert json.loads(capsys.readouterr().out)["cycles"] > 0


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["nothing"], "no experiment 'nothing', must be one of bench, calibration"),
        (
            ["completion", "fish"],
            "completion is of 'fish', must be of one of bash, zsh",
        ),
        (["completion"], "completion is of 'nothing'"),
        (["ring-scaling", "all"], "no part 'all', must be one of sweep"),
    ],
)
def test_bad_commands_are_one_line_and_exit_2(
    words: list[str],
    told: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(SystemExit) as stopped:
        command.do(words)
    said = capsys.readouterr()
    assert stopped.value.code == 2 and said.err.startswith(f"error: {told}")


def completed(script: str, *words: str) -> list[str]:
    """What bash offers for the last word."""
    line = " ".join(f"'{word}'" for word in words)
    code = (
        f"{script}\nCOMP_WORDS=({line}); COMP_CWORD={len(words) - 1}\n"
        '_shtab_trn_wse trn-wse "${COMP_WORDS[COMP_CWORD]}"; echo "${COMPREPLY[@]}"'
    )
    done = subprocess.run(["bash", "-c", code], capture_output=True, text=True)
    return done.stdout.split()


def test_bash_completes_experiments_options_and_words(
    capsys: pytest.CaptureFixture[str],
) -> None:
    command.do(["completion", "bash"])
    script = capsys.readouterr().out
    assert completed(script, "trn-wse", "ring") == ["ring-precision", "ring-scaling"]
    assert completed(script, "trn-wse", "kernel", "--dev") == ["--device"]
    assert completed(script, "trn-wse", "kernel", "--device", "trn") == [
        "trn1",
        "trn2",
        "trn3",
    ]
    assert "softmax_online" in completed(script, "trn-wse", "kernel", "soft")
    assert completed(script, "trn-wse", "completion", "z") == ["zsh"]
