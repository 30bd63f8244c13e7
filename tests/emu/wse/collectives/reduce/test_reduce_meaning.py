"""Reduces on the timeline: sums in hop order bit for bit, times equal to closed forms."""

from typing import Any

import ml_dtypes
import numpy as np
import pytest

from emu import EmulationError, wse
from emu.wse import WSE2, WSE3, trees
from tests.emu.wse.collectives.on_timeline import ENDS, like, on_line
from tests.emu.wse.single_pe import struct


def summed(x: np.ndarray, tree: trees.Tree, join: Any) -> np.ndarray:
    """PE by PE from the leaves: own tile, then each child's stream, rounded after each."""
    total = [row for row in x]
    for i in reversed(tree.order):
        for c in tree.children[i]:
            wide = join(total[i].astype(np.float64), total[c].astype(np.float64))
            total[i] = wide.astype(np.float32).astype(x.dtype)
    return total[tree.root]


TREES = {
    "chain": trees.chain,
    "star": trees.star,
    "binary": trees.binary,
    "two_phase": lambda n: trees.two_phase(n, 5),
    "two_tree": lambda n: trees.two_tree(n, 4),
    "leaders": lambda n: trees.two_phase(n, 2),
    "stored": lambda n: trees.two_tree(n, min(n, 3), stores=True),
}


@pytest.mark.parametrize("pes", [1, 2, 12, 80])  # unrolled, and loops
@pytest.mark.parametrize("name", TREES)
@pytest.mark.parametrize("op", ["add", "max"])
def test_reduce_rounds_as_the_machine_adds(pes: int, name: str, op: str) -> None:
    tree = TREES[name](pes) if name != "two_tree" or pes > 3 else trees.two_tree(pes, 1)
    x = (
        np.random.default_rng(pes)
        .standard_normal((2 * pes, 5))
        .astype(ml_dtypes.bfloat16)
    )
    call = lambda x: wse.reduce(like(x), x, axis="row", tree=tree, op=op, group=pes)  # noqa: E731
    got = np.asarray(on_line(2 * pes, call).run(x))
    for group in range(2):
        part = slice(group * pes, (group + 1) * pes)
        expected = summed(x[part], tree, np.add if op == "add" else np.maximum)
        assert (got[part][tree.root] == expected).all()
        others = np.delete(got[part], tree.root, 0)
        assert np.isnan(others.astype(np.float32)).all()


def test_the_order_of_addition_shows() -> None:
    x = np.random.default_rng(0).standard_normal((80, 50)).astype(ml_dtypes.bfloat16)
    sums = [summed(x, make(80), np.add) for make in TREES.values()]
    assert len({s.tobytes() for s in sums}) == len(sums)


def test_a_tree_must_span_its_group() -> None:
    with pytest.raises(EmulationError, match="a group of 5 must divide it"):
        on_line(12, lambda x: wse.reduce(like(x), x, axis="row", group=5)).read(
            WSE3.at(), struct((12, 3))
        )
    with pytest.raises(EmulationError, match="has 11 PEs, a group has 12"):
        tree = trees.chain(11)
        on_line(12, lambda x: wse.reduce(like(x), x, axis="row", tree=tree)).read(
            WSE3.at(), struct((12, 3))
        )


@pytest.mark.parametrize(
    ("sheet", "stage"), [(WSE2, 6), (WSE3, 7)], ids=["wse2", "wse3"]
)
@pytest.mark.parametrize(("pes", "words"), [(2, 1), (8, 5), (64, 300)])
def test_chain_takes_b_plus_stage_times_p_minus_one(
    sheet: Any, stage: int, pes: int, words: int
) -> None:
    program = on_line(pes, lambda x: wse.reduce(like(x), x, axis="row"))
    clock = program.read(sheet.at(), struct((pes, words)))
    assert clock.end_ticks == ENDS[sheet.name] + words + stage * (pes - 1)
    assert clock.tally.by("other")["wavelet_hops"] == words * (pes - 1)
    assert clock.tally.flops == words * (pes - 1)
    moved = clock.tally.by("bytes")  # everybody reads its tile, the root writes
    assert moved == {"sram_read": 4 * words * pes, "sram_write": 4 * words}


@pytest.mark.parametrize("stores", [False, True])
def test_two_tree_adds_four_streams_in_the_middle(stores: bool) -> None:
    """3 groups of 4: roots 2, 6, 10. PE 6 adds PE 7's stream, 5's, and then those of 10 and 2."""
    tree = trees.two_tree(12, 3, stores=stores)
    program = on_line(12, lambda x: wse.reduce(like(x), x, axis="row", tree=tree))
    clock = program.read(WSE3.at(), struct((12, 6)))
    first = 7 + 6  # one stage, six words
    own = first + 8 + 6  # gap, the western stream
    # Four hops from a root that sends once it has both sums, or forwards its second stream at once.
    there = (own + 8 if stores else first + 8) + 5 + 2 * 4
    assert clock.end_ticks == ENDS["WSE-3"] + max(own + 8, there) + 6 + 8 + 6
    assert clock.tally.by("other")["wavelet_hops"] == 6 * (9 + 2 * 4)
    # Roots 2 and 10 write their first sum, or both and read the last once more, PE 6 all four.
    again = 2 * stores
    moved = clock.tally.by("bytes")
    assert moved == {
        "sram_read": 4 * 6 * (11 + 6 + again),
        "sram_write": 4 * 6 * (2 + 4 + again),
    }
