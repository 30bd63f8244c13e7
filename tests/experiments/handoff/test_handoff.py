"""Hand-offs of models by size: regions that hold them, figures that add up, and the claim."""

import csv
import functools
import json
import pathlib

import pytest

from emu.wse.placement.regions import DoesNotFit
from experiments.handoff import __main__ as command
from experiments.handoff import table
from experiments.handoff.measure import Prompt, moved
from experiments.handoff.ways import others
from experiments.shared import cli
from kernels.wse.decode.plan import WaferPlan
from models.configurations import published
from models.held_bytes import cache_bytes_a_token
from models.machines.handoff import Way
from models.precision import precision

SMOLLM2 = published("smollm2-135m").config
FP8 = precision("weights=mxfp8,cache=fp8")


def prompt(config=SMOLLM2, tokens=200, plan=FP8, **more) -> Prompt:
    return Prompt(config, tokens, plan, chips=4, cores=1, **more)


@functools.cache
def planned(wafers: int = 1) -> WaferPlan:
    """Regions for all prompts here."""
    return prompt(tokens=2000).planned(wafers)


def test_layers_land_on_their_wafers() -> None:
    """Over three wafers, each with links of its own, a hand-off is bound a third as long."""
    own = prompt(tokens=2000, prefill_s=1e-6)
    times = []
    for wafers in (1, 3):
        plan = planned(wafers)
        each = moved(own, plan, Way(links=1))
        assert {landing.wafer for landing in each.landings} == set(range(wafers))
        for landing in each.landings:
            region = landing.region
            assert (region.height, region.width) == (landing.map.rows, landing.map.cols)
        times.append(each.bulk.exposed_s)
    assert times[0] / 4 < times[1] < times[0] / 2


def test_figures_add_up() -> None:
    """Bytes are the model's closed form, and PEs take a head's scale on each of its columns."""
    own = prompt()
    each = moved(own, planned(), Way())
    nominal = each.layered["nominal"]
    assert nominal.nbytes == 200 * cache_bytes_a_token(SMOLLM2, FP8)
    parts = each.landings[0].map.parts
    scales = 200 * 30 * 2 * 3 * 4
    assert each.taken_bytes == nominal.nbytes + (parts - 1) * scales
    assert each.layered["low"].exposed_s <= nominal.exposed_s
    assert nominal.exposed_s <= each.layered["high"].exposed_s
    assert each.message_bytes == nominal.nbytes / nominal.operations
    (line,) = table.lines([each])
    assert len(line) == len(table.HEADING)


def test_other_ways_differ_as_they_should() -> None:
    own = prompt(prefill_s=1e-3)
    ways = {each.name: each for each in others(own, planned(), Way())}
    plain = ways["plain"].layered["nominal"]

    def nominal(name: str):
        return ways[name].layered["nominal"]

    alone = nominal("each page of 16 tokens alone")
    assert alone.operations > plain.operations and alone.nbytes == plain.nbytes
    assert nominal("cold connections").exposed_s > plain.exposed_s + 0.02
    assert nominal("half the prompt reused").nbytes == plain.nbytes / 2
    assert nominal("left in bfloat16, coded by PEs").nbytes > 1.8 * plain.nbytes
    assert nominal("left in bfloat16, coded by PEs").keeping_s > 0
    assert nominal("left in bfloat16, coded by chips").coding_s > 0
    assert nominal("the wafer picks its order").time_s > plain.time_s


def test_the_claim_is_told_by_its_conditions() -> None:
    """A prefill of a second hides all but the last layer; one of a microsecond nothing."""
    own = prompt(tokens=2000, prefill_s=1.0)
    plan = planned()
    slow = moved(own, plan, Way())
    fast = moved(prompt(tokens=2000, prefill_s=1e-6), plan, Way(links=1))
    assert slow.pace < 1 < fast.pace
    text = "\n".join(table.verdict([slow, fast]))
    assert "1 x 12 links: 2,000 tokens yes;" in text
    assert "1 x 1 links: 2,000 tokens no (falls behind);" in text
    # 985 us of 150 GB/s are 147.75 MB, of 2 x 3 x (64 + 4) bytes each.
    assert table.last_layer_tokens(slow) == 147_750_000 // 408


def test_latents_leave_wide_and_pes_code_them() -> None:
    config = published("deepseek-v3").config
    own = Prompt(config, 64, precision("weights=mxfp4,cache=fp8"), 2, 1)
    assert own.stored.name == "bfloat16"
    assert prompt().stored.name == "fp8"
    assert prompt(is_kept_wide=True).stored.name == "bfloat16"


def test_the_command(
    tmp_path: pathlib.Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A row a hand-off; what does not fit is a line below the table, and no error."""
    whole = Prompt.planned

    def fits(own: Prompt, wafers: int | None = None):
        if own.tokens > 100:
            raise DoesNotFit("no cut into regions")
        return whole(own, wafers)

    monkeypatch.setattr(Prompt, "planned", fits)
    words = ["--model", "smollm2-135m", "--tokens", "100", "--tokens", "101"]
    more = ["--chips", "2", "--links", "12", "--out", str(tmp_path)]
    cli.run("handoff", command.options, command.main, [*words, *more])
    said = capsys.readouterr().out
    assert "no cut into regions" in said and "Less than a millisecond?" in said
    figures = json.loads((tmp_path / "handoff.json").read_text("utf-8"))
    with (tmp_path / "handoff.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == len(figures["moves"]) + len(figures["refusals"]) == 2
    assert [row["refusal"] for row in rows] == ["", "no cut into regions"]
    assert (tmp_path / "handoff.png").stat().st_size > 10_000
