"""Reduces as programs: their sums bit for bit the timeline's, their wavelets and their clock."""

import numpy as np
import pytest

from emu import wse
from emu.errors import LimitExceeded
from emu.wse import WSE3, trees
from emu.wse.collectives.programs import (
    Code,
    Line,
    multicast,
    rearm,
    reduce,
)
from emu.wse.fabric import ops
from emu.wse.fabric.layout.streams import turned
from emu.wse.trees import Tree
from tests.emu.wse.collectives.on_fabric import (
    PES,
    TREES,
    same,
    stepped,
    timeline,
    values,
)
from tests.emu.wse.collectives.on_timeline import like


def fits_queues(tree: Tree) -> bool:
    """Whether fixed routes, of a color for each stream that a PE adds, leave each a queue."""
    most = max(len(children) for children in tree.children)
    return most <= len(WSE3.at().input_queue_words)


@pytest.mark.parametrize("name", TREES)
@pytest.mark.parametrize(
    ("routes", "op", "dtype"),
    [
        ("turned", "add", "bfloat16"),
        ("fixed", "add", "float32"),
        ("turned", "max", "float32"),
    ],
)
def test_reduce_rounds_as_the_timeline_does(
    name: str, routes: str, op: str, dtype: str
) -> None:
    """The same partial sums in the same order, each rounded to the tile's dtype."""
    tree, x = TREES[name], values((PES, 6), dtype)

    def build(line: Line, x: ops.Buffer, y: ops.Buffer) -> Code:
        return reduce(line, x[:], tree, "r", routes=routes, op=op)

    if routes == "fixed" and not fits_queues(tree):
        with pytest.raises(LimitExceeded, match="11 colors .* has 8 input queues"):
            stepped(x, build)
        return
    got = stepped(x, build).values["x"][0, tree.root]
    program = timeline(lambda x: wse.reduce(like(x), x, axis="row", tree=tree, op=op))
    same(got, np.asarray(program.run(x))[tree.root])


@pytest.mark.parametrize("name", TREES)
def test_wavelets_on_links(name: str) -> None:
    """The timeline's, and one control wavelet's way to its receiver for each router turned."""
    tree, x = TREES[name], values((PES, 6), "float32")
    program = timeline(lambda x: wse.reduce(like(x), x, axis="row", tree=tree))
    expected = program.read(WSE3.at(), x).tally.by("other")["wavelet_hops"]
    for routes in ("turned", "fixed") if fits_queues(tree) else ("turned",):
        run = stepped(
            x,
            lambda line, x, y: reduce(line, x[:], tree, "r", routes=routes),
            links=True,
        )
        assert run.links is not None
        turns = [h for h, t in zip(tree.hops, turned(tree, "r").turn, strict=True) if t]
        controls = sum(turns) if routes == "turned" else 0
        assert run.links[:4].sum() == expected + controls


def test_groups_of_a_line_do_the_same() -> None:
    x = values((PES, 4), "float32")

    def build(line: Line, x: ops.Buffer, y: ops.Buffer) -> Code:
        thirds = Line(line.program, "x", group=4, backwards=True)
        return reduce(thirds, x[:], trees.two_phase(4, 2), "r")

    got = stepped(x, build).values["x"][0, 3::4]
    np.testing.assert_allclose(got, x.reshape(3, 4, 4).sum(1), rtol=1e-5)


def test_turned_routes_serve_again_once_rearmed() -> None:
    x, tree = values((PES, 4), "float32"), trees.two_tree(PES, 3)

    def build(line: Line, x: ops.Buffer, y: ops.Buffer) -> Code:
        once = all_reduce(line, x[:], tree, "")
        again = Code(once.which, once.sequences)
        return once + rearm(line, tree, "r") + again

    got = stepped(x, build).values["x"][0]
    np.testing.assert_allclose(got, np.broadcast_to(PES * x.sum(0), x.shape), rtol=1e-4)


def all_reduce(line: Line, x: ops.Memory, tree: Tree, prefix: str) -> Code:
    return reduce(line, x, tree, f"{prefix}r") + multicast(
        line, x, f"{prefix}b", tree.root
    )
