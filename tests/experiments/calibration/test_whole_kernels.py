"""Whole kernels predicted from sources that a user fetched, in the layouts that are known."""

import json
import pathlib

import pytest

from experiments.calibration import __main__ as calibration
from experiments.calibration.kernels import (
    KERNELS,
    Measured,
    Predicted,
    median_error_percent,
    read_kernels,
    share_inside,
    swaps,
)
from experiments.shared import cli
from experiments.shared.errors import UsageError

BODY = """
@nki.jit
def {name}(x):
    out = nl.ndarray(x.shape, dtype=x.dtype, buffer=nl.shared_hbm)
    for i in nl.affine_range(x.shape[0] // 128):
        for j in nl.affine_range(x.shape[1] // {width}):
            tile = nl.load(x[nl.ds(i * 128, 128), nl.ds(j * {width}, {width})])
            twice = nl.multiply(tile, 2.0)
            nl.store(out[nl.ds(i * 128, 128), nl.ds(j * {width}, {width})], twice)
    return out
"""
IMPORTS = "import neuronxcc.nki as nki\nimport neuronxcc.nki.language as nl\n"
REFERENCE = """
import numpy as np

def get_inputs():
    return [np.zeros((4, 64, 512), np.float32)]

def transform_to_nki_inputs(inputs):
    return [np.reshape(inputs[0], (256, 512))]
"""
HARNESS = (
    IMPORTS
    + """
import numpy as np

# SUBSTITUTE HERE

def benchmark_nki(nki_func):
    bench = nki.benchmark(warmup=2, iters=10)(nki_func)
    bench(np.zeros((256, 512), np.float32))
    print(bench.benchmark_result.nc_latency.get_latency_percentile(99))
"""
)
HEADING = "id,device,source_file,shapes,dtype,metric,value,unit,use\n"
ROWS = """\
B-twice,trn1,someone/bench bench/kernels/twice_*.py,M256,float32,latency,12,us,fitted
L-X-0,trn1,other/tuner:examples/tutorial/3_twice_trace.py,seq,float32,latency,30,us,
L-X-1,trn1,other/tuner:examples/tutorial/3_twice_trace.py,seq,float32,latency,10,us,
S-plain,trn1,third/plain plain.py,"x[256,512]",float32,latency,12,us,
S-none,trn1,third/plain none.py,"x[256,512]",float32,latency,12,us,
"""


@pytest.fixture
def sources(tmp_path: pathlib.Path) -> pathlib.Path:
    steps = [BODY.format(name="test", width=width) for width in (64, 512)]
    first = (
        f"CodeCandidate(parent=None,\nplan=None,\ncode='''{steps[0]}''',\nscore=0.03)"
    )
    trace = f"CodeCandidate(parent={first},\nplan='wider',\ncode='''{steps[1]}''',\nscore=0.01)"
    files = {
        "bench/kernels/twice_M256_0.py": IMPORTS
        + BODY.format(name="kernel", width=512),
        "bench/reference/twice_M256_numpy_1.py": REFERENCE,
        "tuner/examples/tutorial/3_twice_trace.py": trace,
        "tuner/harnesses/tutorial-nki1/3_twice_test.py": HARNESS,
        "plain/plain.py": IMPORTS + BODY.format(name="own", width=512),
    }
    for name, text in files.items():
        path = tmp_path / "sources" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    (tmp_path / "kernels.csv").write_text(HEADING + ROWS)
    return tmp_path


def test_every_layout(sources: pathlib.Path, capsys: pytest.CaptureFixture) -> None:
    words = ["--kernels", str(sources / "kernels.csv")]
    words += ["--sources", str(sources / "sources"), "--json"]
    cli.run("calibration", calibration.options, calibration.main, words)
    found = json.loads(capsys.readouterr().out)
    kernels = {row["measured"]["id"]: row for row in found["kernels"]}
    assert "no file" in kernels["S-none"]["why"]
    for name in ("B-twice", "L-X-0", "L-X-1", "S-plain"):
        row = kernels[name]
        assert row["why"] == ""
        assert row["hbm_read_mb"] == row["hbm_write_mb"] == 256 * 512 * 4 / 1e6
        times = row["compiled_ms"]
        assert 0 < times["low"] <= times["nominal"] <= times["high"]
    # The same kernel in three layouts is one time; the first step of the ladder is slower.
    same = {kernels[name]["compiled_ms"]["nominal"] for name in ("B-twice", "S-plain")}
    assert len(same) == 1
    first, second = (
        kernels[f"L-X-{step}"]["compiled_ms"]["nominal"] for step in (0, 1)
    )
    assert first > second
    assert found["swaps"] == {"L-X": []}
    assert set(found["statistics"]) == {"fitted", "predicted"}


def measured(name: str, latency_ms: float) -> Measured:
    return Measured(name, "trn1", "", "", "", latency_ms)


def predicted(name: str, latency_ms: float, *band_ms: float) -> Predicted:
    low, nominal, high = band_ms
    band: dict[str, float] = {"low": low, "nominal": nominal, "high": high}
    return Predicted(measured(name, latency_ms), band, band)


def test_statistics() -> None:
    rows = [
        predicted("L-0", 3.1, 2.9, 3.0, 3.2),
        predicted("L-1", 2.9, 3.1, 3.2, 3.3),
        predicted("L-2", 1.6, 1.0, 1.5, 2.0),
        predicted("alone", 1.0, 1.0, 2.0, 3.0),
    ]
    assert swaps(rows) == {"L": [("L-0", "L-1")]}
    assert share_inside(rows) == 0.75
    errors = sorted([0.1 / 3.1, 0.3 / 2.9, 0.1 / 1.6, 1.0])
    middle = sum(errors[1:3]) / 2 * 100
    assert median_error_percent(rows) == pytest.approx(middle)


def test_which_kernels_were_fitted_is_part_of_the_data() -> None:
    uses = [row.use for row in read_kernels(KERNELS)]
    assert uses.count("fitted") == uses.count("predicted") == 9


@pytest.mark.parametrize(
    "row, told",
    (
        ("a,trn1,f.py,x,float32,latency,0,ms,", "must be a number above 0"),
        ("a,trn1,f.py,x,float32,latency,nan,ms,", "must be a number above 0"),
        ("a,trn1,f.py,x,float32,speed,1,ms,", "speed in ms"),
        ("a,trn1,f.py,x,float32,latency,1,h,", "latency in h"),
        ("a,,f.py,x,float32,latency,1,ms,", "no device"),
    ),
)
def test_wrong_rows(row: str, told: str, tmp_path: pathlib.Path) -> None:
    path = tmp_path / "kernels.csv"
    path.write_text(HEADING + row + "\n")
    with pytest.raises(UsageError, match=told):
        read_kernels(path)
