"""The command line that times an NKI kernel: report, check, two kernels, mistakes."""

import json
import pathlib

import pytest

from experiments.nki import __main__ as nki
from experiments.shared import cli

KERNELS = """
import numpy as np
import neuronxcc.nki as nki
import neuronxcc.nki.isa as nisa
import neuronxcc.nki.language as nl


@nki.jit
def twice(x, factor=2.0):
    out = nl.ndarray(x.shape, dtype=x.dtype, buffer=nl.shared_hbm)
    for i in nl.affine_range(x.shape[0] // 128):
        tile = nl.load(x[nl.ds(i * 128, 128), :])
        nl.store(out[nl.ds(i * 128, 128), :], nl.multiply(tile, factor))
    return out


@nki.jit
def twice_slowly(x, factor=2.0):
    out = nl.ndarray(x.shape, dtype=x.dtype, buffer=nl.shared_hbm)
    for i in nl.affine_range(x.shape[0] // 128):
        for j in nl.affine_range(x.shape[1] // 64):
            tile = nl.load(x[nl.ds(i * 128, 128), nl.ds(j * 64, 64)])
            out_tile = nl.multiply(tile, factor)
            nl.store(out[nl.ds(i * 128, 128), nl.ds(j * 64, 64)], out_tile)
    return out


@nki.jit
def too_wide(x):
    return nl.load(x[nl.ds(0, 256), :])


def inputs():
    return [np.arange(256 * 512, dtype=np.float32).reshape(256, 512)]


def named_inputs():
    return {"x": inputs()[0], "factor": 3.0}


def wrong_inputs():
    return 5


def reference(x, factor=2.0):
    return x * factor


def wrong(x, factor=2.0):
    return x * factor + 1e5


def other_shape(x, factor=2.0):
    return x[:1]
"""
ARGUMENT = ("--arg", "x=f32[256,512]")


@pytest.fixture
def file(tmp_path: pathlib.Path) -> str:
    path = tmp_path / "mine.py"
    path.write_text(KERNELS)
    return str(path)


def run(*words: str) -> None:
    cli.run("nki", nki.options, nki.main, words)


def told(capsys: pytest.CaptureFixture, *words: str) -> dict:
    run(*words, "--json")
    return json.loads(capsys.readouterr().out)


def test_the_report_and_its_keys(file: str, capsys: pytest.CaptureFixture) -> None:
    found = told(capsys, f"{file}:twice", *ARGUMENT, "--device", "trn1")
    latency = found["latency_us"]
    assert 0 < latency["low"] <= latency["nominal"] <= latency["high"]
    (summary,) = found["summary"]
    nbytes = 256 * 512 * 4
    assert summary["hbm_read_bytes"] == summary["hbm_write_bytes"] == nbytes
    assert summary["total_time"] == pytest.approx(latency["nominal"] / 1e6)
    assert 0 < summary["dma_active_time_percent"] <= 1
    assert summary["tensor_engine_active_time_percent"] == 0
    assert summary["spill_save_bytes"] == 0
    assert found["reading"] == "compiled"
    assert found["other_reading"]["reading"] == "literal"
    assert [effect["name"] for effect in found["passes"]]


def test_files_are_written(file: str, tmp_path: pathlib.Path) -> None:
    out = tmp_path / "out"
    run(f"{file}:twice", *ARGUMENT, "--out", str(out))
    names = sorted(path.name for path in out.iterdir())
    assert names == ["nki.csv", "nki.json", "nki.png", "nki.trace.json"]
    assert json.loads((out / "nki.trace.json").read_text())["traceEvents"]


@pytest.mark.parametrize("inputs", ("inputs", "named_inputs", None))
def test_values_are_held_against_a_reference(
    file: str, inputs: str | None, capsys: pytest.CaptureFixture
) -> None:
    given = ARGUMENT if inputs is None else ("--inputs", f"{file}:{inputs}")
    found = told(
        capsys, f"{file}:twice", *given, "--check", f"{file}:reference", "--seed", "3"
    )
    assert found["check"] == {"relative_error": 0.0, "tolerance": 1e-5, "ok": True}


def test_wrong_values_are_told(file: str, capsys: pytest.CaptureFixture) -> None:
    found = told(capsys, f"{file}:twice", *ARGUMENT, "--check", f"{file}:wrong")
    assert found["check"]["ok"] is False


def test_two_kernels_side_by_side(file: str, capsys: pytest.CaptureFixture) -> None:
    found = told(capsys, f"{file}:twice_slowly", "vs", f"{file}:twice", *ARGUMENT)
    slow, fast = (found[name]["latency_us"]["nominal"] for name in "ab")
    assert slow > fast


def test_a_pass_is_left_out(file: str, capsys: pytest.CaptureFixture) -> None:
    found = told(capsys, f"{file}:twice", *ARGUMENT, "--skip", "depth")
    assert "depth" not in [effect["name"] for effect in found["passes"]]


MISTAKES = (
    (("{file}:twice",), "give --arg x=bf16[128,512], or --inputs"),
    (("{file}:twice", "--arg", "y=f32[2]"), "takes NAME=VALUE for x, factor"),
    (("{file}:twice", "--arg", "x=q7[2]"), "no dtype 'q7'"),
    (("{file}:twice", *ARGUMENT, *ARGUMENT), "x"),
    (("{file}:none", *ARGUMENT), "no kernel 'none'; it has twice"),
    (("{file}", *ARGUMENT), "which kernel?"),
    (("nothing.py:twice",), "no file"),
    (("twice",), "must be FILE.py:KERNEL"),
    (("{file}:twice", "{file}:twice"), "name one kernel"),
    (("{file}:twice", "--inputs", "{file}:none"), "has no function 'none'"),
    (("{file}:twice", "--inputs", "{file}:wrong_inputs"), "must give a list"),
    (
        ("{file}:twice", "--inputs", "{file}:inputs", *ARGUMENT),
        "give one of the two",
    ),
    (("{file}:twice", *ARGUMENT, "--grid", "0"), "--grid"),
    (("{file}:twice", *ARGUMENT, "--skip", "all"), "--skip is 'all'"),
    (
        ("{file}:twice", *ARGUMENT, "--check", "{file}:other_shape"),
        "gives results of",
    ),
    (("{file}:too_wide", *ARGUMENT), "mine.py:30"),
)


@pytest.mark.parametrize("words, told", MISTAKES)
def test_mistakes_of_a_command_are_one_line(
    words: tuple[str, ...], told: str, file: str, capsys: pytest.CaptureFixture
) -> None:
    with pytest.raises(SystemExit) as stopped:
        run(*[word.format(file=file) for word in words])
    assert stopped.value.code == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and told in said
