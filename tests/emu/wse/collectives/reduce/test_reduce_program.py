"""Reduces as programs: when they end, on which colors, their sums bit for bit, their wavelets."""

import functools
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import pytest

from emu.errors import LimitExceeded
from emu.wse import WSE2, WSE3, trees
from emu.wse.collectives.programs import Line, reduce
from emu.wse.collectives.reduce import arrival as of_trees
from emu.wse.fabric.layout.streams import fixed, turned
from emu.wse.fabric.program import FabricProgram
from emu.wse.trees import Tree, auto
from tests.emu.wse.collectives.side_by_side import Case, fabric, run, starts

SHEETS = pytest.mark.parametrize("sheet", [WSE2, WSE3], ids=lambda s: s.name)
SKEWS = (0, 20, 300)


LENGTHS = (1, 2, 3, 5, 7, 8, 13, 16, 30, 64, 100, 256)


PES = (2, 3, 4, 5, 7, 8, 12, 16, 23, 32, 48, 64)


NAMED: dict[str, Callable[[int, np.random.Generator], Tree]] = {
    "chain": lambda pes, rng: trees.chain(pes),
    "star": lambda pes, rng: trees.star(pes),
    "binary": lambda pes, rng: trees.binary(pes),
    "two-phase": lambda pes, rng: trees.two_phase(pes, int(rng.integers(1, pes + 1))),
    "two-tree": lambda pes, rng: trees.two_tree(pes, int(rng.integers(1, pes + 1))),
    "two-tree, stored": lambda pes, rng: trees.two_tree(
        pes, int(rng.integers(1, pes + 1)), stores=True
    ),
    "auto": lambda pes, rng: auto(pes, int(rng.choice(LENGTHS)), WSE3.at()),
}


# Words that wait stand on links that others still use.
MEETING = (
    "binary",
    "two-phase",
    "auto",
)


def drawn(
    count: int, what: Callable[[int, np.random.Generator], Any], seed: int
) -> list[Case]:
    rng = np.random.default_rng(seed)
    out = []
    for n in range(count):
        pes, words = int(rng.choice(PES)), int(rng.choice(LENGTHS))
        out.append(Case(starts(rng, pes, SKEWS[n % 3]), words, what(pes, rng)))
    return out


def named(count: int, names: Iterable[str]) -> list[tuple[str, Case]]:
    """As many cases of each tree."""
    return [(name, case) for name in names for case in drawn(count, NAMED[name], count)]


@pytest.mark.parametrize(
    ("names", "count"),
    [
        (tuple(NAMED), 5),
        *(pytest.param((n,), 120, marks=pytest.mark.slow) for n in NAMED),
    ],
    ids=["few of each", *NAMED],
)
@SHEETS
def test_reduce_with_turned_routes_ends_when_the_formula_says(
    sheet: Any, names: tuple[str, ...], count: int
) -> None:
    """Or, where a stream that waits stands on links that others still use, a few cycles later.

    Each word of it that crosses such a link takes the place of one of theirs; a router and the link
    to it hold `link_words`.
    """
    device, w = fabric(sheet)
    told, cases = zip(*named(count, names), strict=True)
    got = run(
        cases, lambda line, x, tree: reduce(line, x, tree, "r"), device, path="cycles"
    )
    exact = 0
    for row, (name, case) in enumerate(zip(told, cases, strict=True)):
        root = case.what.root
        expected = of_trees.reduce(case.armed, case.count, case.what, w, turned=True)[
            0, root, 0
        ]
        late = got.ends[row, root] - expected
        meets = name in MEETING or ("two-tree" in name and len(set(case.starts)) > 1)
        assert 0 <= late <= (2 * w.link_words if meets else 0), case
        exact += int(late == 0)
    assert exact >= 0.5 * len(cases)


@SHEETS
def test_reduce_with_fixed_routes_is_exact_where_streams_do_not_meet(
    sheet: Any,
) -> None:
    """Chains, and two-phase trees whose leaders' words all pass after those of the groups."""
    device, w = fabric(sheet)
    cases = [
        Case((1,) * pes, words, tree)
        for pes, words, tree in [
            (2, 256, trees.chain(2)),
            (37, 256, trees.chain(37)),
            (64, 5, trees.chain(64)),
            (64, 7, trees.two_phase(64, 16)),
            (60, 3, trees.two_phase(60, 10)),
            (48, 16, trees.two_phase(48, 24)),
        ]
    ]
    build = functools.partial(reduce, routes="fixed")
    stepped = run(
        cases, lambda line, x, tree: build(line, x, tree, "r"), device, path="cycles"
    )
    for row, case in enumerate(cases):
        expected = of_trees.reduce(case.armed, case.count, case.what, w)[0, 0, 0]
        assert stepped.ends[row, 0] == expected, case
    by_trains = run(
        cases, lambda line, x, tree: build(line, x, tree, "r"), device, path="auto"
    )
    assert by_trains.path == "trains" and (by_trains.ends == stepped.ends).all()


def test_colors_that_trees_take() -> None:
    def colors(streams: Any) -> int:
        return len({c for c in streams.color if c})

    for tree in (
        trees.chain(40),
        trees.star(40),
        trees.binary(40),
        trees.two_phase(40, 6),
    ):
        assert colors(turned(tree, "")) <= 2
    assert colors(turned(trees.two_tree(40, 5), "")) == 3
    # as many as meet at one router, ends included: a chain's two; a leader's two and what it sends;
    # in round k of a binary tree all k + 1 streams into the first PE
    assert colors(fixed(trees.chain(40).parent, "")) == 2
    assert colors(fixed(trees.two_phase(40, 6).parent, "")) == 3
    assert colors(fixed(trees.binary(64).parent, "")) == 6
    assert colors(fixed(trees.star(9).parent, "")) == 8


def test_a_farther_stream_first_needs_fixed_routes() -> None:
    tree = Tree(((2, 1), (), ()))
    line = Line(FabricProgram(3))
    x = line.program.buffer("x", 2)[:]
    with pytest.raises(
        LimitExceeded, match="add the nearer one first or use fixed routes"
    ):
        reduce(line, x, tree, "r")
    assert len(reduce(line, x, tree, "r", routes="fixed").sequences) == 4
