"""`experiments.fabric`: what it reads, prints and writes, and how it refuses."""

import csv
import json
import pathlib

import numpy as np
import pytest

from emu.wse import WSE3
from emu.wse.fabric.encoding.encode import encode
from experiments.fabric import __main__ as fabric
from experiments.fabric import run
from experiments.fabric.request import request
from experiments.shared import cli
from kernels.wse.programs.catalogue import FABRIC_PROGRAMS, TREES

OWN = """
import numpy as np
from emu.wse.fabric.ops import copy, receive, send
from emu.wse.fabric.program import FabricProgram

def pair(words: int = 4):
    p = FabricProgram(2)
    x = p.buffer("x", words)[:]
    p.route("c", (0, 0), receive="ramp", send="east")
    p.route("c", (0, 1), receive="west", send="ramp")
    p.task("go", [copy(send("c"), x)], (0, 0), start=True)
    p.task("go", [copy(x, receive("c"))], (0, 1), start=True)
    return p, {"x": np.array([[[1.0], [0.0]]]) * np.arange(words)}

def needs(n): return pair(n)
def wrong(): return 3
def boom(): return 1 / 0
def stuck():
    p, _ = pair()
    p.tasks["go"].pop(0)
    return p
"""


@pytest.fixture
def own(tmp_path: pathlib.Path) -> str:
    path = tmp_path / "own.py"
    path.write_text(OWN)
    return str(path)


def call(*words: str) -> None:
    cli.run("fabric", fabric.options, fabric.main, words)


def test_a_program_of_ones_own_is_run_explained_and_written(
    own: str,
    capsys: pytest.CaptureFixture,
    tmp_path: pathlib.Path,
) -> None:
    """4 words sent two an issue, one hop: 4 of set-up, push, ramps 2 + 2, hop 2, 4 and drain 4."""
    out = tmp_path / "out"
    call(f"{own}:pair", "words=4", "--out", str(out))
    text = capsys.readouterr().out
    cycles = 4 + 1 + 2 + 2 + 2 + 4 + 4
    assert (
        f"{cycles} cycles" in text
        and "path: trains" in text
        and "the same cycles" in text
    )
    for word in (
        "Phases",
        "copy x -> send 'c'",
        "What PEs did",
        "waiting for wavelets",
        "Links",
        "4 wavelet-hops",
        "(x=1, y=0)",
        "█ issuing",
    ):
        assert word in text
    data = json.loads((out / "fabric.json").read_text())
    assert data["cycles"] == cycles and sum(data["pe_cycles"].values()) == 2 * cycles
    assert data["time_s"]["low"] < data["time_s"]["nominal"] < data["time_s"]["high"]
    assert json.loads((out / "fabric.trace.json").read_text())["traceEvents"]
    with (out / "phases.csv").open() as f:
        assert [row["datapath_cycles"] for row in csv.DictReader(f)] == ["2", "4"]
    assert np.load(out / "values.npz")["x"][0, 1].tolist() == [0, 1, 2, 3]
    assert np.load(out / "maps.npz")["ends"].max() == cycles
    assert {"pes.png", "links.png"} <= {p.name for p in out.iterdir()}


def test_microthreads_are_stepped_and_watched_where_asked(
    capsys: pytest.CaptureFixture,
) -> None:
    call("send", "words=8", "hops=1", "--watch", "1,0")
    text = " ".join(capsys.readouterr().out.split())
    assert "path: cycles (it has switches, merges, microthreads" in text
    assert "(x=1, y=0)" in text and "thread 1" in text and "(x=0, y=0)" not in text


def test_the_catalogue_is_listed(capsys: pytest.CaptureFixture) -> None:
    call()
    text = capsys.readouterr().out
    assert all(f"{name}: " in text for name in FABRIC_PROGRAMS)


@pytest.mark.parametrize("name", FABRIC_PROGRAMS)
def test_every_program_of_the_catalogue_fits_the_wafer(name: str) -> None:
    program, _ = request([name]).build(WSE3.at())
    assert encode(program, WSE3.at()).instructions


def test_every_tree_can_be_asked_for() -> None:
    for tree in TREES:
        assert (
            request(["reduce", "pes=9", f"tree={tree}"]).build(WSE3.at())[0].width == 9
        )


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["nothing"], "no program 'nothing'; name one of reduce"),
        (["pes=3"], "name a program before 'pes=3'"),
        (["reduce", "pes=many"], "'pes=many': pes is 'many', must be a whole number"),
        (["reduce", "rows=3"], "'rows=3': reduce takes KEY=VALUE for pes, words, tree"),
        (["reduce", "tree=oak"], "tree is 'oak', must be one of chain"),
        (["reduce", "pes=2000"], "pes is 2000, must be a whole number from 1 to 755"),
        (["reduce", "--device", "wse9"], "--device is 'wse9'"),
        (["send", "--watch", "3"], "--watch '3': must be x,y"),
        (["send", "--watch", "9,0"], "--watch 9,0: the program has 5 x 1 PEs"),
        (["{own}:none"], "no function 'none'"),
        (["{own}"], "which function?"),
        (["{own}:needs"], "give n=NUMBER"),
        (["{own}:wrong"], "returned int, must return a FabricProgram"),
        (["{own}:boom"], "ZeroDivisionError: division by zero (own.py:"),
        (["{own}:stuck"], "deadlock"),
        (["nowhere.py:f"], "nowhere.py: no such file"),
        (["{broken}:f"], "SyntaxError"),
        (
            ["{missing}:f"],
            "ModuleNotFoundError: No module named 'no_such_module' (missing.py:1)",
        ),
    ],
)
def test_bad_input_is_one_line_and_exit_2(
    words: list[str],
    told: str,
    own: str,
    tmp_path: pathlib.Path,
    capsys: pytest.CaptureFixture,
) -> None:
    files = {"own": own}
    for name, text in (("broken", "def f(:"), ("missing", "import no_such_module")):
        path = tmp_path / f"{name}.py"
        path.write_text(text)
        files[name] = str(path)
    with pytest.raises(SystemExit) as exit_:
        call(*(w.format(**files) for w in words))
    said = capsys.readouterr()
    assert exit_.value.code == 2 and said.out == ""
    assert (
        told in said.err
        and said.err.count("\n") == 1
        and said.err.startswith("error: ")
    )


def test_a_run_too_long_to_step_says_so(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setattr(run, "MOST_PE_CYCLES", 10)
    call("broadcast", "pes=4", "words=4")
    text = " ".join(capsys.readouterr().out.split())
    assert (
        "PEs were not stepped" in text
        and "What PEs did" not in text
        and "Phases" in text
    )


def test_of_many_pes_a_few_are_traced_in_a_second_run(
    monkeypatch: pytest.MonkeyPatch, own: str
) -> None:
    monkeypatch.setattr(run, "ALL_TRACED", 1)
    program, _ = request([f"{own}:pair"]).build(WSE3.at())
    # PE-cycles; of a long run, those sampled.
    for most, traced in (
        (1000, [0, 1]),
        (10, [0]),
    ):
        monkeypatch.setattr(run, "AGAIN_PE_CYCLES", most)
        told = []
        found = run.explained(
            program, None, WSE3.at(), None, lambda *x: told.append(x[0])
        )
        assert found.log is not None and found.log.traced.tolist() == traced
        assert ("tracing a few PEs" in told) == (most == 1000)
