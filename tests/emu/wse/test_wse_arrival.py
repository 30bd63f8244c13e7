"""Arrival formulas against a simulation of every word, for any tree, skew and length."""

import time
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from emu.wse import WSE2, WSE3, WSE3_SILICON, trees
from emu.wse.collectives.chain_argmax.arrival import relay
from emu.wse.collectives.multicast.arrival import multicast
from emu.wse.collectives.multicast_2d.arrival import multicast_2d
from emu.wse.collectives.reduce import arrival as of_trees
from emu.wse.collectives.ring_all_reduce.arrival import ring_all_reduce
from emu.wse.collectives.scatter.arrival import scatter
from emu.wse.collectives.shift.arrival import shift
from emu.wse.timeline import folded_ring
from emu.wse.timeline.lines import Lines
from emu.wse.timeline.stretches import latest
from emu.wse.timeline.wires import Wires, wires
from emu.wse.trees import auto
from tests.emu.wse import line_simulation as simulated
from tests.emu.wse.line_simulation import as_line

SHEETS = st.sampled_from([WSE2, WSE3])
WORDS = st.sampled_from([1, 2, 3, 7, 8, 14, 15, 23, 40, 71])


@st.composite
def skews(draw: st.DrawFn, least: int = 1) -> list[int]:
    """When each PE could start: together, or far apart, so that queues fill up."""
    most = draw(st.sampled_from([0, 40, 400]))
    return draw(st.lists(st.integers(0, most), min_size=least, max_size=10))


@st.composite
def any_trees(draw: st.DrawFn, pes: int) -> trees.Tree:
    """Any tree at all: each PE but the root sends to some other, in some order; some store."""
    order = draw(st.permutations(range(pes)))
    own: list[list[int]] = [[] for _ in range(pes)]
    for n in range(1, pes):
        parent = own[order[draw(st.integers(0, n - 1))]]
        parent.insert(draw(st.integers(0, len(parent))), order[n])
    adders = [i for i in order[1:] if own[i]]
    stores = draw(st.sets(st.sampled_from(adders))) if adders else ()
    return trees.Tree(tuple(map(tuple, own)), tuple(stores))


def reduced(armed: list[int], words: int, tree: trees.Tree, w: Wires) -> list[int]:
    return of_trees.reduce(as_line(armed), np.array([[[words]]]), tree, w)[
        0, :, 0
    ].tolist()


@settings(max_examples=150, deadline=None)
@given(SHEETS, skews(), WORDS, st.data())
def test_reduce_along_any_tree(
    sheet: Any, armed: list[int], words: int, data: st.DataObject
) -> None:
    tree, w = data.draw(any_trees(len(armed))), wires(sheet.at())
    assert reduced(armed, words, tree, w) == simulated.reduce(tree, armed, words, w)


@settings(max_examples=60, deadline=None)
@given(SHEETS, skews(2), WORDS, st.integers(1, 9))
def test_reduce_along_every_named_tree(
    sheet: Any, armed: list[int], words: int, n: int
) -> None:
    pes, w = len(armed), wires(sheet.at())
    named = [
        trees.chain(pes),
        trees.star(pes),
        trees.binary(pes),
        trees.two_phase(pes, n),
        trees.two_tree(pes, min(n, pes)),
        auto(pes, words, sheet.at()),
        trees.two_tree(pes, min(n, pes), stores=True),
    ]
    for tree in named:
        assert reduced(armed, words, tree, w) == simulated.reduce(tree, armed, words, w)


@settings(max_examples=100, deadline=None)
@given(SHEETS, skews(), WORDS, st.integers(0, 9))
def test_multicast_both_ways(
    sheet: Any, armed: list[int], words: int, root: int
) -> None:
    w, root = wires(sheet.at()), root % len(armed)
    got = multicast(as_line(armed), np.array([[[words]]]), root, w)[0, :, 0].tolist()
    expected, sends = armed.copy(), armed[root]
    for side in (range(root - 1, -1, -1), range(root + 1, len(armed))):
        if side:
            sends, *received = simulated.multicast(
                sends, [armed[i] for i in side], words, w
            )
            for i, end in zip(side, received, strict=True):
                expected[i] = end
    expected[root] = sends
    assert got == expected


@settings(max_examples=60, deadline=None)
@given(SHEETS, skews(2), WORDS, st.sampled_from([1, -1]))
def test_ring_all_reduce_and_shift(
    sheet: Any, armed: list[int], words: int, by: int
) -> None:
    """Even places send first and odd ones receive first; nobody waits for ever."""
    pes, w = len(armed), wires(sheet.at())
    line, hops = folded_ring.places(pes), folded_ring.ring_hops(pes).tolist()
    assert sum(hops) == 2 * (pes - 1)  # there and back
    starts = [armed[i] for i in line]
    expected = simulated.ring(starts, hops, words, 2 * (pes - 1), w)
    got = ring_all_reduce(as_line(armed), words, w)[0, :, 0]
    assert got[line].tolist() == expected
    way = [0, *range(1, pes)] if by == 1 else [0, *range(pes - 1, 0, -1)]
    back = hops if by == 1 else hops[::-1]
    expected = simulated.ring([armed[i] for i in way], back, words, 1, w)
    got = shift(as_line(armed), words, by, w)[0, :, 0]
    assert got[way].tolist() == expected


