"""`experiments.kernel`: what it reads, what it prints and writes, on a kernel small enough."""

import csv
import json
import pathlib
import subprocess
import sys
from typing import Any

import jax.numpy as jnp
import pytest
from jax import lax
from rich.console import Console

from emu.report.critical_path import instructions
from emu.trainium.datasheets import TRN2, TRN3
from emu.trainium.engines.memory import dma_load, dma_store, psum, sbuf
from emu.trainium.isa import nc_matmul, nc_transpose, tensor_copy
from experiments.kernel import __main__ as kernel
from experiments.kernel import figures, report, request
from experiments.kernel.run import Run, built
from experiments.shared import cli
from experiments.shared.errors import UsageError
from experiments.shared.output import Output
from kernels.trainium import catalogue

ROOT = pathlib.Path(__file__).parents[3]
TILES = 6


def matmuls(left: Any, right: Any, *, buffers: int = 2) -> Any:
    """Products of pairs of tiles, the left ones transposed first."""

    def pair(_: None, tiles: Any) -> tuple[None, Any]:
        a = dma_load(sbuf(128, 128, dtype=jnp.bfloat16, buffers=buffers), tiles[0])
        b = dma_load(sbuf(128, 512, dtype=jnp.bfloat16, buffers=buffers), tiles[1])
        turned = nc_transpose(psum(128, 128, dtype=jnp.bfloat16, buffers=buffers), a)
        a = tensor_copy(sbuf(128, 128, dtype=jnp.bfloat16, buffers=buffers), turned)
        product = nc_matmul(psum(128, 512, buffers=buffers), a, b, 0)
        return None, dma_store(tensor_copy(sbuf(128, 512, buffers=buffers), product))

    return lax.scan(pair, None, (left, right))[1]


def shapes(tiles: int, dtype: str) -> tuple[Any, ...]:
    if tiles > 1000:
        raise ValueError(f"tiles is {tiles}, at most 1000")
    return (
        catalogue.array(tiles, 128, 128, dtype=dtype),
        catalogue.array(tiles, 128, 512, dtype=dtype),
    )


ENTRY = catalogue.entry(
    matmuls,
    shapes,
    {"tiles": TILES, "dtype": "bfloat16"},
    {"buffers": (1, 2, 3)},
    lambda tiles, dtype: 2 * tiles * 128 * 128 * 512,
)


