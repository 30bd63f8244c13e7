"""Reduce trees: their shapes by hand, and the best one against every tree there is."""

import functools
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from emu import EmulationError
from emu.wse import WSE2, WSE3, trees
from emu.wse.trees import Tree, model_cycles
from emu.wse.trees.best import EXACT_PES, auto


def test_shapes_by_hand() -> None:
    assert trees.chain(4).children == ((1,), (2,), (3,), ())
    assert trees.star(4).children == ((1, 2, 3), (), (), ())
    assert trees.binary(7).children == ((1, 2, 4), (), (3,), (), (5, 6), (), ())
    # Groups of 3, the last one of 2: own group first, then the next leader's stream.
    two = trees.two_phase(8, 3)
    assert two.children == ((1, 3), (2,), (), (4, 6), (5,), (), (7,), ())
    assert two.hops == (0, 1, 1, 3, 1, 1, 3, 1)
    # Three groups of 4 with roots 2, 6 and 10: east and west of the own group, then of the roots.
    tree = trees.two_tree(12, 3)
    assert (tree.root, tree.children[6], tree.children[2]) == (6, (7, 5, 10, 2), (3, 1))
    assert tree.depth == 3 and trees.two_tree(5, 1).children == (
        (),
        (0,),
        (3, 1),
        (4,),
        (),
    )
    # Root 2 and root 10 have all in memory before they send, the middle one streams the last.
    stored = trees.two_tree(12, 3, stores=True)
    assert (stored.children, stored.stores) == (
        tree.children,
        (2, 10),
    ) and stored != tree
    assert (stored.into_memory[2], stored.streamed[2], tree.streamed[2]) == (
        (3, 1),
        (),
        (1,),
    )
    assert stored.into_memory[6] == (7, 5, 10) and stored.streamed[6] == (2,)
    # Leaves send from memory.
    assert trees.two_tree(3, 3, stores=True) == trees.two_tree(3, 3)


@given(st.integers(1, 40), st.integers(1, 50))
def test_every_family_spans_the_line(pes: int, n: int) -> None:
    family = [
        trees.chain(pes),
        trees.star(pes),
        trees.binary(pes),
        trees.two_phase(pes, n),
        *(trees.two_tree(pes, min(n, pes), stores=s) for s in (False, True)),
    ]
    for tree in family:
        assert sorted(tree.order) == list(range(pes)) and tree.parent[tree.root] == -1
        for i, own in enumerate(tree.children):
            assert all(tree.parent[c] == i and tree.hops[c] == abs(c - i) for c in own)
    assert trees.chain(pes).depth == pes - 1 == max(trees.star(pes).hops)
    assert trees.two_phase(pes, pes) == trees.two_phase(pes, 1) == trees.chain(pes)
    assert trees.binary(pes).depth == max(i.bit_count() for i in range(pes))


@pytest.mark.parametrize(
    "children", [((1,), ()) * 2, ((1,), (0,)), ((), ()), ((1, 1), ())]
)
def test_what_is_no_tree_is_refused(children: tuple[tuple[int, ...], ...]) -> None:
    with pytest.raises(EmulationError, match="must name every PE but one root once"):
        Tree(children)


@pytest.mark.parametrize("stores", [(0,), (2,), (7,), (-1,)])
def test_only_pes_that_add_and_send_store(stores: tuple[int, ...]) -> None:
    with pytest.raises(EmulationError, match="must name PEs that add streams and send"):
        Tree(((1,), (2,), ()), stores)


def test_sizes_are_checked() -> None:
    with pytest.raises(EmulationError, match="group is 0"):
        trees.two_phase(4, 0)
    with pytest.raises(
        EmulationError, match="groups is 9, must be a whole number from 1 to 4"
    ):
        trees.two_tree(4, 9)


# --- the best tree ---


@functools.cache
def every_shape(pes: int) -> tuple[tuple[int, ...], ...]:
    """Sizes of the subtrees of the root, in order, in every way."""
    if pes == 1:
        return ((),)
    return tuple((n, *rest) for n in range(1, pes) for rest in every_shape(pes - n))


def every_tree(pes: int, at: int = 0) -> Iterator[dict[int, tuple[int, ...]]]:
    """Every pre-order tree over PEs `at` to `at + pes - 1`."""
    for sizes in every_shape(pes):
        starts = [at + 1 + sum(sizes[:i]) for i in range(len(sizes))]
        parts: list[dict[int, tuple[int, ...]]] = [{at: tuple(starts)}]
        for start, size in zip(starts, sizes, strict=True):
            parts = [p | sub for p in parts for sub in every_tree(size, start)]
        yield from parts


@pytest.mark.parametrize("sheet", [WSE2, WSE3])
@pytest.mark.parametrize("words", [1, 3, 8, 30, 500])
def test_auto_is_the_best_of_all_pre_order_trees(sheet: object, words: int) -> None:
    device = sheet.at()  # type: ignore[attr-defined]
    for pes in range(1, 8):
        found = [Tree(tuple(own[i] for i in range(pes))) for own in every_tree(pes)]
        least = min(model_cycles(t, words, device) for t in found)
        assert model_cycles(auto(pes, words, device), words, device) == pytest.approx(
            least
        )


@pytest.mark.parametrize("pes", [64, EXACT_PES + 44])
@pytest.mark.parametrize("words", [1, 16, 256, 4096])
def test_auto_is_no_worse_than_any_family(pes: int, words: int) -> None:
    device = WSE2.at()
    best = model_cycles(auto(pes, words, device), words, device)
    family = [trees.chain(pes), trees.star(pes), trees.binary(pes)]
    family += [trees.two_phase(pes, s) for s in range(2, pes)]
    assert best <= min(model_cycles(t, words, device) for t in family) + 1e-9
    # Every word crosses the last link, the furthest one all of them.
    bound = words + pes - 1
    assert best > bound


def test_estimates_are_hpdc24s() -> None:
    """Chain B + 6 (P - 1); star max(B (P - 1), B P / 2 + P - 1) + 5."""
    device = WSE2.at()
    assert model_cycles(trees.chain(32), 100, device) == 100 + 6 * 31
    assert model_cycles(trees.star(32), 1, device) == 32 / 2 + 31 + 5
    assert model_cycles(trees.star(32), 100, device) == 100 * 31 + 5
