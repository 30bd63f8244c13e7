"""The part of a band that the vendor's compiler has."""

import math

import jax
import pytest

from emu.trainium.nki import compilers_choices
from emu.trainium.nki.compilers_choices import FACTOR, MOST, factor, widened
from emu.trainium.nki.load import load
from emu.trainium.nki.report import COMPILED, LITERAL
from emu.trainium.nki.time import nki_time
from experiments.calibration.kernels import KERNELS, read_kernels


def test_the_factor_is_the_distance_that_four_fifths_stay_within():
    # Places ceil(6 · 0.8) = 5 of five and ceil(10 · 0.8) = 8 of nine; 1/1.3 is as far as 1.3.
    assert factor([1.0, 0.9, 1.05, 1.2, 1.4]) == pytest.approx(1.4)
    nine = [1.0, 1.0, 1.0, 1.0, 1.0, 1.01, 1.02, 1 / 1.3, 2.0]
    assert factor(nine) == pytest.approx(1.3)


def test_only_kernels_that_are_fitted_to_count():
    fitted = {row.id: row for row in read_kernels(KERNELS) if row.use == "fitted"}
    assert set(compilers_choices.MEASURED_BY_PREDICTED) == set(fitted)
    assert 1 < FACTOR < MOST


def test_distances_add_as_squares():
    band = widened({"low": 80.0, "nominal": 100.0, "high": 100.0})
    own = math.log(FACTOR)
    assert band["high"] == pytest.approx(100 * FACTOR)
    down = math.sqrt(math.log(100 / 80) ** 2 + own**2)
    assert band["low"] == pytest.approx(100 / math.exp(down))
    assert band["nominal"] == 100


def test_no_end_is_farther_than_the_most():
    band = widened({"low": 20.0, "nominal": 100.0, "high": 170.0})
    assert band["low"] == pytest.approx(100 / MOST)
    assert band["high"] == pytest.approx(100 * MOST)


def test_the_compiled_reading_alone_has_it(tmp_path):
    file = tmp_path / "twice.py"
    file.write_text(
        "import neuronxcc.nki as nki\n"
        "import neuronxcc.nki.language as nl\n\n"
        "@nki.jit\n"
        "def twice(x):\n"
        "    y = nl.ndarray(x.shape, dtype=x.dtype, buffer=nl.shared_hbm)\n"
        "    nl.store(y, nl.add(nl.load(x), 1.0))\n"
        "    return y\n"
    )
    kernel = load(file).twice
    report = nki_time(kernel, [jax.ShapeDtypeStruct((128, 512), "float32")], "trn1")
    literal = report.other
    assert report.reading == COMPILED
    assert literal is not None and literal.reading == LITERAL
    assert report.latency_us == widened(report.machine_us)
    assert literal.latency_us == literal.machine_us
    assert f"the compiler's choices: x/÷ {FACTOR:.2f}" in str(report)
    assert "compiler's choices" not in str(literal)
