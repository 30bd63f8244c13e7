"""What context parallelism costs: physics on small rings, the closed forms, files, and misuse."""

import csv
import dataclasses
import json
import pathlib

import numpy as np
import pytest

from experiments.ring_scaling import __main__ as ring_scaling
from experiments.ring_scaling import files, threshold
from experiments.ring_scaling import measure as ring_scaling_measure
from experiments.ring_scaling.cases import MACHINES, PATTERNS, Point, schemes, sweep
from experiments.ring_scaling.measure import Row, attention, free_links, links, measure
from experiments.ring_scaling.schemes import closed_bytes, winner
from experiments.ring_scaling.threshold import (
    Question,
    Threshold,
    closed_form,
    find,
    link_share,
)
from experiments.shared import cli
from tests.experiments.misuse import refused
from tests.experiments.stopped import Stop, stopped

SMALL = Point(share=128, ranks=2)
TRN3 = MACHINES["Trn3 Gen2"].sheet


def call(*args: str) -> None:
    cli.run("ring_scaling", ring_scaling.options, ring_scaling.main, args)


def of(**changes) -> Row:
    return measure(dataclasses.replace(SMALL, **changes))


@pytest.fixture(scope="module")
def causal() -> dict[str, Row]:
    names = ("contiguous", "zigzag", "striped")
    return {n: of(ranks=4, share=128, placement=n) for n in names}


# --- cases ---


@pytest.mark.parametrize("name", PATTERNS)
@pytest.mark.parametrize("tokens, share", [(37, 8), (8, 8)])
def test_pairs_are_those_the_mask_allows(name: str, tokens: int, share: int) -> None:
    pattern = PATTERNS[name](tokens, share)
    q, k = np.indices((tokens, tokens), np.int32)
    assert pattern.pairs == int(np.asarray(pattern.mask(0, 0, q, k)).sum())


def test_points_fit_their_machines() -> None:
    for whole in (False, True):
        for p in [
            *sweep(1024, 144, whole=whole),
            *sum(schemes(1024, 144, whole=whole), []),
        ]:
            assert p.ranks <= MACHINES[p.machine].chips
    assert max(p.tokens for p in sweep(1024, 144, whole=True)) > 2_000_000
    assert {p.ranks for p in sweep(1024, 4, whole=True)} == {1, 4}


# --- physics ---


def test_window_causal_full() -> None:
    """Where tiles are dead; a tile that is live in part takes a little more than a whole one."""
    assert of(mask="window", ranks=4).time_s < of(ranks=4).time_s
    times = [of(mask=m, ranks=1, share=1024).time_s for m in ("causal", "full")]
    assert times[0] < times[1]


def test_zigzag_balances_causal_work(causal: dict[str, Row]) -> None:
    assert causal["zigzag"].balance == 1
    # One tile a rank and hop: n + 1 of them on rank n, of 4 + 3 + 2 + 1.
    assert causal["contiguous"].balance == pytest.approx(10 / 16)
    assert causal["striped"].balance == 1


def test_nothing_is_exposed_of_nothing() -> None:
    row = of(ranks=1)
    assert (row.exposed_s, row.link_bytes, row.hops) == (0, 0, 1)


def test_slow_links_show(causal: dict[str, Row]) -> None:
    assert all(r.exposed_s >= 0 for r in causal.values())
    p = causal["zigzag"].point
    slow = measure(p, links(TRN3, 1 / 1000))
    assert slow.free_s == causal["zigzag"].free_s
    # Three hops one after another of keys and values, in two transfers each.
    hops_s = 3 * 2 * p.share * 128 * 2 / (link_share(TRN3.at(), 4) / 1000)
    assert hops_s < slow.time_s < slow.free_s + hops_s + 12 * 1.5e-6


def test_what_waits_for_no_link_is_not_read_twice() -> None:
    a, device = attention(SMALL), free_links(TRN3).at()
    reading = a.read(TRN3.at())
    assert not ring_scaling_measure.may_be_late(a, reading)
    assert a.read(device).end_ticks == reading.end_ticks
    slow = links(TRN3, 1 / 100).at()
    assert ring_scaling_measure.may_be_late(a, a.read(slow))


def test_figures_add_up(causal: dict[str, Row]) -> None:
    r = causal["striped"]
    assert r.issued == pytest.approx(2, rel=0.01)  # one tile a hop, live as a whole
    # FLOPs of allowed pairs by two ways.
    peak = TRN3.bf16_flops_per_s.value
    assert r.mfu * peak * r.time_s * r.issued == pytest.approx(
        r.reached_flops_per_s * r.free_s
    )
    assert r.link_bytes == closed_bytes(r.point)  # every block visits every rank


def test_a_static_program_is_no_faster(causal: dict[str, Row]) -> None:
    static = of(ranks=4, placement="contiguous", static=True)
    assert static.time_s >= causal["contiguous"].time_s
    # 3 each, not 3 + 2 + 1 + 0.
    assert static.link_bytes == 2 * causal["contiguous"].link_bytes


def test_one_core_stands_for_all_of_a_chip() -> None:
    one, all_ = of(), of(cores=8)
    assert all_.time_s == one.time_s and all_.link_bytes == 8 * one.link_bytes


def test_readings_are_deterministic() -> None:
    assert of(placement="zigzag") == of(placement="zigzag")


