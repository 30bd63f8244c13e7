"""A layer's region by the clock: the least of those read, known afterwards, and files checked."""

import dataclasses
import json
import pathlib
from collections.abc import Callable
from typing import Any

import pytest

from emu.errors import LimitExceeded
from emu.wse import WSE2, WSE3
from emu.wse.placement.regions import DoesNotFit
from kernels.wse.decode import search
from kernels.wse.decode.demand import Demand, LayerKind
from kernels.wse.decode.layer_plan import LayerStep, fastest
from tests.kernels.wse.reference import Sizes

DEVICE = WSE3.at()
LLAMA = Sizes(66, 90, 2, 4, 2, 16, 101)
DEMAND = Demand(LLAMA, 64, "bfloat16", DEVICE, (LayerKind(),), (0,))


@pytest.fixture(autouse=True)
def nothing_known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(search, "_known", {})


def unread(*_: Any) -> int:
    raise AssertionError("a clock was read")


def test_the_fastest_of_those_read_is_taken() -> None:
    found = search.search_layer(DEMAND, 4)
    cycles = [each.cycles for each in found.tried]
    assert len(cycles) == 4 and found.chosen == cycles.index(min(cycles))
    estimates = [each.estimated_cycles for each in found.tried]
    assert estimates == sorted(estimates)
    placed, best = found.placed.map, found.tried[found.chosen]
    assert (placed.rows, placed.kv_heads, placed.parts) == (
        best.rows,
        best.groups,
        best.parts,
    )
    assert LayerStep(found.placed, 63).read(DEVICE).end_ticks == best.cycles
    # Of one there is no choice: it is the estimate's.
    alone = fastest(DEMAND)
    assert alone is not None
    assert search.search_layer(DEMAND, 1).placed.map == alone.map


def test_what_was_read_is_known(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "searches.json"
    first = search.search_layer(DEMAND, 2, path)
    text = path.read_text("utf-8")
    again = search.search_layer(DEMAND, 2, path)
    assert (first.known, again.known) == (False, True) and path.read_text(
        "utf-8"
    ) == text
    # Another process has the file alone, and of two regions it reads the fastest one's clock.
    monkeypatch.setattr(search, "_known", {})
    monkeypatch.setattr(search, "_tried", unread)
    from_file = search.search_layer(DEMAND, 2, path)
    assert from_file.known and from_file.tried == first.tried
    assert from_file.placed.map == first.placed.map
    # Another length, another wafer, another count: searches of their own.
    for other in (
        dataclasses.replace(DEMAND, context=65),
        dataclasses.replace(DEMAND, device=WSE2.at()),
    ):
        with pytest.raises(AssertionError, match="a clock was read"):
            search.search_layer(other, 2, path)
    with pytest.raises(AssertionError, match="a clock was read"):
        search.search_layer(DEMAND, 3, path)


def slower(document: Any) -> None:
    for reading in document["searches"][0]["readings"]:
        reading[4] += 1


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (slower, "the clock does not say any more"),
        (lambda d: d.update(format=2), "no searches of format 1"),
        (lambda d: d.update(searches={}), "searches must be a list"),
        (lambda d: d["searches"][0].update(inputs=[1]), "inputs must be texts by name"),
        (lambda d: d["searches"][0].update(readings=[]), "a list of at least one"),
        (
            lambda d: d["searches"][0].update(readings=[[1, 2, 3, 4.0, -5]]),
            "a reading is",
        ),
        (
            lambda d: d["searches"][0].update(readings=[[7, 7, 7, 4.0, 5]]),
            "does not say any more",
        ),
    ],
)
def test_files_are_checked(
    change: Callable[[Any], None],
    why: str,
    tmp_path: pathlib.Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    path = tmp_path / "searches.json"
    search.search_layer(DEMAND, 1, path)
    document = json.loads(path.read_text("utf-8"))
    change(document)
    path.write_text(json.dumps(document), encoding="utf-8")
    monkeypatch.setattr(search, "_known", {})
    with pytest.raises(LimitExceeded, match=why):
        search.search_layer(DEMAND, 1, path)


def test_what_is_no_json_and_what_has_no_region(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "searches.json"
    path.write_bytes(b"\xff\x00")
    with pytest.raises(LimitExceeded, match="cannot be read as JSON"):
        search.search_layer(DEMAND, 1, path)
    with pytest.raises(LimitExceeded, match="cannot be written"):
        search.search_layer(DEMAND, 1, tmp_path / "none" / "searches.json")
    wide = dataclasses.replace(LLAMA, hidden_size=2**22)
    with pytest.raises(DoesNotFit, match="no region has room"):
        search.search_layer(dataclasses.replace(DEMAND, model=wide), 1)