@settings(max_examples=60, deadline=None)
@given(SHEETS, skews(2), st.integers(1, 6))
def test_scatter_and_relay_of_a_few_words(
    sheet: Any, armed: list[int], words: int
) -> None:
    w = wires(sheet.at())
    ways = [simulated.Way(w, i) for i in range(1, len(armed))]
    pes = [simulated.Pe(armed[0], [(None, way) for way in ways], words)]
    pes += [
        simulated.Pe(s, [(way, None)], words)
        for s, way in zip(armed[1:], ways, strict=True)
    ]
    got = scatter(as_line(armed), words, 0, w)[0, :, 0]
    assert got.tolist() == simulated.run(pes, ways, w)
    ways = [simulated.Way(w, 1) for _ in armed]  # way i leads to PE i
    pes = [simulated.Pe(armed[-1], [(None, ways[-2])], words)]
    for i in range(len(armed) - 2, -1, -1):
        out: list[Any] = [(None, ways[i - 1])] if i else []
        pes.insert(0, simulated.Pe(armed[i], [(ways[i], None), *out], words))
    got = relay(as_line(armed), words, 0, w)[0, :, 0]
    assert got.tolist() == simulated.run(pes, ways, w)


# --- closed forms ---


@pytest.mark.parametrize(("sheet", "stage"), [(WSE2, 6), (WSE3, 7)])
@pytest.mark.parametrize(("pes", "words"), [(2, 1), (64, 300), (512, 4096)])
def test_equal_starts_are_hpdc24(sheet: Any, stage: int, pes: int, words: int) -> None:
    """Chain B + stage (P - 1), two-phase 2 B + ..., star B (P - 1), between set-up and drain."""
    d = sheet.at()
    w, ends = wires(d), d.fabric_setup_cycles + d.vector_drain_cycles
    gap = d.fabric_setup_cycles + d.vector_drain_cycles
    start = [0] * pes
    assert reduced(start, words, trees.chain(pes), w)[0] == ends + words + stage * (
        pes - 1
    )
    star = reduced(start, words, trees.star(pes), w)[0]
    assert star == ends + (words + gap) * (pes - 1) - gap + stage
    if pes == 512:
        # Groups of 32. The eastern-most leader forwards at once, so its stream waits for the next
        # one's first addition to end: 14 stages of 32 hops behind that, and PE 0 adds twice.
        two = reduced(start, words, trees.two_phase(pes, 32), w)[0]
        assert (
            two
            == ends
            + stage * 31
            + words
            + gap
            + 14 * (2 * 2 + 1 + d.hop_cycles * 32)
            + words
        )
    flow = multicast(as_line(start), np.array([[[words]]]), 0, w)[0, :, 0]
    assert flow.max() == ends + words + d.hop_cycles * (pes - 1) + 2 * d.ramp_cycles + 1


def test_two_phase_is_what_the_vendor_simulator_counted() -> None:
    """The published runs of 512 PEs on WSE-2: 52 cycles to the first element, 4 after the last."""
    w, points = (
        wires(WSE2.at()),
        {
            (4096, 512): 7218,
            (4096, 2): 10055,
            (4096, 8): 9117,
            (4096, 32): 8973,
            (4096, 128): 9297,
            (64, 4): 1357,
            (64, 16): 925,
            (64, 64): 997,
            (64, 256): 1914,
        },
    )
    for (words, group), cycles in points.items():
        start = [52 - w.setup_cycles] * 512
        got = reduced(start, words, trees.two_phase(512, group), w)[0]
        assert abs(got - cycles) <= 3, (words, group, got, cycles)


def test_multicast_over_a_mesh_is_one_stream() -> None:
    """HPDC'24: B + M + N - 2 and two ramps; here with the push, set-up and drain."""
    d = WSE2.at()
    done = multicast_2d(np.zeros((5, 7), np.int64), 30, wires(d))
    ends = d.fabric_setup_cycles + d.vector_drain_cycles
    assert done.max() == done[4, 6] == ends + 30 + (5 + 7 - 2) + 2 * 2 + 1
    assert done[0, 0] == ends + 30 and done[0, 3] == done[3, 0] == done[2, 1]


def test_silicon_streams_slower() -> None:
    """FABRICA: 1.125 cycles a wavelet, so the 64th word leaves 71 cycles after the first."""
    fast, slow = (
        reduced([0, 0], 65, trees.chain(2), wires(s.at())) for s in (WSE3, WSE3_SILICON)
    )
    assert slow[0] - fast[0] == 72 - 64


# --- lines ---


def test_lines_that_nothing_tells_apart_are_one() -> None:
    mesh = {"row": 4, "col": 6}
    same = np.broadcast_to(np.arange(4)[:, None], (4, 6))
    lines = Lines(mesh, "row", 2, same, 3)
    assert lines.take(same).shape == (2, 2, 1) and lines.put(
        lines.take(same)
    ).shape == (4, 1)
    full = np.arange(24).reshape(4, 6)
    for axis, shape in (("row", (2, 2, 6)), ("col", (3, 2, 4))):
        lines = Lines(mesh, axis, 2, same, full)
        assert lines.take(full).shape == shape
        assert (lines.put(lines.take(full)) == full).all()


@given(st.lists(st.integers(-50, 50), min_size=1, max_size=20), st.data())
def test_latest_of_stretches(x: list[int], data: st.DataObject) -> None:
    start = [data.draw(st.integers(0, i)) for i in range(len(x))]
    got = latest(np.array(x)[None, :, None], np.array(start)[None])[0, :, 0]
    assert got.tolist() == [max(x[s : i + 1]) for i, s in enumerate(start)]


def test_a_whole_column_costs_milliseconds() -> None:
    """1,170 PEs, a message longer than all queues."""
    armed, words, w = (
        np.zeros((1, 1170, 1), np.int64),
        np.array([[[4096]]]),
        wires(WSE3.at()),
    )
    for tree in (
        trees.chain(1170),
        trees.two_phase(1170, 34),
        trees.two_tree(1170, 30),
    ):
        of_trees.reduce(armed, words, tree, w)
        before = time.perf_counter()
        of_trees.reduce(armed, words, tree, w)
        assert time.perf_counter() - before < 0.1
