"""Collectives: sums in hop order bit for bit, times equal to HPDC'24's closed forms."""

from typing import Any

import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest

from emu import EmulationError, Known, Program, wse
from emu.wse import WSE2, WSE3, trees
from emu.wse.collectives.shift.arrival import shift
from emu.wse.timeline.wires import wires
from tests.emu.wse.single_pe import struct

LINE = ("row",)


def on_line(pes: int, call: Any, inputs: int = 1, knowns: int = 0) -> Program:
    return Program(call, {"row": pes}, (LINE,) * inputs + ((),) * knowns)


def like(x: Any) -> Any:
    return wse.sram_tile(shape=x.shape, dtype=x.dtype)


def chained(x: np.ndarray, join: Any) -> np.ndarray:
    """From the far end to the first, each sum rounded to the array's dtype."""
    acc = x[-1]
    for own in x[-2::-1]:
        acc = join(own.astype(np.float64), acc.astype(np.float64))
        acc = acc.astype(np.float32).astype(x.dtype)
    return acc


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


# A call is 110 or 20 and a load of 9 or 4; a set-up of 17 or 4 comes before a stream, a drain of 4
# after it.
ENDS = {"WSE-2": 119 + 17 + 4, "WSE-3": 24 + 4 + 4}
GAP = {"WSE-2": 21, "WSE-3": 8}


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
    """3 groups of 4: roots 2, 6, 10. PE 6 adds PE 5's stream, 7's, and then those of 2 and 10."""
    tree = trees.two_tree(12, 3, stores=stores)
    program = on_line(12, lambda x: wse.reduce(like(x), x, axis="row", tree=tree))
    clock = program.read(WSE3.at(), struct((12, 6)))
    first = 2 * 7 + 6  # two stages, six words
    own = first + 8 + 6  # gap, the eastern stream
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


@pytest.mark.parametrize(("sheet", "hop"), [(WSE2, 1), (WSE3, 2)], ids=["wse2", "wse3"])
@pytest.mark.parametrize(("pes", "words"), [(2, 1), (8, 5), (64, 300)])
def test_multicast_takes_b_plus_hops_plus_two_ramps(
    sheet: Any, hop: int, pes: int, words: int
) -> None:
    program = on_line(pes, lambda x: wse.multicast(like(x), x, axis="row"))
    x = np.random.default_rng(0).standard_normal((pes, words)).astype(np.float32)
    assert (np.asarray(program.run(x)) == x[:1]).all()
    clock = program.read(sheet.at(), x)
    assert clock.end_ticks == ENDS[sheet.name] + words + hop * (pes - 1) + 2 * 2 + 1
    assert clock.tally.by("other")["wavelet_hops"] == words * (pes - 1)


def test_multicast_from_the_middle_sends_twice() -> None:
    """PE 2 of 9 sends west, then east: the far end is 6 hops away."""
    x = np.arange(27, dtype=np.float32).reshape(9, 3)
    program = on_line(9, lambda x: wse.multicast(like(x), x, axis="row", root=2))
    assert (np.asarray(program.run(x)) == x[2]).all()
    clock = program.read(WSE2.at(), x)
    assert clock.end_ticks == ENDS["WSE-2"] + 3 + GAP["WSE-2"] + 3 + 6 + 2 * 2 + 1
    assert clock.tally.by("other")["wavelet_hops"] == 3 * 8
    with pytest.raises(
        EmulationError, match="root is 9, must be one of a group's 9 PEs"
    ):
        on_line(9, lambda x: wse.multicast(like(x), x, axis="row", root=9)).read(
            WSE2.at(), x
        )


@pytest.mark.parametrize("mesh", [{"row": 3, "col": 5}, {"col": 5, "row": 3}])
def test_multicast_over_a_mesh(mesh: dict[str, int]) -> None:
    call = lambda x: wse.multicast_2d(like(x), x, axes=("row", "col"))  # noqa: E731
    program = Program(call, mesh, (tuple(mesh),))
    x = np.arange(30, dtype=np.float32).reshape(*mesh.values(), 2)
    assert (np.asarray(program.run(x)) == x[0, 0]).all()
    clock = program.read(WSE2.at(), x)
    assert clock.end_ticks == ENDS["WSE-2"] + 2 + (2 + 4) + 2 * 2 + 1
    assert clock.tally.by("other")["wavelet_hops"] == 2 * 14
    assert clock.tally.by("bytes") == {"sram_read": 8, "sram_write": 8 * 14}
    line = on_line(4, lambda x: wse.multicast_2d(like(x), x, axes=("row", "row")))
    with pytest.raises(EmulationError, match="must be two"):
        line.read(WSE2.at(), struct((4, 2)))


