"""Speeds of decode, what draft tokens make of them, and where a token's cycles go."""

import csv
import json
import pathlib

import pytest

from emu.datasheet import BANDS
from emu.wse import WSE3
from experiments.__main__ import do
from experiments.decode_scaling import causes, drafts
from experiments.decode_scaling.published import PublishedSpeed, published_speeds
from experiments.decode_scaling.resident import Resident
from experiments.decode_scaling.speeds import Compared, median_error, speed
from models.configurations import published, published_models
from models.precision import precision


def small(users: int = 1, wafers: int | None = None) -> Resident:
    """A model of 135 M parameters."""
    config = published("smollm2-135m").config
    return Resident(config, 64, precision("bfloat16"), users, wafers)


def test_causes_add_up_to_a_token() -> None:
    """Every cycle of a step has a cause, on one wafer and on two."""
    for wafers in (1, 2):
        model = small(wafers=wafers)
        found = causes.of_token(model)
        assert sum(found.values()) == model.clock.read(model.position).cycles
        assert (found[causes.CROSSINGS] > 0) == (wafers > 1)
        assert found["hops"] > found["ramps"] > 0


def test_every_cause_is_of_the_datasheet() -> None:
    """A wafer without a cause's cycles says so, and has all else as before."""
    for fields in causes.CAUSES.values():
        without = causes.without(WSE3, fields).quantities()
        for name, quantity in WSE3.quantities().items():
            if name in fields:
                assert without[name].at("nominal") == 0
            else:
                assert without[name] == quantity


def test_the_best_number_of_drafts_against_trying_all() -> None:
    """1,000 us a token, 30 us its slowest region, 0.8 right, a tenth of the time for a draft."""
    found = drafts.drafted(1e-3, 30e-6)
    speeds = []
    for ahead in range(drafts.MOST_AHEAD + 1):
        given = sum(0.8**number for number in range(ahead + 1))
        speeds.append(given / (1e-3 + ahead * 130e-6))
    assert found.ahead == speeds.index(max(speeds))
    assert found.tokens_per_s == pytest.approx(max(speeds))
    each = [drafts.drafted(1e-3, 30e-6, band).tokens_per_s for band in BANDS]
    assert each == sorted(each, reverse=True)
    # A draft that costs its own region more than it gains is not made.
    assert drafts.drafted(1e-3, 1e-3).ahead == 0


def test_many_users_share_the_slowest_region() -> None:
    """Until the pipeline is full each has a speed of their own; then all share one."""
    alone, many = speed(small()), speed(small(users=500))
    assert alone.tokens_per_s() == pytest.approx(1 / alone.seconds())
    assert many.tokens_per_s() == pytest.approx(1 / (500 * many.bottleneck_s()))
    assert many.tokens_per_s() < alone.tokens_per_s()


def test_published_speeds_are_of_models_that_are_here() -> None:
    """Each names a configuration, a plan of precision and a source."""
    for each in published_speeds():
        assert each.model in published_models()
        assert precision(each.held) and each.source and each.tokens_per_s > 0
    with pytest.raises(ValueError, match="drafts of X is 'maybe', must be one of no"):
        PublishedSpeed("x", "X", 1.0, "maybe", "bfloat16", None, "", "", "")


def test_errors_are_of_the_speed_that_was_reached_alike() -> None:
    """Without drafts where there were none, with them where nobody says."""
    ours = speed(small())

    def told(drafts: str, tokens_per_s: float) -> Compared:
        figure = PublishedSpeed(
            *("smollm2-135m", "x", tokens_per_s, drafts, "bfloat16"),
            *(None, "2026", "paper", "none"),
        )
        return Compared(figure, ours)

    plain = told("no", 2 * ours.tokens_per_s())
    unsaid = told("unsaid", ours.drafted().tokens_per_s)
    assert plain.error == pytest.approx(-0.5) and unsaid.error == pytest.approx(0)
    assert median_error([plain, unsaid], ["no"]) == pytest.approx(0.5)
    assert median_error([], ["no"]) is None


def test_the_command_writes_what_it_prints(
    tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A context that fits, and one that does not, which is told with what would."""
    words = ["--model", "smollm2-135m", "--context", "64", "--context", "3000000"]
    do(["decode-scaling", *words, "--wafers", "1", "--out", str(tmp_path)])
    printed = capsys.readouterr().out
    assert "does not fit" in printed and "tokens would fit one wafer" in printed
    with (tmp_path / "decode_scaling.csv").open() as file:
        fits, refused = csv.DictReader(file)
    assert float(fits["low_seconds"]) < float(fits["nominal_seconds"])
    assert refused["refusal"] and not refused["nominal_cycles"]
    figures = json.loads((tmp_path / "decode_scaling.json").read_text())
    assert str(figures["speeds"][0]["nominal_cycles"]) == fits["nominal_cycles"]
    assert (tmp_path / "decode_scaling.png").stat().st_size > 10_000
