"""What each pass of the compiled reading changes, on kernels made by hand."""

import dataclasses

import numpy as np
import pytest

from emu.errors import EmulationError
from emu.trainium import isa
from emu.trainium.datasheets import TRN1
from emu.trainium.nki import interpret
from emu.trainium.nki.passes import (
    common,
    compiled,
    depth,
    engines,
    fuse,
    hoist,
    side_by_side,
    spill,
)
from emu.trainium.nki.passes.costs import Costs, Spent
from emu.trainium.nki.passes.memory import Alive, Memory
from emu.trainium.nki.passes.order import Constraint, order, program_order
from emu.trainium.nki.passes.rewrite import operations, turns
from emu.trainium.nki.passes.traffic import traffic
from emu.trainium.nki.rings import room
from emu.trainium.nki.scopes import scopes
from emu.trainium.nki.tree import Affine, Choice, Loop, Recorded, Tensor
from tests.emu.trainium.nki.random_trees import (
    COLUMNS,
    COPIES,
    F32,
    HERE,
    LOAD,
    ROWS,
    STORE,
    TILES,
    either,
    in_hbm,
    of,
    operation,
    tile,
    whole,
)

TILE_BYTES = ROWS * COLUMNS * 4
ROOMY = Memory(192 * 1024, 16 * 1024)
COSTS = Costs(TRN1.at())


@pytest.fixture
def x():
    return Tensor((TILES, ROWS, COLUMNS), F32, "hbm", "x", HERE, role="input", number=0)


@pytest.fixture
def y():
    return Tensor(
        (TILES, ROWS, COLUMNS), F32, "hbm", "y", HERE, role="output", number=0
    )


def kernel(body, x, y):
    return Recorded("kernel", "neuronxcc.nki", body, (x,), (y,), ())


def loop(count):
    return Loop(count, [], "affine", HERE)


def load(tensor, number, path):
    result = whole(tile(path), of(path))
    return operation("load", (LOAD,), (result,), (in_hbm(tensor, number),)), result


def store(tensor, number, source):
    return operation("store", (STORE,), (in_hbm(tensor, number),), (source,))


def add(path, one, other):
    result = whole(tile(path), of(path))
    return operation(
        "add", either(isa.tensor_tensor, op="add"), (result,), (one, other)
    ), result


def index(each, factor=1):
    return Affine(0, ((each, factor),))


def same(recorded, result):
    given = np.arange(TILES * ROWS * COLUMNS, dtype=np.float32).reshape(
        TILES, ROWS, COLUMNS
    )
    written = interpret.run(recorded, given)[0]
    np.testing.assert_array_equal(interpret.run(result, given)[0], written)


def nested(x, y):
    """`for i in 4: for j in 3: y[3 i + j] = x[j] + x[j]`."""
    i, j = loop(4), loop(3)
    loading, loaded = load(x, index(j), (i, j))
    adding, added = add((i, j), loaded, loaded)
    j.body = [loading, adding, store(y, index(i, 3).plus(index(j)), added)]
    i.body = [j]
    return kernel([i], x, y)


def test_what_is_the_same_in_every_turn_is_done_once(x, y):
    recorded = nested(x, y)
    result, effect = hoist.apply(recorded, ROOMY)
    assert traffic(recorded.body).read_bytes == 12 * TILE_BYTES
    assert traffic(result.body).read_bytes == 3 * TILE_BYTES
    # The sum moves too: only the store is left in the loops.
    times = {op.name: turns(path) for op, path in operations(result.body)}
    assert times == {"load": 3, "add": 3, "store": 12}
    assert effect.sentence.startswith("HBM reads")
    same(recorded, result)


def test_a_plain_load_that_does_not_fit_stays_where_it_is(x, y):
    i, j = loop(4), loop(3)
    loading, loaded = load(x, index(j), (i, j))
    j.body = [loading, store(y, index(i, 3).plus(index(j)), loaded)]
    i.body = [j]
    recorded = kernel([i], x, y)
    narrow = Memory(2 * COLUMNS * 4, 16 * 1024)
    result, _ = hoist.apply(recorded, narrow)
    assert traffic(result.body).read_bytes == 12 * TILE_BYTES
    assert traffic(hoist.apply(recorded, ROOMY)[0].body).read_bytes == 3 * TILE_BYTES


def test_loops_that_load_the_same_share_it_and_unread_results_go(x, y):
    i, j = loop(3), loop(3)
    first, one = load(x, index(i), (i,))
    second, other = load(x, index(j), (j,))
    unread, _ = add((j,), other, other)
    i.body = [first, store(y, index(i), one)]
    j.body = [second, unread, store(y, index(j).plus(3), other)]
    recorded = kernel([i, j], x, y)
    result, _ = common.apply(recorded, ROOMY)
    assert traffic(result.body).read_bytes == 3 * TILE_BYTES
    assert [op.name for op, _ in operations(result.body)] == ["load", "store", "store"]
    same(recorded, result)


