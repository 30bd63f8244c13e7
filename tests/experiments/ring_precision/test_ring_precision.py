"""How ring attention's error grows: physics on small rings, the files, and every misuse."""

import argparse
import csv
import json
import pathlib

import ml_dtypes
import numpy as np
import pytest

from experiments.ring_precision import __main__ as ring_precision
from experiments.ring_precision import measure as ring_precision_measure
from experiments.ring_precision import oracle, table
from experiments.ring_precision.measure import HEAD_DIM, MASKS, Bench, Row, gap
from experiments.ring_precision.oracle import Operands
from experiments.shared import cli
from kernels import masks
from tests.experiments.misuse import refused
from tests.experiments.stopped import Stop, stopped

TOKENS = 128
RECORDED = pathlib.Path(__file__).parent / "recorded_ring_precision.txt"


def call(*args: str) -> None:
    cli.run("ring_precision", ring_precision.options, ring_precision.main, args)


@pytest.fixture(scope="module")
def bench() -> Bench:
    return Bench(TOKENS, "full")


@pytest.fixture(scope="module")
def bfloat16(bench: Bench) -> dict[tuple[str, int], Row]:
    points = [("fp32", 8), ("bf16-o", 1), ("bf16-o", 8)]
    return {p: bench.measure("bfloat16", *p) for p in points}


# --- the oracle ---


def test_attention_in_float64_is_the_textbooks() -> None:
    x = oracle.draw(7, 1, 4)
    q, k, v = (np.asarray(a, np.float64)[:, 0] for a in (x.q, x.k, x.v))
    for name, mask in MASKS.items():
        for i in range(7):
            seen = slice(0, i + 1) if name == "causal" else slice(None)
            weights = np.exp(k[seen] @ q[i] / 2)  # 2 = sqrt(4)
            expected = weights @ v[seen] / weights.sum()
            np.testing.assert_allclose(
                oracle.attention(x, mask)[i, 0], expected, rtol=1e-13
            )


def test_drawn_queries_are_as_wide_as_said() -> None:
    x = oracle.draw(512, 2, 128)
    for y, sigma in ((x.q, 3), (x.k, 1), (x.v, 1)):
        # 2**17 draws: 0.2 % is one standard error.
        assert abs(np.std(y) / sigma - 1) < 0.01


def test_a_gap_is_what_it_says() -> None:
    found = gap(np.array([3.0, -4.0, 0.0, 0.0]), np.array([3.0, -4.5, 0.0, -0.5]))
    assert found.rms == pytest.approx(np.sqrt(0.125), rel=1e-15)
    assert found.largest == 0.5
    assert found.of_rms == pytest.approx(np.sqrt(0.5 / 29.5))
    assert found.of_largest == pytest.approx(0.5 / 4.5)


def test_rounded_plain_operands_are_plain_casts(bench: Bench) -> None:
    y = bench.operands.cast("bfloat16")
    np.testing.assert_array_equal(
        np.asarray(y.q, np.float32),
        bench.operands.q.astype(ml_dtypes.bfloat16).astype(np.float32),
    )


# --- what is measured ---


def test_microscaled_operands_are_told_apart_from_sums(bench: Bench) -> None:
    """Against operands other than the kernel's own the sums would be as far off as the drawn."""
    row = bench.measure("mxfp8", "fp32", 2)
    assert row.sums.rms < row.drawn.rms / 4
    # Elements of E4M3 are off by half a unit, 2**-5 to 2**-4 of a value, as are scores' factors.
    assert 2**-6 < row.drawn.of_rms < 2**-2


def test_float32_is_as_good_as_float32(bench: Bench) -> None:
    row = bench.measure("float32", "fp32", 2)
    assert row.output.largest <= 2e-6 * np.abs(bench.operands.v).max()
    assert row.output == row.drawn  # nothing was rounded


def test_carrying_bfloat16_costs_more_the_more_hops_there_are(
    bfloat16: dict[tuple[str, int], Row],
) -> None:
    rms = {p: row.sums.rms for p, row in bfloat16.items()}
    assert rms["bf16-o", 8] > 1.5 * rms["bf16-o", 1]
    assert rms["bf16-o", 8] > 2 * rms["fp32", 8]


def test_roundings_add_up_in_order(bfloat16: dict[tuple[str, int], Row]) -> None:
    """Independent errors add in square: sums, then the output's dtype, then the operands."""
    for row in bfloat16.values():
        assert row.sums.rms < row.output.rms < row.drawn.rms
    # The last rounding alone: uniform within half a unit, 2**-9 to 2**-8 of a value.
    row = bfloat16["fp32", 8]
    last = np.sqrt(row.output.of_rms**2 - row.sums.of_rms**2)
    assert 2**-9 / np.sqrt(3) / 1.1 < last < 2**-8 / np.sqrt(3) * 1.1


def test_the_result_is_that_of_the_public_kernel_run_again(
    bench: Bench, bfloat16: dict[tuple[str, int], Row]
) -> None:
    """Not a bit differs between two compilations, or with the last sums taken out beside it."""
    a, x = bench.attention("bfloat16", "bf16-o", 8), bench.operands
    again = np.asarray(a.run(x.q, x.k, x.v)[0], np.float64)
    assert gap(again, bench._expected(a, ())) == bfloat16["bf16-o", 8].output


