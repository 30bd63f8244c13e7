"""`--system`: whose links join the chips, and how many it has."""

import dataclasses

import pytest

from emu.trainium.datasheets import (
    SYSTEMS,
    TRN2,
    TRN2_48XLARGE,
    TRN2_ULTRASERVER,
    TRN3_GEN1,
    TRN3_GEN2,
)
from experiments.__main__ import command_of
from experiments.ring_scaling.cases import MACHINES, Point, on, sweep
from experiments.ring_scaling.table import ALL_CORES
from experiments.shared import cli, systems
from experiments.shared.errors import UsageError

TAKE_IT = ("kernel", "tune", "quickstart", "ring_scaling")


def run(name: str, *words: str) -> None:
    module = command_of(name)
    cli.run(name, module.options, module.main, words)


def test_words_are_of_one_system_each() -> None:
    assert len(systems.BY_WORD) == len(SYSTEMS)
    assert systems.BY_WORD["trn3-gen2-ultraserver"] is TRN3_GEN2
    assert systems.BY_WORD["trn2.48xlarge"] is TRN2_48XLARGE


def test_a_chip_joins_only_systems_of_its_own() -> None:
    assert systems.joined(TRN2, None) is TRN2
    joined = systems.joined(TRN2, "trn2-ultraserver")
    assert joined == dataclasses.replace(TRN2, system=TRN2_ULTRASERVER)
    with pytest.raises(
        UsageError, match="one of trn2.48xlarge, trn2-ultraserver"
    ) as raised:
        systems.joined(TRN2, "trn3-gen2-ultraserver")
    assert "\n" not in str(raised.value)


def test_too_many_chips_name_the_system_that_has_them() -> None:
    both = TRN3_GEN1, TRN3_GEN2
    systems.check_chips("--chips", 64, TRN3_GEN1, both)
    with pytest.raises(UsageError, match="as many has --system trn3-gen2-ultraserver"):
        systems.check_chips("--chips", 65, TRN3_GEN1, both)
    with pytest.raises(UsageError, match="has 144 chips; no other system"):
        systems.check_chips("--chips", 145, TRN3_GEN2, both)


@pytest.mark.parametrize("name", TAKE_IT)
def test_an_unknown_system_is_one_line(
    name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stopped:
        run(name, "--system", "trn9")
    assert stopped.value.code == 2
    err = capsys.readouterr().err
    assert err.startswith("error: --system is 'trn9', must be one of ")
    assert err.count("\n") == 1


@pytest.mark.parametrize(
    ("name", "words", "complaint"),
    [
        (
            "quickstart",
            ["--chips", "65", "--system", "trn3-gen1-ultraserver"],
            "--chips is 65, Trn3 Gen1 UltraServer has 64 chips; as many has "
            "--system trn3-gen2-ultraserver",
        ),
        (
            "ring_scaling",
            ["--ranks", "17", "--system", "trn2.48xlarge"],
            "--ranks is 17, trn2.48xlarge has 16 chips; as many has "
            "--system trn3-gen2-ultraserver or trn2-ultraserver",
        ),
        ("ring_scaling", ["--ranks", "145"], "--ranks is 145, Trn3 Gen2 UltraServer"),
        (
            "kernel",
            ["gemm", "--system", "trn3-gen2-ultraserver"],
            "--system is trn3-gen2-ultraserver, whose chips are not Trainium2",
        ),
    ],
)
def test_more_chips_than_a_system_has_are_refused(
    name: str,
    words: list[str],
    complaint: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(SystemExit) as stopped:
        run(name, *words)
    assert stopped.value.code == 2
    assert capsys.readouterr().err.startswith(f"error: {complaint}")


@pytest.mark.parametrize("machine", MACHINES)
def test_a_sweep_on_one_machine_has_chips_and_cores_that_it_has(machine: str) -> None:
    asked = sweep(1024, 144, whole=False)
    points = on(machine, asked)
    assert {point.machine for point in points} == {machine}
    assert max(point.ranks for point in points) == MACHINES[machine].chips
    assert max(point.cores for point in points) == MACHINES[machine].cores
    assert len(points) == len(set(points)) > 10
    assert on(None, asked) == asked


def test_a_system_prices_the_links_of_a_reading(
    capsys: pytest.CaptureFixture[str],
) -> None:
    words = ["sweep", "--tokens", "64", "--ranks", "1", "--quick"]
    run("ring_scaling", *words, "--system", "trn2.48xlarge")
    shown = capsys.readouterr().out
    assert "Trn2 torus" in shown and "Trn3" not in shown
    assert ALL_CORES in " ".join(shown.split())
    assert Point.machine not in shown