def test_a_collective_may_go_on_within_a_call() -> None:
    def both(call: bool) -> int:
        def kernel(x: Any) -> Any:
            y = wse.reduce(like(x), x, axis="row")
            return wse.multicast(y, y, axis="row", call=call)

        return on_line(4, kernel).read(WSE2.at(), struct((4, 3))).end_ticks

    assert both(True) - both(False) == 110 + 9


def test_two_halves_share_a_wavelet_and_elements_may_be_fewer() -> None:
    reduce = on_line(4, lambda x: wse.reduce(like(x), x, axis="row"))
    ends = ENDS["WSE-3"]
    assert (
        reduce.read(WSE3.at(), struct((4, 7), "float16")).end_ticks == ends + 4 + 7 * 3
    )
    some = on_line(
        4, lambda x, n: wse.reduce(like(x), x, axis="row", elements=n), knowns=1
    )
    clock = some.read(WSE3.at(), struct((4, 7)), Known(np.int32(2)))
    assert clock.end_ticks == ends + 2 + 7 * 3


@pytest.mark.parametrize("op", ["add", "max"])
@pytest.mark.parametrize("pes", [1, 2, 5, 6])
def test_ring_all_reduce(pes: int, op: str) -> None:
    """Chunk c starts one place beyond place c of the ring and ends there, everywhere at last."""
    x = np.random.default_rng(pes).standard_normal((2, pes, 3 * pes)).astype(np.float16)
    call = lambda x: wse.ring_all_reduce(like(x), x, axis="row", op=op)  # noqa: E731
    program = Program(call, {"col": 2, "row": pes}, (("col", "row"),))
    got = np.asarray(program.run(x))
    line = [*range(0, pes, 2), *reversed(range(1, pes, 2))]
    for col in range(2):
        for c in range(pes):
            part = slice(3 * c, 3 * c + 3)
            order = [line[(c + k) % pes] for k in range(pes, 0, -1)]
            expected = chained(
                x[col][order, part], np.add if op == "add" else np.maximum
            )
            assert (got[col][:, part] == expected).all()
    clock = program.read(WSE2.at(), x)
    # A step sends 2 words and takes 2; the ring is there and back.
    assert clock.tally.by("other")["wavelet_hops"] == 2 * 2 * 2 * (pes - 1) * 2 * (
        pes - 1
    )
    assert clock.tally.flops == 2 * pes * (pes - 1) * 3


def test_ring_wants_whole_chunks() -> None:
    program = on_line(4, lambda x: wse.ring_all_reduce(like(x), x, axis="row"))
    with pytest.raises(EmulationError, match="n a multiple of the ring's 4 PEs"):
        program.read(WSE2.at(), struct((4, 7)))


def test_gather_and_scatter() -> None:
    x = np.random.default_rng(0).standard_normal((2, 6, 2, 3)).astype(np.float32)

    def there_and_back(x: Any) -> Any:
        tile = lambda shape: wse.sram_tile(shape=shape, dtype=x.dtype)  # noqa: E731
        y = wse.gather(tile((3, 2, 3)), x, axis="row", group=3)
        return y, wse.scatter(tile((2, 3)), y, axis="row", group=3)

    mesh = {"col": 2, "row": 6}
    program = Program(
        there_and_back, mesh, (("col", "row"),), (("col", "row"), ("col", "row"))
    )
    gathered, back = map(np.asarray, program.run(x))
    assert (gathered[:, ::3] == x.reshape(2, 2, 3, 2, 3)).all() and (back == x).all()
    assert np.isnan(gathered[:, 1:3]).all()
    assert program.read(WSE3.at(), x).tally.by("other")["wavelet_hops"] == 2 * 4 * 6 * (
        1 + 2
    )

    def one(x: Any) -> Any:
        return wse.gather(wse.sram_tile(shape=(4, 6), dtype=x.dtype), x, axis="row")

    # PE 0 copies its own 24 bytes (6 and 2 cycles), then three streams wait for it, one by one.
    clock = on_line(4, one).read(WSE3.at(), struct((4, 6)))
    assert clock.end_ticks == ENDS["WSE-3"] + 6 + 2 + 3 * 6 + 2 * GAP["WSE-3"]
    bad = on_line(4, lambda x: wse.gather(like(x), x, axis="row"))
    with pytest.raises(EmulationError, match="must be .4, 6."):
        bad.read(WSE3.at(), struct((4, 6)))