@pytest.fixture
def listed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Makes the kernel above the only one there is."""
    for module in (kernel, request):
        monkeypatch.setattr(module, "TRAINIUM_KERNELS", {"matmuls": ENTRY})


@pytest.fixture(scope="module")
def run() -> Run:
    return built(ENTRY, {}, TRN2)


def printed(show: Any, *args: Any) -> str:
    """What is printed, without line breaks."""
    console = Console(width=120)
    with console.capture() as capture:
        show(*args, console)
    return " ".join(capture.get().split())


# --- figures ---


def test_the_run_is_explained_to_the_tick(run: Run) -> None:
    end = run.clock.end_ticks
    assert all(sum(of.values()) == end for of in run.spent.values())
    assert sum(p.ticks for p in run.split.parts) == end
    assert sum(x.ticks for x in run.path_lines) == end
    assert len(run.reasons) == 3
    assert all(x.where.startswith("test_kernel.py:") for x in run.path_lines)


def test_flops_and_bytes_are_the_kernels(run: Run) -> None:
    q, product = run.quantities, 2 * TILES * 128 * 128 * 512
    transposes = 2 * TILES * 128 * 128 * 128
    assert (q.hardware_flops, q.transpose_flops) == (product + transposes, transposes)
    assert q.model_flops == product
    moved = TILES * (128 * 128 * 2 + 128 * 512 * 2 + 128 * 512 * 4)
    assert q.hbm_bytes == q.dma_transfer_bytes == q.necessary_bytes == moved
    assert q.peak_flops_per_s == pytest.approx(2 * 128 * 128 * 2.4e9)


def test_bounds_are_in_order_and_below_the_time(run: Run) -> None:
    b = run.bounds
    assert (
        b.total_time
        >= b.memory_bound
        >= b.memory_bound_ideal
        >= b.memory_bound_no_reloads
        > 0
    )
    assert (
        b.total_time
        >= b.compute_bound
        >= b.compute_bound_ideal
        > b.compute_bound_useful
        > 0
    )
    assert b.total_time >= b.perfect_pipeline >= max(b.memory_bound, b.compute_bound)
    assert 0 < run.utilisation.mfu < run.utilisation.hfu < 1
    tensor = [e for e in instructions(run.clock.events) if e.engine == "tensor"]
    busy_s = sum(e.end - e.start for e in tensor) / run.clock.device.tick_hz
    assert b.compute_bound == pytest.approx(busy_s)


def test_rings_and_bands_move_the_time(run: Run) -> None:
    assert run.time_s["low"] <= run.time_s["nominal"] <= run.time_s["high"]
    assert run.time_s["nominal"] == run.clock.seconds < run.as_written_s
    single = built(ENTRY, {"buffers": 1}, TRN2)
    assert single.clock.end_ticks > run.clock.end_ticks
    assert single.peak_bytes["sbuf"] < run.peak_bytes["sbuf"]


def test_json_holds_every_figure_and_csv_every_time(run: Run) -> None:
    data = json.loads(json.dumps(figures.as_json(run)))
    assert data["sizes"] == {"tiles": TILES, "dtype": "bfloat16"}
    assert data["time_s"] == run.time_s and data["bounds_s"]["memory_bound"] > 0
    assert sum(p["ticks"] for p in data["split"]["parts"]) == data["end_ticks"]
    rows = figures.rows(run)
    for section in ("split", "critical path"):
        shares = [share for s, _, _, _, share in rows if s == section]
        assert sum(shares) == pytest.approx(1)
    assert {s for s, *_ in rows} == {
        "time",
        "bound",
        "engine",
        "split",
        "critical path",
    }


# --- what is printed ---


def test_the_report_shows_bounds_split_reasons_and_path(run: Run) -> None:
    text = printed(report.show, run)
    for name in (
        *figures.BOUNDS,
        "MFU",
        "MBU",
        "Critical path",
        "done while others are not",
    ):
        assert name in text
    assert all(reason.sentence in text for reason in run.reasons)
    assert f"{run.clock.end_ticks:,}" in text


def test_two_runs_stand_side_by_side(run: Run) -> None:
    other = built(ENTRY, {"buffers": 1}, TRN2)
    text = printed(report.show_pair, run, other)
    assert f"{other.clock.seconds / run.clock.seconds:.2f}x" in text
    assert "buffers=1" in text and "peak SBUF" in text


def test_the_catalogue_names_sizes_and_tunables() -> None:
    text = printed(report.show_catalogue, {"matmuls": ENTRY})
    assert (
        "matmuls: Products of pairs of tiles, the left ones transposed first." in text
    )
    assert "tiles=6 dtype=bfloat16; to tune: buffers" in text


# --- the command line ---


def command(*words: str) -> None:
    args = cli.parser("kernel", kernel.options).parse_intermixed_args(words)
    output = Output(args.out, args.json)
    kernel.main(args, output)
    output.finish()


def test_values_take_the_type_of_the_default(listed: None) -> None:
    found = request.request(["matmuls", "tiles=3", "dtype=float32", "buffers=1"])
    assert found == request.Request(
        ENTRY, {"tiles": 3, "dtype": "float32", "buffers": 1}
    )
    assert request.request(["buffers=3"], like=found).given == {
        **found.given,
        "buffers": 3,
    }


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (["matmul"], "no kernel 'matmul'; name one of matmuls"),
        (["tiles=3"], "name a kernel first: matmuls, or a file of your own"),
        (
            ["matmuls", "rows=3"],
            "'rows=3': matmuls takes KEY=VALUE for buffers, tiles, dtype",
        ),
        (["matmuls", "tiles"], "'tiles': matmuls takes KEY=VALUE"),
        (["matmuls", "tiles=x"], "'tiles=x': tiles is 'x', must be a whole number"),
        (["matmuls", "tiles=0"], "'tiles=0': tiles is 0, must be at least 1"),
        (["matmuls", "tiles=1001"], "matmuls: tiles is 1001, at most 1000"),
        (["tune", "matmuls", "buffers=2"], "matmuls: nothing is left to tune"),
        (
            ["matmuls", "--device", "trn9"],
            "--device is 'trn9', must be one of trn1, trn2, trn3",
        ),
    ],
)
def test_bad_words_are_one_line(listed: None, words: list[str], complaint: str) -> None:
    with pytest.raises(UsageError) as caught:
        command(*words)
    assert str(caught.value).startswith(complaint) and "\n" not in str(caught.value)


def test_a_run_writes_json_csv_trace_and_picture(
    listed: None,
    tmp_path: pathlib.Path,
    run: Run,
) -> None:
    command("matmuls", "--out", str(tmp_path))
    assert {p.name for p in tmp_path.iterdir()} == {
        "kernel.json",
        "kernel.csv",
        "kernel.trace.json",
        "kernel.png",
    }
    trace = json.loads((tmp_path / "kernel.trace.json").read_text("utf-8"))
    slices = [e for e in trace["traceEvents"] if e["ph"] == "X"]
    counters = {e["name"] for e in trace["traceEvents"] if e["ph"] == "C"}
    assert counters == {"sbuf in use", "psum in use"}
    found = sum(
        e["name"] == "trn.nc_matmul" and "end_ticks" in e["args"] for e in slices
    )
    assert found == TILES
    named = {
        e["args"]["name"] for e in trace["traceEvents"] if e["name"] == "thread_name"
    }
    assert {"tensor", "vector", "load_queue", "store_queue", "critical path"} <= named
    assert (tmp_path / "kernel.png").read_bytes().startswith(b"\x89PNG")
    with (tmp_path / "kernel.csv").open(encoding="utf-8") as f:
        assert len(list(csv.DictReader(f))) == len(figures.rows(run))


def test_versus_and_tune_write_their_tables(
    listed: None, tmp_path: pathlib.Path, capsys: Any
) -> None:
    command("matmuls", "vs", "buffers=3", "--out", str(tmp_path))
    assert {"a.json", "b.json", "compare.csv"} <= {p.name for p in tmp_path.iterdir()}
    assert json.loads((tmp_path / "b.json").read_text("utf-8"))["sizes"]["buffers"] == 3
    command("tune", "matmuls", "tiles=4", "--out", str(tmp_path))
    with (tmp_path / "tune.csv").open(encoding="utf-8") as f:
        rows = list(csv.DictReader(f))
    assert sorted(r["buffers"] for r in rows) == ["1", "2", "3"]
    ticks = [int(r["ticks"]) for r in rows]
    assert (
        ticks == sorted(ticks) and ticks[0] < ticks[-1] and rows[-1]["buffers"] == "1"
    )
    assert "best of 3 settings (the whole grid)" in capsys.readouterr().out


def test_settings_that_do_not_fit_are_shown_with_the_reason(
    listed: None, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    large = catalogue.entry(
        matmuls, shapes, {"tiles": 2, "dtype": "bfloat16"}, {"buffers": (1, 9)}
    )
    monkeypatch.setattr(request, "TRAINIUM_KERNELS", {"matmuls": large})
    command("tune", "matmuls")
    text = " ".join(capsys.readouterr().out.split())
    assert "best of 2 settings (the whole grid): buffers=1" in text
    assert "of psum" in text  # which has 8 banks


OWN = '''
"""Copies tiles."""
import jax
from emu.trainium.engines.memory import dma_load, dma_store, sbuf
from kernels.trainium.catalogue import array, entry

def copy(x, *, buffers=2):
    """Through SBUF and back."""
    tile = lambda _, t: (None, dma_store(dma_load(sbuf(*t.shape, buffers=buffers), t)))
    return jax.lax.scan(tile, None, x)[1]

COPY = entry(copy, lambda tiles: (array(tiles, 128, 64, dtype="float32"),), {"tiles": 4},
             {"buffers": (1, 2)})
'''


def test_a_file_of_ones_own_has_the_same_report(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "own_copy.py"
    path.write_text(OWN, encoding="utf-8")
    found = request.request([f"{path}", "tiles=5"])
    assert found.entry.name == "copy" and request.request([f"{path}:copy"]).given == {}
    text = printed(report.show, kernel.read(found, TRN2))
    assert "own_copy.py:9" in text and "dma_load, load queue" in text
    assert "compute_bound" not in text and "MFU" not in text
    with pytest.raises(UsageError, match="no kernel 'other'; name one of copy"):
        request.request([f"{path}:other"])


def test_from_the_shell_errors_are_one_line_and_exit_2() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "experiments.kernel", "no-such-kernel"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr.startswith("error: no kernel 'no-such-kernel'; name one of ")
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize("name", sorted(catalogue.TRAINIUM_KERNELS))
def test_every_kernel_is_explained_to_the_tick(name: str) -> None:
    sheet = TRN3 if "mx" in name else TRN2  # MX is Trainium3's
    run = built(catalogue.TRAINIUM_KERNELS[name], {}, sheet)
    end = run.clock.end_ticks
    assert sum(p.ticks for p in run.split.parts) == end
    assert sum(x.ticks for x in run.path_lines) == end
    assert run.bounds.total_time >= run.bounds.perfect_pipeline
    assert 0 <= run.utilisation.mfu <= run.utilisation.hfu <= 1 >= run.utilisation.mbu
