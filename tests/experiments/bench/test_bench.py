"""The benchmark's figures: measured in a process of their own, against results that agree."""

import dataclasses
import re
import subprocess
import sys

import jax
import pytest

from emu.trainium.datasheets import TRN3
from experiments.bench import __main__ as bench
from experiments.bench import values, work
from experiments.bench.peers import IDEAL_CYCLES, PEERS
from experiments.bench.work import WORK, Timed, gemm_program, timed
from models.catalogue import TINY


def test_a_process_of_its_own_reads_the_same_clock() -> None:
    program, operands = gemm_program()
    clock = program.read(TRN3.at(), *operands)
    found = timed("gemm")
    assert found.seconds == clock.seconds
    assert found.cycles == clock.end_ticks / clock.device.ticks_per_cycle["tensor"]
    # An interpreter that has imported JAX holds 100 MB; this one reads numbers of a few MB more.
    assert 50 < found.peak_mb < 2000
    assert found.cpu_s > 0


def test_a_process_that_fails_is_an_error() -> None:
    with pytest.raises(RuntimeError, match="reads nothing failed"):
        timed("nothing")


def test_peers_agree_with_the_ideal_they_are_held_against() -> None:
    """A percentage that a peer's cycles are over the ideal, to the digit it is given with."""
    checked = 0
    for peer in PEERS:
        assert peer.work in WORK and peer.cpu_s > 0
        found = re.fullmatch(r"([\d.,]+)( M)? cycles \(\+([\d.]+) %\)", peer.predicts)
        if found and peer.work in IDEAL_CYCLES:
            cycles = float(found[1].replace(",", "")) * (1e6 if found[2] else 1)
            over = 100 * (cycles / IDEAL_CYCLES[peer.work] - 1)
            assert abs(over - float(found[3])) < 0.06
            checked += 1
    assert checked >= 6


def test_predictions_are_shown_against_the_ideal() -> None:
    half_more = Timed(0.2, 1.5 * IDEAL_CYCLES["gemm"], 1.0, 1.0)
    assert bench.predicted("gemm", half_more) == "200 ms, 786,432 cycles (+50.0 %)"
    step = Timed(0.0015, 1.5e6, 1.0, 1.0)
    assert bench.predicted("decode", step) == "1.5 ms, 1.50 M cycles"


def test_gemm_values_agree_with_plain_jax() -> None:
    found = values.gemm(1, size=512)
    assert found.error <= 2**-7  # one bfloat16 rounding each, of sums in another order
    assert found.ratio == (found.values_s + found.clock_s) / found.plain_s > 0


def test_layer_values_agree_with_plain_jax(monkeypatch: pytest.MonkeyPatch) -> None:
    small = dataclasses.replace(TINY, num_hidden_layers=1, tie_word_embeddings=False)
    for module in (work, values):
        monkeypatch.setattr(module, "layer_config", lambda: small)
    with jax.numpy_dtype_promotion("standard"):  # jax.nn's attention needs it
        found = values.layer(1, tokens=200)
    # bfloat16 roundings on the way, in another place for weights of the softmax than plain JAX's.
    assert found.error <= 2**-5


def test_sections_that_do_not_exist_exit_2() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "experiments.bench", "speed"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert done.stderr.startswith(
        "error: no section 'speed', must be one of clock, values, model"
    )