def test_a_tensor_that_is_written_in_between_is_loaded_again(x, y):
    first, one = load(y, Affine(0), ())
    second, other = load(y, Affine(0), ())
    body = [store(y, Affine(0), load(x, Affine(1), ())[1])]
    loading, loaded = load(x, Affine(1), ())
    body = [
        loading,
        store(y, Affine(0), loaded),
        first,
        store(y, Affine(0), one),
        second,
        store(y, Affine(2), other),
    ]
    result, _ = common.apply(kernel(body, x, y), ROOMY)
    assert len(operations(result.body)) == len(body)


def test_loops_with_too_much_between_them_become_one(x, y):
    i, j = loop(5), loop(5)
    loading, loaded = load(x, index(i), (i,))
    i.body = [loading]
    j.body = [store(y, index(j), whole(loaded.tensor, (index(j),)))]
    recorded = kernel([i, j], x, y)
    # Five tiles of 32 bytes a partition are more than half of 128.
    result, _ = fuse.apply(recorded, Memory(128, 16 * 1024))
    assert len(result.body) == 1
    same(recorded, result)
    backwards = whole(loaded.tensor, (index(j, -1).plus(4),))
    j.body = [store(y, index(j), backwards)]
    # The first turn of the second loop reads what the last of the first one writes.
    assert len(fuse.apply(recorded, Memory(128, 16 * 1024))[0].body) == 2


def backwards(x, y, between):
    """Five tiles are loaded and then stored from the last on, `between` of what was loaded."""
    i, j = loop(5), loop(5)
    loading, loaded = load(x, index(i), (i,))
    more, result = between(i, loaded)
    i.body = [loading, *more]
    at = (index(j, -1).plus(4),)
    j.body = [store(y, index(j), whole(result.tensor, at))]
    return kernel([i, j], x, y)


def test_what_does_not_fit_goes_through_hbm(x, y):
    def copied(i, loaded):
        result = whole(tile((i,)), of((i,)))
        way = Choice("vector", isa.tensor_copy, {})
        return [operation("copy", (way,), (result,), (loaded,))], result

    recorded = backwards(x, y, copied)
    narrow = Memory(96, 16 * 1024)
    assert narrow.excess(recorded.body) > 0
    result, effect = spill.apply(recorded, narrow, LOAD, STORE, COPIES)
    assert narrow.excess(result.body) <= 0
    # Each of five tiles is written once more and read once more.
    assert effect.spilled_bytes == 2 * 5 * TILE_BYTES
    same(recorded, result)


def test_what_was_loaded_and_does_not_fit_is_loaded_where_it_is_read(x, y):
    recorded = backwards(x, y, lambda _, loaded: ([], loaded))
    narrow = Memory(96, 16 * 1024)
    assert narrow.excess(recorded.body) > 0
    result, effect = spill.apply(recorded, narrow, LOAD, STORE, COPIES)
    assert narrow.excess(result.body) <= 0
    # Read once, it moves no more than before; nothing else of HBM is touched.
    assert effect.spilled_bytes == 0
    names = [each.name for each, _ in operations(result.body)]
    assert names == [spill.RELOAD, "store"]
    same(recorded, result)


MULTIPLY = (Choice("tensor", isa.nc_matmul, {}),)


def products_kept_for_later(x, y, sums):
    """Four products of `sums` parts each, kept in PSUM, and read by a later loop in other order."""
    i, j = loop(4), loop(4)
    part = loop(sums)
    first, one = load(x, index(i), (i,))
    second, other = load(x, index(part), (i, part))
    square = (COLUMNS, COLUMNS)
    kept = tile((i,), "psum", square)
    adds = index(part) if sums > 1 else Affine(0)
    product = operation(
        "multiply", MULTIPLY, (whole(kept, of((i,))),), (one, other, adds)
    )
    part.body = [second, product]
    i.body = [first, part]
    copy = whole(tile((j,), "sbuf", square), of((j,)))
    read = whole(kept, (index(j, -1).plus(3),))
    # Of the product's eight rows the kernel stores four, on a tile's four partitions.
    top = dataclasses.replace(copy, partitions=ROWS)
    j.body = [
        operation("copy", (COPIES[0],), (copy,), (read,)),
        store(y, index(j), top),
    ]
    return kernel([i, j], x, y)