@pytest.mark.parametrize("machine", MACHINES)
def test_every_machine_reads(machine: str) -> None:
    row = of(machine=machine, bands=True)
    assert row.low_s is not None and row.high_s is not None
    assert row.low_s <= row.time_s <= row.high_s
    assert 0 < row.mfu < 1


def test_free_links_are_free() -> None:
    device = free_links(TRN3).at()
    assert device.link_hop_s == 0
    assert set(device.system.rates("nominal")) == {np.inf}


# --- thresholds ---


def test_closed_form() -> None:
    """Grouped 8 to 1, bfloat16: F/B · 2 / 16; half of a causal tile is live."""
    assert closed_form(80e12, 10e9, Point(mask="full")) == pytest.approx(1000)
    assert closed_form(80e12, 10e9, Point(mask="causal")) == pytest.approx(2000)
    # 4 c² h_q d / F of computation is then the transfer and the latency.
    c = closed_form(80e12, 10e9, Point(mask="full"), 1e-6)
    assert 4 * c**2 * 8 * 128 / 80e12 == pytest.approx(2 * c * 128 * 2 / 10e9 + 1e-6)


def test_thresholds_fall_with_faster_links(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(threshold, "MOST", 512)
    p = Point(mask="full", ranks=2, placement="contiguous", kv_heads=8)
    found = [[*find(Question(p, times))][-1] for times in (1.0, 16.0)]
    least = [t.least or 1024 for t in found if isinstance(t, Threshold)]
    assert least == sorted(least, reverse=True) and least[0] > least[-1]


def test_the_search_is_from_above() -> None:
    """Small hops hide behind a hop's least time, which is not the threshold."""
    asked = []

    def hidden(c: int) -> bool:
        return c >= 700 or c <= 128

    for c in threshold._search(lambda c: hidden(c), 400):
        asked.append(c)
    assert asked[:2] == [512, 1024]
    assert min(c for c in asked if c > max(c for c in asked if not hidden(c))) in range(
        700, 833
    )


# --- schemes ---


def test_schemes_send_what_the_closed_forms_say() -> None:
    p = Point(mask="full", share=128, ranks=4, kv_heads=8, placement="contiguous")
    kinds = [
        ("ring", 1),
        ("all-gather", 1),
        ("tiles", 2),
        ("ulysses", 1),
        ("ulysses-ring", 2),
        ("pass-q", 1),
    ]
    for scheme, inner in kinds:
        q = dataclasses.replace(p, scheme=scheme, inner=inner)
        tally = attention(q).read(TRN3.at()).tally
        assert tally.by("other")["link_bytes"] == closed_bytes(q), scheme


def test_the_winner_is_the_fastest(causal: dict[str, Row]) -> None:
    rows = list(causal.values())
    assert winner(rows).time_s == min(r.time_s for r in rows)


# --- the command ---


def test_tables_and_files(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: pathlib.Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    cases = ring_scaling.ring_scaling_cases
    points = [Point(ranks=1, share=64, bands=True), SMALL]
    monkeypatch.setattr(cases, "sweep", lambda *_, **__: points)
    group = [dataclasses.replace(SMALL, scheme=name) for name in ("ring", "all-gather")]
    monkeypatch.setattr(cases, "schemes", lambda *_, **__: [group])
    call("sweep", "schemes", "--out", str(tmp_path))
    shown = capsys.readouterr()
    assert (
        "Ring attention of one layer" in shown.out and "which wins where" in shown.out
    )
    assert "Tokens per rank from which" not in shown.out
    assert (tmp_path / "ring_scaling.png").read_bytes().startswith(b"\x89PNG")
    data = json.loads((tmp_path / "ring_scaling.json").read_text())
    with (tmp_path / "ring_scaling.csv").open() as file:
        lines = list(csv.DictReader(file))
    assert tuple(lines[0]) == files.COLUMNS
    assert len(lines) == len(data["readings"]) == len(shown.err.splitlines())
    for line, told in zip(lines, data["readings"], strict=True):
        assert float(line["time_s"]) == told["time_s"] > 0
        assert line["part"] in ("sweep", "schemes")


def test_ctrl_c_keeps_what_was_read(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: pathlib.Path,
    capsys: pytest.CaptureFixture[str],
    causal: dict[str, Row],
) -> None:
    rows = iter(causal.values())

    def stopping(p: Point) -> Row:
        try:
            return next(rows)
        except StopIteration:
            raise Stop from None

    monkeypatch.setattr(ring_scaling, "measure", stopping)
    out = str(tmp_path)
    output = stopped("ring_scaling", "sweep", "--ranks", "4", "--out", out)
    assert output.interrupted().startswith("3 of ")
    shown = capsys.readouterr()
    assert "striped" in shown.out
    assert len((tmp_path / "ring_scaling.csv").read_text().splitlines()) == 4


@pytest.mark.parametrize(
    "args, message",
    [
        (["rings"], "no part 'rings', must be one of sweep, thresholds, schemes"),
        (["--ranks", "0"], "--ranks is 0, must be at least 1"),
        (["--tokens", "few"], "--tokens is 'few', must be a whole number"),
        (["--size"], "unrecognized arguments: --size"),
    ],
)
def test_misuse_is_one_line(
    args: list[str],
    message: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    refused(call, args, message, capsys)
