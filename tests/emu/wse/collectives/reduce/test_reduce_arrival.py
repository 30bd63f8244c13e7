"""The formula of a reduce against a simulation of every word, for any tree, skew and length."""

import time
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from emu.wse import WSE2, WSE3, WSE3_SILICON, trees
from emu.wse.collectives.multicast.arrival import multicast
from emu.wse.collectives.reduce import arrival as of_trees
from emu.wse.timeline.wires import Wires, wires
from emu.wse.trees import auto
from tests.emu.wse.collectives import line_simulation as simulated
from tests.emu.wse.collectives.line_simulation import as_line
from tests.emu.wse.collectives.strategies import SHEETS, WORDS, skews


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


def test_silicon_streams_slower() -> None:
    """FABRICA: 1.125 cycles a wavelet, so the 64th word leaves 71 cycles after the first."""
    fast, slow = (
        reduced([0, 0], 65, trees.chain(2), wires(s.at())) for s in (WSE3, WSE3_SILICON)
    )
    assert slow[0] - fast[0] == 72 - 64


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