@pytest.mark.parametrize("sums", [1, 3])
def test_what_does_not_fit_in_psum_is_read_in_sbuf(x, y, sums):
    recorded = products_kept_for_later(x, y, sums)
    one = 2048 if sums > 1 else 4 * COLUMNS
    narrow = Memory(192 * 1024, one)
    assert narrow.excess(recorded.body, "psum") == 3 * one
    result, effect = spill.apply(recorded, narrow, LOAD, STORE, COPIES)
    assert narrow.excess(result.body, "psum") == 0
    times = {op.name: turns(path) for op, path in operations(result.body)}
    # Once for each product, however many parts are added up in it.
    assert times["evacuate"] == 4
    assert (effect.sentence, effect.spilled_bytes) == ("from PSUM to SBUF", 0)
    same(recorded, result)


def test_what_fits_in_neither_memory_goes_from_psum_to_hbm(x, y):
    recorded = products_kept_for_later(x, y, 1)
    narrow = Memory(4 * 4 * COLUMNS, 4 * COLUMNS)
    result, effect = spill.apply(recorded, narrow, LOAD, STORE, COPIES)
    assert narrow.excess(result.body, "psum") <= 0
    assert narrow.excess(result.body) <= 0
    # Four products of 8 by 8 are written and read once.
    assert effect.spilled_bytes == 2 * 4 * 4 * COLUMNS**2
    same(recorded, result)


def test_what_fits_in_psum_stays_there(x, y):
    recorded = products_kept_for_later(x, y, 1)
    result, effect = spill.apply(recorded, ROOMY, LOAD, STORE, COPIES)
    assert effect.sentence == "all fits"
    assert len(operations(result.body)) == len(operations(recorded.body))


def test_a_turn_reads_in_psum_what_it_wrote_where_that_fits(x, y):
    i, j, k = loop(4), loop(3), loop(3)
    later, again = loop(4), loop(3)
    loading, loaded = load(x, index(j), (i, j))
    kept = tile((i, j), "psum")
    copy = whole(tile((i, k)), of((i, k)))
    j.body = [
        loading,
        operation("c", (COPIES[0],), (whole(kept, of((i, j))),), (loaded,)),
    ]
    k.body = [
        operation("near", (COPIES[0],), (copy,), (whole(kept, of((i, k))),)),
        store(y, index(k), copy),
    ]
    i.body = [j, k]
    last = whole(tile((later, again)), of((later, again)))
    again.body = [
        operation("far", (COPIES[0],), (last,), (whole(kept, of((later, again))),)),
        store(y, index(again, 1).plus(index(later, 3)), last),
    ]
    later.body = [again]
    recorded = kernel([i, later], x, y)
    # A tile is 32 bytes a partition, and three of them take what four do.
    for nbytes, near in ((4 * 32, "psum"), (32, "sbuf")):
        narrow = Memory(192 * 1024, nbytes)
        result, _ = spill.apply(recorded, narrow, LOAD, STORE, COPIES)
        spaces = {op.name: op.accesses[-1].space for op, _ in operations(result.body)}
        assert (spaces["near"], spaces["far"]) == (near, "sbuf")
        assert narrow.excess(result.body, "psum") <= 0
        same(recorded, result)


def test_open_engines_are_spread(x, y):
    wide = whole(tile((), shape=(ROWS, 512)))
    zero = operation(
        "memset",
        (Choice("vector", isa.memset, {"value": 0.0}),),
        (wide,),
        (),
    )
    ways = (
        Choice("vector", isa.tensor_copy, {"engine": "vector"}),
        Choice("scalar", isa.activation, {"op": "copy"}),
    )
    copies = [
        operation("copy", ways, (whole(tile((), shape=(ROWS, 512))),), (wide,))
        for _ in range(6)
    ]
    result, _ = engines.apply(kernel([zero, *copies], x, y), COSTS)
    chosen = [op.choice.engine for op, _ in operations(result.body)]
    assert chosen.count("scalar") == 4
    assert [each.chosen for each in copies] == [0] * 6


def test_looking_ahead_hides_the_wait_for_results():
    # A product, its copy, and a second product of the copy: 100, 60 and 100 ticks.
    spent = [
        Spent("tensor", 100, 300),
        Spent("vector", 60, 200),
        Spent("tensor", 100, 300),
    ]
    limits = [Constraint(0, 1, 0, 300), Constraint(1, 2, 0, 200)]
    assert program_order(spent, limits, 8).ticks == 600
    found = order(spent, limits, 8, 2, 64)
    assert found is not None and found.stages > 1
    # The Tensor Engine is busy for 200 of them.
    assert 200 <= found.ticks <= 300
    # A scheduler that sees one operation at a time has nothing else to start.
    blind = order(spent, limits, 8, 2, 1)
    assert blind is not None and blind.ticks == 600