def test_shift_is_cyclic_and_two_hops_long() -> None:
    x = np.arange(15, dtype=np.float32).reshape(5, 3)
    for by in (1, -1):
        program = on_line(5, lambda x, by=by: wse.shift(like(x), x, axis="row", by=by))
        assert (np.asarray(program.run(x)) == np.roll(x, by, 0)).all()
        # A call; places 1 and 3 receive, then send, and place 2 has sent before it receives; of
        # five places the last one's receiver, the first, sends first too.
        clock = program.read(WSE3.at(), x)
        armed = np.full((1, 5, 1), 24)
        assert clock.end_ticks == shift(armed, 3, by, wires(WSE3.at())).max()
        assert clock.tally.by("other")["wavelet_hops"] == 3 * 2 * (5 - 1)
    with pytest.raises(EmulationError, match="by is 2, must be 1 or -1"):
        on_line(5, lambda x: wse.shift(like(x), x, axis="row", by=2)).read(WSE3.at(), x)


def test_chain_argmax_breaks_ties_low() -> None:
    top = jnp.array([1, 7, 3, 7, 2], jnp.float32)[:, None]
    at = jnp.array([4, 31, 5, 30, 6], jnp.int32)[:, None]

    def call(v: Any, i: Any) -> Any:
        return wse.chain_argmax(like(v), like(i), v, i, axis="row")

    program = Program(call, {"row": 5}, (LINE, LINE), (LINE, LINE))
    value, index = program.run(top, at)
    assert (float(value[0, 0]), int(index[0, 0])) == (7.0, 30)
    # A stage of 7, a second word and its cycle, a drain, two compares, a branch and a set-up.
    stage = 7 + 2 + 4 + 2 * 2 + 6 + 4
    # PE 0 takes two words and compares; nobody sends after it.
    assert program.read(WSE3.at(), top, at).end_ticks == 24 + 4 + 4 * stage - 4


def test_walk_crosses_the_gap_and_starts_a_task() -> None:
    x = np.arange(12, dtype=np.float32).reshape(4, 3)
    program = on_line(4, lambda x, gap: wse.walk(like(x), x, gap, axis="row"), knowns=1)
    assert (np.asarray(program.run(x, Known(np.int32(10)))) == x[-1:]).all()
    clock = program.read(WSE3.at(), x, Known(np.int32(10)))
    assert clock.end_ticks == 24 + 4 + (1 + 2 * 2 + 2 * (10 + 4)) + 3
    assert clock.tally.by("other")["wavelet_hops"] == 3 * (10 + 4)


def test_vmap_and_shard_map_agree() -> None:
    x = np.random.default_rng(0).standard_normal((2, 4, 6)).astype(np.float32)

    def call(x: Any) -> Any:
        y = wse.reduce(like(x), x, axis="col")
        y = wse.multicast(like(x), y, axis="col")
        z = wse.shift(like(x), y, axis="row", by=1)
        z = wse.vector(z, z, x, op="add")
        return wse.reduce(z, z, axis="row", op="max")

    program = Program(call, {"row": 2, "col": 4}, (("row", "col"),))
    batched, sharded = np.asarray(program.run(x)), np.asarray(program.sharded()(x))
    np.testing.assert_array_equal(batched, sharded)
    assert np.isfinite(batched[0]).all() and np.isnan(batched[1]).all()
