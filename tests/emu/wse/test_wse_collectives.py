"""Collectives as fabric programs, stepped cycle by cycle: when they arrive is what formulas say."""

import functools
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import pytest

from emu.errors import LimitExceeded
from emu.wse import WSE2, WSE3, trees
from emu.wse.collectives.multicast import arrival as of_multicasts
from emu.wse.collectives.programs import Line, multicast, reduce
from emu.wse.collectives.reduce import arrival as of_trees
from emu.wse.fabric import ops, stepper
from emu.wse.fabric.layout.streams import fixed, turned
from emu.wse.fabric.program import FabricProgram
from emu.wse.trees import Tree, auto
from tests.emu.wse.side_by_side import Case, fabric, run, starts

SHEETS = pytest.mark.parametrize("sheet", [WSE2, WSE3], ids=lambda s: s.name)
SKEWS = (0, 20, 300)
few = pytest.param(24, id="few")
many = pytest.param(120, id="many", marks=pytest.mark.slow)
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


# --- broadcast ---


@pytest.mark.parametrize("count", [few, many])
@SHEETS
def test_broadcast_reaches_every_pe_when_the_formula_says(
    sheet: Any, count: int
) -> None:
    """From either end or from inside, first the lower side, then the higher.

    Where late PEs have held up the first side, its words may still be in the output queue, and the
    second one's take turns with them on the ramp.
    """
    device, w = fabric(sheet)
    cases = drawn(
        count, lambda pes, rng: int(rng.choice([0, pes // 2, pes - 1])), count
    )
    got = run(
        cases,
        lambda line, x, root: multicast(line, x, "b", root),
        device,
        path="cycles",
    )
    for row, case in enumerate(cases):
        pes, root = len(case.starts), case.what
        expected = of_multicasts.multicast(case.armed, case.count, root, w)[0, :, 0]
        late = got.ends[row, :pes] - expected
        waits = 0 < root < pes - 1 and len(set(case.starts)) > 1
        assert 0 <= late.min() and late.max() <= (w.out_words if waits else 0), case


# --- reduce ---


def named(count: int, names: Iterable[str]) -> list[tuple[str, Case]]:
    """As many cases of each tree."""
    return [(name, case) for name in names for case in drawn(count, NAMED[name], count)]


@pytest.mark.parametrize(
    ("names", "count"),
    [
        (tuple(NAMED), 8),
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


# --- together ---


def all_reduce(line: Line, x: ops.Memory, tree: Tree) -> Any:
    return reduce(line, x, tree, "r") + multicast(line, x, "b", tree.root)


@pytest.mark.parametrize("count", [few, many])
@SHEETS
def test_all_reduce_through_the_middle(sheet: Any, count: int) -> None:
    """Two-tree, then both ways from its root: every PE has the sum when the two formulas say."""
    device, w = fabric(sheet)
    made = (NAMED["two-tree"], NAMED["two-tree, stored"])
    cases = [case for tree in made for case in drawn(count // 2, tree, 7)]
    got = run(cases, all_reduce, device, path="cycles")
    for row, case in enumerate(cases):
        done = of_trees.reduce(case.armed, case.count, case.what, w, turned=True)
        expected = of_multicasts.multicast(done, case.count, case.what.root, w)[0, :, 0]
        assert got.ends[row, : len(case.starts)].tolist() == expected.tolist(), case


# --- whole lines of a wafer ---


@pytest.mark.parametrize(
    ("along", "words", "name"),
    [
        ("x", 7, "two-tree"),
        pytest.param("y", 40, "two-tree", marks=pytest.mark.slow),
        pytest.param("x", 256, "two-tree", marks=pytest.mark.slow),
        pytest.param("y", 256, "chain", marks=pytest.mark.slow),
        pytest.param("x", 30, "binary", marks=pytest.mark.slow),
        pytest.param("y", 30, "two-phase", marks=pytest.mark.slow),
        pytest.param("x", 2, "star", marks=pytest.mark.slow),
    ],
)
def test_a_whole_line_of_the_wafer(along: str, words: int, name: str) -> None:
    """A row of 755 PEs or a column of 1,170: all-reduce by every kind of tree."""
    device, w = fabric(WSE3)
    pes = int(device.grid_width if along == "x" else device.grid_height)
    tree = {
        "two-tree": trees.two_tree(pes, 27),
        "chain": trees.chain(pes),
        "star": trees.star(pes),
        "binary": trees.binary(pes),
        "two-phase": trees.two_phase(pes, 30),
    }[name]
    program = FabricProgram(*((pes, 1) if along == "x" else (1, pes)))
    line = Line(program, along)
    all_reduce(line, program.buffer("x", words)[:], tree).declare(
        program, "main", start=True
    )
    got = stepper.run(program, device, path="cycles").ends.reshape(-1)
    done = of_trees.reduce(
        np.zeros((1, pes, 1), np.int64),
        np.array(words).reshape(1, 1, 1),
        tree,
        w,
        turned=True,
    )
    expected = of_multicasts.multicast(
        done, np.array(words).reshape(1, 1, 1), tree.root, w
    )
    late = got.max() - expected.max()
    assert 0 <= late <= (tree.depth * w.link_words if name in MEETING else 0)