def test_turns_that_engines_begin_in_pairs_follow_each_other_evenly():
    """A product's tile in two buffers: engines that take what is oldest begin two turns at once.

    They then wait for both, 700 ticks for two turns. One turn after the other, the second product
    a turn late, the Tensor Engine never waits.
    """
    spent = [
        Spent("tensor", 50, 150),
        Spent("scalar", 50, 150),
        Spent("tensor", 200, 200),
    ]
    limits = [
        Constraint(0, 1, 0, 150),
        Constraint(1, 2, 0, 150),
        Constraint(1, 0, 2, 150),
    ]
    found = order(spent, limits, 8, 2, 64)
    assert found is not None and found.ticks == 50 + 200


def test_a_shared_port_orders_the_engines_only_while_both_want_it():
    # Scalar and Vector each take 100 with the port and 100 without: 200 a turn, not 300.
    spent = [
        Spent("scalar", 100, 100, ("psum",)),
        Spent("scalar", 100, 100),
        Spent("vector", 100, 100, ("psum",)),
        Spent("vector", 100, 100),
    ]
    found = order(spent, [], 8, 2, 64)
    assert found is not None and found.ticks == 200


def test_sums_in_a_bank_keep_their_order_and_do_not_wait_for_each_other():
    one = whole(tile(()))
    bank = whole(tile((), "psum", (COLUMNS, COLUMNS)))
    result = whole(tile((), "sbuf", (COLUMNS, COLUMNS)))
    multiply = (Choice("tensor", isa.nc_matmul, {}),)
    sums = [
        operation("multiply", multiply, (bank,), (one, one, Affine(adds)))
        for adds in (0, 1)
    ]
    copy = operation(
        "copy", (Choice("vector", isa.tensor_copy, {}),), (result,), (bank,)
    )
    body = [*sums, copy]
    spent = [COSTS.of(each) for each in body]
    found = {
        (each.before, each.after, each.turns): each.ticks
        for each in side_by_side.constraints(body, spent, loop(4), {}, {})
    }
    assert found[0, 1, 0] == 0
    assert found[1, 2, 0] == spent[1].latency > spent[1].busy


def turning(x, y, i):
    """A loop in which each operation waits for the one before."""
    loading, loaded = load(x, index(i), (i,))
    turned = whole(tile((i,), "psum", (COLUMNS, ROWS)), of((i,)))
    back = whole(tile((i,), "sbuf", (COLUMNS, ROWS)), of((i,)))
    again = whole(tile((i,), "psum"), of((i,)))
    result = whole(tile((i,)), of((i,)))
    way = Choice
    i.body = [
        loading,
        operation("t", (way("tensor", isa.nc_transpose, {}),), (turned,), (loaded,)),
        operation("c", (way("vector", isa.tensor_copy, {}),), (back,), (turned,)),
        operation("t", (way("tensor", isa.nc_transpose, {}),), (again,), (back,)),
        operation("c", (way("vector", isa.tensor_copy, {}),), (result,), (again,)),
        store(y, index(i), result),
    ]
    return kernel([i], x, y)


def test_turns_side_by_side_run_as_often_and_faster(x, y):
    recorded = turning(x, y, loop(12))
    found, effect = side_by_side.apply(recorded, ROOMY, COSTS)
    assert "times as fast" in effect.sentence
    done = {}
    for op, path in operations(found.body):
        done[op.name] = done.get(op.name, 0) + turns(path)
    assert done == {"load": 12, "t": 24, "c": 24, "store": 12}
    same(recorded, found)


def test_a_loop_that_reloads_what_was_spilled_keeps_its_order(x, y):
    i = loop(12)
    recorded = turning(x, y, i)
    loading, *rest = i.body
    i.body = [dataclasses.replace(loading, name=spill.RELOAD), *rest]
    _, effect = side_by_side.apply(recorded, ROOMY, COSTS)
    assert effect.sentence == "no loop gains"


def test_rings_take_the_room_that_there_is(x, y):
    recorded = nested(x, y)
    result, _ = depth.apply(recorded, Memory(5 * COLUMNS * 4, 16 * 1024))
    alive = Alive(recorded.body)
    assert alive.room(result.depths).sbuf_bytes == 5 * COLUMNS * 4
    # The passes' count is the lowering's own.
    for depths in ({}, result.depths):
        expected = room(recorded.body, scopes(recorded.body), depths, 1)
        assert alive.room(depths) == expected


def test_passes_are_switched_off_by_name(x, y):
    recorded = nested(x, y)
    result, effects = compiled(recorded, TRN1.at(), skip=("hoisting", "reloads"))
    assert traffic(result.body).read_bytes == 12 * TILE_BYTES
    assert "hoisting" not in [effect.name for effect in effects]
    same(recorded, compiled(recorded, TRN1.at())[0])
    with pytest.raises(EmulationError, match="pass is 'magic', must be one of fusing"):
        compiled(recorded, TRN1.at(), skip=("magic",))
