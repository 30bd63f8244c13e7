"""An author's own benchmark script runs as it stands: launches give latencies and values."""

import textwrap
import types
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from emu import EmulationError
from emu.trainium.nki import launch, load
from emu.trainium.nki.time import nki_time

BENCHMARK = """
import numpy as np
from neuronxcc import nki
import neuronxcc.nki.language as nl
import neuronxcc.nki.typing as nt


def add(x, y):
    out = nl.ndarray(x.shape, dtype=x.dtype, buffer=nl.shared_hbm)
    row = nl.program_id(0) * 128 + nl.arange(128)[:, None]
    column = nl.arange(x.shape[1])[None, :]
    tile = nl.load(x[row, column]) + nl.load(y[row, column])
    nl.store(out[row, column], tile)
    return out


x = nt.tensor[[256, 512], nl.bfloat16]
timed = nki.benchmark(warmup=5, iters=10, save_neff_name="file.neff")(add)
kernel = timed[2]
nothing = kernel(x, x)
latency = kernel.benchmark_result.nc_latency
p50 = latency.get_latency_percentile(50)
p99 = latency.get_latency_percentile(99)
p100 = latency.get_latency_percentile(100)
"""


def script(tmp_path: Path, text: str) -> types.ModuleType:
    path = tmp_path / "script.py"
    path.write_text(textwrap.dedent(text))
    return load.load(path)


def test_a_benchmark_script(tmp_path: Path) -> None:
    module = script(tmp_path, BENCHMARK)
    report = module.kernel.report
    assert module.nothing is None
    assert module.p50 == report.latency_us["nominal"] > 0
    assert module.p50 < module.p99 < module.p100 == report.latency_us["high"]
    # Of both programs: two rows of tiles, in bfloat16.
    assert report.hbm_read_bytes == 2 * 256 * 512 * 2
    assert report.recorded.inputs[0].dtype == jnp.bfloat16
    with pytest.raises(EmulationError, match="percentile is 101"):
        module.latency.get_latency_percentile(101)


DIRECT = """
import numpy as np
from neuronxcc import nki
import neuronxcc.nki.language as nl

@nki.{decorator}
def double(x):
    out = nl.ndarray(x.shape, dtype=x.dtype, buffer=nl.shared_hbm)
    nl.store(out, nl.load(x) * 2.0)
    return out

if __name__ == "__main__":
    raise SystemExit("a file that is imported is no script")

x = np.arange(128 * 8, dtype=np.float32).reshape(128, 8)
result = double(x)
"""


@pytest.mark.parametrize("decorator", ["jit", "baremetal", "simulate"])
def test_what_a_kernel_returns(tmp_path: Path, decorator: str) -> None:
    module = script(tmp_path, DIRECT.format(decorator=decorator))
    np.testing.assert_array_equal(module.result, 2 * module.x)


@pytest.mark.parametrize("decorator", ["profile()", "benchmark", "benchmark(iters=3)"])
def test_what_is_timed_alone_returns_nothing(tmp_path: Path, decorator: str) -> None:
    module = script(tmp_path, DIRECT.format(decorator=decorator))
    assert module.result is None
    percentile = module.double.benchmark_result.nc_latency.get_latency_percentile
    assert 0 < percentile(0) < percentile(50) < percentile(100)


def test_the_machine_is_that_of_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found: list[str] = []
    for name in ("trn1", "trn2"):
        monkeypatch.setenv(launch.MACHINE, name)
        module = script(tmp_path, DIRECT.format(decorator="benchmark"))
        found.append(module.double.report.device)
    assert found == ["trn1", "trn2"]
    monkeypatch.setenv(launch.MACHINE, "trn9")
    with pytest.raises(EmulationError, match="device is 'trn9', must be one of"):
        script(tmp_path, DIRECT.format(decorator="benchmark"))


def test_the_first_launch_of_a_script(tmp_path: Path) -> None:
    found = launch.first_launch(lambda: script(tmp_path, BENCHMARK))
    assert found is not None
    assert found.grid == (2,)
    assert [each.shape for each in found.arguments] == [(256, 512)] * 2
    assert launch.first_launch(lambda: None) is None


WIDE = """
from neuronxcc import nki
import neuronxcc.nki.language as nl

@nki.jit
def kernel(x):
    out = nl.ndarray(x.shape, dtype=x.dtype, buffer=nl.shared_hbm)
    for i in nl.affine_range(4):
        rows = 128 * i + nl.arange(128)[:, None]
        wide = nl.ndarray((128, {columns}), dtype=x.dtype, buffer=nl.sbuf, name="wide")
        columns = nl.arange({columns})[None, :]
        wide[...] = nl.load(x[rows, columns])
        nl.store(out[rows, columns], wide)
    return out
"""


@pytest.mark.parametrize(("columns", "single"), [(8192, ()), (32768, ("wide",))])
def test_two_buffers_in_the_literal_reading_where_they_fit(
    tmp_path: Path, columns: int, single: tuple[str, ...]
) -> None:
    """Of 192 KiB a partition one tile takes 32 or 128."""
    module = script(tmp_path, WIDE.format(columns=columns))
    x = jax.ShapeDtypeStruct((512, columns), np.float32)
    report = nki_time(module.kernel, [x], reading="literal")
    assert report.single == single
    assert report.as_dict()["single_buffers"] == list(single)
    assert ("one buffer each, as two do not fit: wide" in str(report)) == bool(single)
    buffers = 2 - len(single)
    assert report.timed.peak_bytes["sbuf"] == buffers * 128 * columns * 4