@pytest.mark.parametrize("dtype, oracles", [("bfloat16", 1), ("mxfp8", 2)])
def test_what_did_not_change_is_not_made_again(
    dtype: str, oracles: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both recipes take the same arguments; rings differ in which MX values share a scale."""
    made: list[str] = []
    monkeypatch.setattr(Bench, "_arguments", lambda *_: made.append("arguments"))
    monkeypatch.setattr(
        Bench, "_expected", lambda *_: made.append("expected") or np.ones(1)
    )
    monkeypatch.setattr(
        ring_precision_measure, "values", lambda *_: (np.ones(1), np.ones(1))
    )
    bench = Bench(2, "full")
    for ranks in (1, 2):
        for recipe in ("fp32", "bf16-o"):
            bench.measure(dtype, recipe, ranks)
    assert made.count("arguments") == 2
    assert made.count("expected") == oracles


# --- the command ---


def test_table_and_files(
    tmp_path: pathlib.Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    args = "float8_e4m3fn", "--tokens", "50", "--ranks", "1", "--mask", "causal"
    call(*args, "--out", str(tmp_path))
    shown = capsys.readouterr()
    assert "50 tokens, causal mask" in shown.out
    assert shown.err.splitlines() == [
        "1 of 2: float8_e4m3fn, fp32, 1 rank",
        "2 of 2: float8_e4m3fn, bf16-o, 1 rank",
    ]
    assert (tmp_path / "ring_precision.png").read_bytes().startswith(b"\x89PNG")
    data = json.loads((tmp_path / "ring_precision.json").read_text())
    told = [(r["dtype"], r["recipe"], r["ranks"]) for r in data["rings"]]
    assert told == [("float8_e4m3fn", "fp32", 1), ("float8_e4m3fn", "bf16-o", 1)]
    with (tmp_path / "ring_precision.csv").open() as file:
        lines = list(csv.DictReader(file))
    assert tuple(lines[0]) == table.COLUMNS
    for line, ring in zip(lines, data["rings"], strict=True):
        assert float(line["sums_rms"]) == pytest.approx(ring["sums"]["rms"], rel=1e-5)
        for found in (ring["sums"], ring["output"], ring["drawn"]):
            assert 0 < found["of_rms"] < 0.5 and 0 < found["of_largest"] < 0.5
        assert ring["sums"]["of_rms"] == pytest.approx(
            ring["sums"]["rms"] / ring["rms"]
        )


def test_rings_double_and_recipes_share_operands() -> None:
    args = argparse.Namespace(dtypes=["bfloat16"], ranks=5, quick=False)
    assert ring_precision.points(args) == [
        ("bfloat16", recipe, n) for n in (1, 2, 4) for recipe in ("fp32", "bf16-o")
    ]


def test_the_table_has_the_recorded_form(capsys: pytest.CaptureFixture[str]) -> None:
    """Figures differ between processors; what stands where does not."""
    from rich.console import Console

    point = gap(np.array([1.0, 2.001]), np.array([1.0, 2.0]))
    rows = [
        Row("bfloat16", recipe, n, point, point, point, 1.5, 2.0)
        for n in (1, 64)
        for recipe in ("fp32", "bf16-o")
    ]
    table.show(rows, 2048, "full", Console(width=ring_precision.WIDTH))
    assert capsys.readouterr().out == RECORDED.read_text()


def test_ctrl_c_shows_what_was_measured(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    zero = gap(np.ones(2), np.ones(2))

    class Stopped(Bench):
        def measure(self, dtype: str, recipe: str, ranks: int) -> Row:
            if ranks > 1:
                raise Stop
            return Row(dtype, recipe, ranks, zero, zero, zero, 1.0, 1.0)

    monkeypatch.setattr(ring_precision, "Bench", Stopped)
    output = stopped("ring_precision", "bfloat16", "--tokens", "8", "--ranks", "2")
    assert output.interrupted() == "2 of 4 rings measured"
    shown = capsys.readouterr()
    assert "bf16-o" in shown.out


@pytest.mark.parametrize(
    "args, message",
    [
        (
            ["float64"],
            "no dtype 'float64', must be one of float32, bfloat16, float8_e4m3fn, mxfp8",
        ),
        (["--mask", "none"], "--mask is 'none', must be one of full, causal"),
        (["--ranks", "0"], "--ranks is 0, must be at least 1"),
        (["--ranks", "two"], "--ranks is 'two', must be a whole number"),
        (["--tokens", "16"], "--ranks is 64, must be at most the 16 tokens"),
        (["--size"], "unrecognized arguments: --size"),
    ],
)
def test_misuse_is_one_line(
    args: list[str],
    message: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    refused(call, args, message, capsys)


def test_masked_attention_needs_only_what_it_sees() -> None:
    x = oracle.draw(12, 1, HEAD_DIM)
    cut = Operands(x.q[:5], x.k[:5], x.v[:5])
    whole = oracle.attention(x, masks.causal)[:5]
    np.testing.assert_allclose(oracle.attention(cut, masks.causal), whole, rtol=1e-13)
