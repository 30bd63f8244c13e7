"""Ways into a wafer: which link takes which rows' bytes, for how long, and how far they go."""

import dataclasses
from fractions import Fraction as F

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from emu.wse import WSE3
from emu.wse.ingest import ingest
from emu.wse.placement.regions import Rect
from emu.wse.timeline.wires import wires
from kernels.wse.decode.mapping import LayerMap
from models.machines.handoff.fields import token_bytes
from models.machines.handoff.route import Edge, approach_hops, dealt, row_words
from tests.models.machines.handoff.maps import (
    REGIONS,
    WIDE,
    landing,
    of_heads,
    of_latents,
)

LAW = settings(max_examples=60, derandomize=True, deadline=None)
WAFER = WSE3.at()


def test_links_stand_at_equal_distances() -> None:
    """Of 1,170 rows, two links at 292 and 877; twelve 97 or 98 apart."""
    assert [Edge(WAFER, 2).row(link) for link in range(2)] == [292, 877]
    rows = [Edge(WAFER, 12).row(link) for link in range(12)]
    assert set(np.diff(rows)) == {97, 98}
    region = landing(of_heads(rows=7), y=290).region
    assert Edge(WAFER, 2).nearest(region) == 0


def test_the_modules_example() -> None:
    link, place = dealt(6, 3, 2)
    assert link.tolist() == [0, 0, 1, 1, 2, 2]
    assert place.tolist() == [[[0], [1]], [[2], [3]], [[4], [5]]]


@LAW
@given(st.integers(1, 1170), st.integers(1, 12), st.integers(1, 5))
def test_every_row_has_one_link_and_one_stream(rows, links, streams) -> None:
    links = min(links, rows)
    link, place = dealt(rows, links, streams)
    taken = place[place >= 0]
    assert sorted(taken.tolist()) == list(range(rows))
    for number in range(links):
        own = place[number][place[number] >= 0]
        assert (link[own] == number).all() and (np.diff(own) > 0).all()
    # No link has two rows more than another, and half as many links have both halves' rows.
    counts = np.bincount(link, minlength=links)
    assert counts.max() - counts.min() <= 1
    if links % 2 == 0:
        assert (dealt(rows, links // 2, streams)[0] == link // 2).all()


def test_words_of_a_row() -> None:
    """Two heads of 8 features on two columns each, key and value, 2 bytes: 16 bytes a column."""
    layer = of_heads()
    assert row_words(layer, np.array([0, 1, 3]), WIDE).tolist() == [0, 16, 48]
    # Of a latent of 12 and 8 turned features on two columns 20 bytes each, whatever groups.
    assert row_words(of_latents(), np.array([1]), WIDE).tolist() == [2 * 5]
    # Three bytes on each of 4 columns are a word each.
    single = of_heads(kv_heads=1, parts=1, head_dim=2)
    assert row_words(single, np.array([1]), WIDE).tolist() == [2]


@LAW
@given(
    REGIONS,
    st.integers(1, 12),
    st.lists(st.integers(0, 9), min_size=7, max_size=7),
    st.sampled_from(["striped", "nearest"]),
)
def test_every_byte_enters_once(layer: LayerMap, links, tokens, spread) -> None:
    by_row = np.array(tokens[: layer.rows])
    streams = Edge(WAFER, links, spread).by_rows(layer, by_row[None], WIDE)
    (way,) = streams.into(landing(layer))
    each = token_bytes(layer, WIDE)
    assert sum(entry.nbytes for entry in way.entries) == by_row.sum() * each
    ports = [entry.port for entry in way.entries]
    assert len(set(ports)) == len(ports)
    for entry in way.entries:
        assert entry.line_s == F(entry.nbytes) / F(12.5e9)
        # No stream is faster than its words, nor all of them than theirs together.
        cycles = [float(taken * WAFER.clock_hz) for taken in entry.streams.values()]
        assert sum(cycles) >= entry.nbytes / 4
        assert len(cycles) <= WAFER.link_rows


@LAW
@given(
    REGIONS,
    st.lists(st.lists(st.integers(0, 9), min_size=7, max_size=7), min_size=1),
    st.sampled_from(["striped", "nearest"]),
)
def test_messages_take_what_each_takes_alone(layer: LayerMap, tokens, spread) -> None:
    """Worked out together and for two regions, of which the second is further from its links."""
    by_row = np.array(tokens)[:, : layer.rows]
    edge = Edge(WAFER, 3, spread)
    together = edge.by_rows(layer, by_row, WIDE)
    for here in (landing(layer, y=500), landing(layer, wafer=1, x=20, y=9)):
        alone = [edge.by_rows(layer, own[None], WIDE).into(here) for own in by_row]
        assert together.into(here) == [way for (way,) in alone]


def test_one_stream_is_the_fabrics_law() -> None:
    """One link of one row: all of a region's rows in one stream, as `ingest` has them."""
    layer = of_heads(rows=3)
    tokens = np.array([4, 5, 0])
    here = landing(layer, x=7, y=100)
    edge = Edge(WSE3.at("high"), 1)
    assert edge.wafer.link_rows == 1
    (((entry,), tail_s),) = edge.by_rows(layer, tokens[None], WIDE).into(here)
    found = ingest(
        row_words(layer, tokens, WIDE),
        wires(edge.wafer),
        columns=layer.cols,
        edge_cycles=float(edge.wafer.edge_cycles),
    ).further(np.array(7 + 585 - 100), wires(edge.wafer))
    clock_hz = edge.wafer.clock_hz
    assert entry.streams == {0: F(int(found.busy), clock_hz)}
    assert tail_s == F(int(found.done - found.busy), clock_hz)


def test_streams_of_a_turned_region_have_lines_of_their_own() -> None:
    """Two links of two streams, at rows 3 and 9; a region of 8 rows from (2, 5) on, 3 columns."""
    here = dataclasses.replace(
        landing(of_heads(rows=8)), region=Rect(2, 5, 8, 3), turned=True
    )
    at, first = np.array([3, 9]), np.array([[0, 2], [4, 6]])
    # To lines 5, 6, 7 and, of three, the first again.
    assert approach_hops(here, at, first).tolist() == [[2 + 2, 3 + 4], [2 + 6, 4 + 8]]
    upright = dataclasses.replace(here, region=Rect(2, 5, 3, 8), turned=False)
    assert approach_hops(upright, at, first).tolist() == [[2 + 2, 4 + 2], [2, 2 + 2]]


def test_as_stored_every_pe_sees_every_word() -> None:
    """1,000 bytes are 250 wavelets down the one way, not a third of them for each row."""
    layer = of_heads(rows=3)
    (entry,), _ = Edge(WAFER, 12).to_all(landing(layer), 1000)
    assert entry.nbytes == 1000
    (busy,) = entry.streams.values()
    assert 250 <= busy * WAFER.clock_hz <= 250 + 16


def test_refusals() -> None:
    with pytest.raises(ValueError, match="13 links of a wafer, must be 1 to 12"):
        Edge(WAFER, 13)
    with pytest.raises(ValueError, match="'twisted', must be one of striped, nearest"):
        Edge(WAFER, 1, "twisted")
