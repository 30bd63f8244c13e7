"""Instructions on parts of their operands: values as NumPy's, costs as of tiles of their shape."""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from emu import Cost, Program, ds, instruction, old, strict_jit
from emu.boxes import Box, Old, Pattern, boxed
from emu.checks import rules
from emu.datasheet import Device
from emu.errors import LimitExceeded, UnwrittenTile, WrongShape, WrongSpace
from emu.instruction import Instruction, Operand, registered
from emu.regions import Bitcast
from emu.tracing import jaxpr as jx
from emu.trainium import TRN2, dma_load, dma_store, hbm, isa, sbuf
from emu.trainium.engines.dma import Descriptors, dma_cost, pieces
from emu.trainium.engines.memory import dma_load_tiles

F32 = np.dtype(np.float32)


# --- values ---


@instruction(
    "boxes.plus",
    cost=lambda device, dst, a, b: Cost(engine="vector", busy_cycles=a.size),
    reads=(None, None),
    writes="sbuf",
)
def plus(dst, a, b):
    return a + b


@instruction(
    "boxes.moved",
    cost=lambda device, dst, a: Cost(engine="vector", busy_cycles=a.size),
    reads=(None,),
    writes="sbuf",
)
def moved(dst, a):
    return a


def random_box(rng, repeats):
    """A box of a random buffer of 1 to 4 dimensions, and where it begins."""
    rank = int(rng.integers(1, 5))
    view = rng.integers(1, 7, rank)
    sizes = [int(rng.integers(1, whole + 1)) for whole in view]
    steps = [int(rng.integers(1, 4)) for _ in view]
    order = rng.permutation(rank)
    taken = [-(-size // step) for size, step in zip(sizes, steps)]
    repeat = [1] * rank
    if repeats:
        repeat = [int(rng.integers(1, 4)) if taken[dim] == 1 else 1 for dim in order]
    flat = (math.prod(taken) * math.prod(repeat),)
    box = Box(
        tuple(map(int, view)),
        tuple(sizes),
        tuple(steps),
        tuple(map(int, order)),
        tuple(repeat),
        flat,
    )
    starts = [int(rng.integers(0, view[d] - sizes[d] + 1)) for d in box.moving]
    return box, starts


def elements(box, starts):
    """Flat places of a box's elements in its buffer, by NumPy."""
    places = np.arange(math.prod(box.view)).reshape(box.view)
    first = dict(zip(box.moving, starts))
    for dim, (size, step) in enumerate(zip(box.sizes, box.steps)):
        chosen = np.arange(first.get(dim, 0), first.get(dim, 0) + size)[::step]
        places = places.take(chosen, dim)
    places = places.transpose(box.order)
    for dim, times in enumerate(box.repeat):
        places = places.repeat(times, dim)
    return places.reshape(box.shape)


@pytest.mark.parametrize("seed", range(40))
def test_random_boxes_are_read_and_written_as_numpy_does(seed):
    rng = np.random.default_rng(seed)
    (target, into), (source, out) = random_box(rng, False), random_box(rng, True)
    places, read = elements(target, into), elements(source, out)
    # The sum needs as many elements of each: what both begin with.
    number = min(places.size, read.size)
    target = Box(target.view, target.sizes, target.steps, target.order)
    dst = rng.standard_normal(math.prod(target.view)).astype(np.float32)
    src = rng.standard_normal(math.prod(source.view)).astype(np.float32)
    filled = rng.standard_normal(target.shape).astype(np.float32)
    fetch = boxed(moved, (None,), (source,))
    found = strict_jit(fetch)(
        jnp.zeros(read.shape, jnp.float32), jnp.asarray(src), *map(jnp.int32, out)
    )
    np.testing.assert_array_equal(found, src[read])
    put = boxed(plus, (target,), (Old(), None))
    wanted = dst.copy()
    wanted[places.reshape(-1)] += filled.reshape(-1)
    got = strict_jit(put)(jnp.asarray(dst), jnp.asarray(filled), *map(jnp.int32, into))
    np.testing.assert_array_equal(got, wanted)
    assert number


@pytest.mark.parametrize("seed", range(10))
def test_random_patterns(seed):
    rng = np.random.default_rng(seed)
    buffer = rng.standard_normal((8, 3, 60)).astype(np.float32)
    least = -6 if seed % 2 else 0
    axes = tuple(
        (int(rng.integers(least, 12)), int(rng.integers(1, 5))) for _ in range(3)
    )
    pattern = Pattern(axes, partitions=3, partition_step=2)
    # As far as three axes of four elements, six apart, go back.
    row, offset = int(rng.integers(0, 4)), int(rng.integers(-9 * least, 20 - 9 * least))
    flat = buffer.reshape(8, -1)[row : row + 5 : 2]
    i, j, k = np.ix_(*[np.arange(count) for _, count in axes])
    places = offset + i * axes[0][0] + j * axes[1][0] + k * axes[2][0]
    fetch = boxed(moved, (None,), (pattern,))
    dst = jnp.zeros(pattern.shape, jnp.float32)
    found = strict_jit(fetch)(dst, jnp.asarray(buffer), row, offset)
    np.testing.assert_array_equal(found, flat[:, places])
    block = rng.standard_normal(pattern.shape).astype(np.float32)
    put = boxed(moved, (pattern,), (None,))
    wanted = buffer.copy().reshape(8, -1)
    wanted[row : row + 5 : 2][:, places] = block
    got = strict_jit(put)(jnp.asarray(buffer), jnp.asarray(block), row, offset)
    np.testing.assert_array_equal(got.reshape(8, -1), wanted)


def test_of_what_is_written_to_one_place_the_last_stays():
    box = Box((3, 1, 2), (3, 1, 2), repeat=(1, 4, 1))
    block = np.arange(24.0, dtype=np.float32).reshape(3, 4, 2)
    put = boxed(moved, (box,), (None,))
    got = strict_jit(put)(jnp.zeros((3, 2)), jnp.asarray(block))
    np.testing.assert_array_equal(got, block[:, -1])


@pytest.mark.parametrize("held, taken", [("u4", "u1"), ("u1", "u4"), ("f4", "u2")])
def test_bytes_are_read_and_written_in_another_format_as_numpy_does(held, taken):
    held, taken = np.dtype(held), np.dtype(taken)
    rng = np.random.default_rng(held.itemsize)
    buffer = rng.integers(0, 256, (6, 48), np.uint8).view(held)
    # Every second one of 4 elements in partitions 1 to 4, from the second on.
    columns = 48 // taken.itemsize
    part = Box((6, columns), (4, 7), steps=(1, 2))
    cast = Bitcast(part, taken, held, 6)
    chosen = np.s_[1:5, 1:8:2]
    fetch = boxed(moved, (None,), (cast,))
    found = strict_jit(fetch)(jnp.zeros((4, 4), taken), jnp.asarray(buffer), 1, 1)
    np.testing.assert_array_equal(found, buffer.view(taken)[chosen])
    block = rng.integers(0, 256, (4, 4), np.uint8).astype(taken)
    wanted = buffer.copy()
    wanted.view(taken)[chosen] = block
    put = boxed(moved, (cast,), (None,))
    got = strict_jit(put)(jnp.asarray(buffer), jnp.asarray(block), 1, 1)
    np.testing.assert_array_equal(np.asarray(got).view(np.uint8), wanted.view(np.uint8))


def test_bytes_in_another_format_cost_what_a_tile_of_it_costs():
    def cost(source, shape, dtype):
        inst = boxed(isa.tensor_copy, (None,), (source,))
        tiles = [
            Operand((128, 64), np.dtype(np.uint8), "sbuf"),
            Operand(shape, dtype, "sbuf"),
        ]
        return inst.cost(TRN2.at(), *tiles)

    bytes_, words = np.dtype(np.uint8), np.dtype(np.uint32)
    cast = Bitcast(Box((128, 64), (128, 64)), bytes_, words, 128)
    assert cost(cast, (128, 16), words).busy_cycles == (
        cost(None, (128, 64), bytes_).busy_cycles
    )


INDICES = {
    "a place": (slice(None), 2),
    "the last": (slice(None), -1),
    "a slice": (slice(None), slice(1, 3), slice(0, 8)),
    "steps": (slice(None), slice(None, None, 2), slice(1, 16, 5)),
    "dots": (Ellipsis, 3),
    "a new axis": (slice(None), None, 1),
    "partitions": (slice(2, 4), 1, slice(4, 9)),
}


@pytest.mark.parametrize("name", INDICES)
def test_an_index_is_numpys(name):
    index = INDICES[name]
    buffer = np.arange(4.0 * 4 * 16, dtype=np.float32).reshape(4, 4, 16)
    wanted = buffer.copy()
    block = -np.arange(wanted[index].size, dtype=np.float32)
    wanted[index] = block.reshape(wanted[index].shape)
    source = jnp.asarray(block.reshape(wanted[index].shape))
    got = moved.at[index](jnp.asarray(buffer), source)
    np.testing.assert_array_equal(got, wanted)


def test_a_range_is_a_dynamic_slice():
    buffer = jnp.zeros((4, 3, 16))

    @strict_jit
    def write(i, j):
        return moved.at[:, i, ds(j, 4)](buffer, jnp.ones((4, 4)))

    wanted = np.zeros((4, 3, 16))
    wanted[:, 2, 5:9] = 1
    np.testing.assert_array_equal(write(2, 5), wanted)
    every = moved.at[:, 1, ds(3, 8, 4)](buffer, jnp.ones((4, 2)))
    wanted = np.zeros((4, 3, 16))
    wanted[:, 1, 3:11:4] = 1
    np.testing.assert_array_equal(every, wanted)


def test_results_are_rounded_in_the_part_and_the_rest_is_kept():
    """The rest of the buffer, a NaN in it too, is what it was, bit for bit."""
    buffer = jnp.full((4, 2, 8), jnp.nan)
    x = jnp.full((4, 8), 1 + 2.0**-12)
    product = isa.tensor_tensor.at[:, 0](buffer, x, x, op="multiply")
    got = strict_jit(lambda p: p[:, 0] - 1)(product)
    np.testing.assert_array_equal(got, np.full((4, 8), 2.0**-11))
    assert np.isnan(product[:, 1]).all()


def test_under_vmap_and_scan():
    rng = np.random.default_rng(1)
    source = rng.standard_normal((1, 6, 4, 8)).astype(np.float32)

    def one(x):
        def turn(out, i):
            return moved.at[:, i % 3, ds(2 * i, 8)](out, x[i]), None

        out, _ = lax.scan(turn, jnp.zeros((4, 3, 18)), jnp.arange(6))
        return out

    wanted = np.zeros((4, 3, 18), np.float32)
    for i in range(6):
        wanted[:, i % 3, 2 * i : 2 * i + 8] = source[0, i]
    np.testing.assert_array_equal(jax.jit(one)(source[0]), wanted)
    batched = jax.vmap(one)(jnp.asarray(source))
    np.testing.assert_array_equal(batched[0], wanted)


def written_and_read(turns):
    """Writes a part of 1 MB of a large buffer, reads it and another one, adds to it."""

    def kernel(x):
        shape = (128, turns, 2048)
        part = Box(shape, (128, 1, 2048), shape=(128, 2048))
        read = boxed(moved, (None,), (part,))
        add = boxed(plus, (part,), (part, None))
        tile = dma_load(sbuf(128, 2048), x)

        def turn(large, i):
            large = moved.at[:, i](large, tile)
            same = read(sbuf(128, 2048), large, i)
            first = read(sbuf(128, 2048), large, 0)
            both = plus(sbuf(128, 2048), same, first)
            return add(large, large, both, i, i), None

        large = isa.memset(sbuf(*shape), value=0.0)
        large, _ = lax.scan(turn, large, jnp.arange(turns))
        return dma_store(large)

    return kernel


@pytest.mark.parametrize("cores", [1, 2])
def test_parts_of_several_cores(cores):
    x = np.random.default_rng(0).standard_normal((cores, 128, 2048)).astype(np.float32)
    both = Program(written_and_read(3), {"core": cores}, (("core",),))
    # The first part is read in its own turn before it is added to, by others when it is done.
    first = x + (x + x)
    later = x + (x + first)
    wanted = np.stack([first, later, later], axis=2)
    np.testing.assert_array_equal(both.run(x), wanted)


def test_no_buffer_is_copied_to_write_and_read_parts_of_it():
    one = Program(written_and_read(64), {"core": 1}, (("core",),))
    x = jax.ShapeDtypeStruct((1, 128, 2048), jnp.float32)
    text = one.compiled.lower(x).compile().as_text()
    of_all = [line for line in text.splitlines() if "= f32[1,128,64,2048]" in line]
    assert any("dynamic-update-slice(" in line for line in of_all)
    for word in (" copy(", " gather(", " scatter("):
        assert not [line for line in of_all if word in line]


def test_under_shard_map_places_may_differ_between_cores():
    def kernel(x):
        tile = dma_load(sbuf(4, 8), x)
        out = isa.memset(sbuf(4, 3, 8), value=0.0)
        return dma_store(moved.at[:, lax.axis_index("core")](out, tile))

    x = np.random.default_rng(1).standard_normal((2, 4, 8)).astype(np.float32)
    both = Program(kernel, {"core": 2}, (("core",),))
    wanted = np.zeros((2, 4, 3, 8), np.float32)
    wanted[0, :, 0], wanted[1, :, 1] = x
    np.testing.assert_array_equal(both.run(x), wanted)
    np.testing.assert_array_equal(both.sharded(check_vma=True)(x), wanted)


def test_gradients_pass_through():
    def loss(x):
        out = isa.tensor_tensor.at[:, 1](jnp.zeros((4, 2, 3)), x, x, op="multiply")
        return out.sum()

    np.testing.assert_allclose(jax.grad(loss)(jnp.full((4, 3), 3.0)), 6.0)


# --- costs ---


def cost(inst, *operands, device: Device = TRN2.at(), **params):
    return inst.cost(device, *operands, **params)


def seen(shape, space, dtype=F32, run=None):
    return Operand(tuple(shape), np.dtype(dtype), space, run=run)


REGISTER = Operand((), np.dtype(np.int32), "register")
PLACE = Box((128, 8, 512), (128, 1, 512), shape=(128, 512))


def test_a_part_costs_what_a_tile_of_its_shape_does():
    add = boxed(isa.tensor_tensor, (PLACE,), (None, PLACE))
    tile, wide = seen((128, 512), "sbuf"), seen((128, 8, 512), "sbuf")
    got = cost(add, wide, tile, wide, REGISTER, REGISTER, op="add")
    whole = cost(isa.tensor_tensor, tile, tile, tile, op="add")
    # What is published depends on shapes alone, and all bytes are those of the parts.
    assert got == whole
    nbytes = 128 * 512 * 4
    assert got.moved_bytes == {"sbuf_read": 2 * nbytes, "sbuf_write": nbytes}


def test_the_old_content_is_read_as_a_source():
    add = boxed(isa.tensor_tensor, (PLACE,), (Old(), None))
    bank, wide = seen((128, 512), "psum"), seen((128, 8, 512), "sbuf")
    got = cost(add, wide, bank, REGISTER, op="add")
    nbytes = 128 * 512 * 4
    assert got.moved_bytes == {
        "sbuf_read": nbytes,
        "psum_read": nbytes,
        "sbuf_write": nbytes,
    }
    tile = seen((128, 512), "sbuf")
    whole = cost(isa.tensor_tensor, tile, tile, bank, op="add")
    assert got.busy_cycles == whole.busy_cycles


def test_operands_keep_their_lead():
    tile, bank = seen((128, 128), "sbuf"), seen((128, 128), "psum")
    columns = Box((128, 4, 128), (128, 1, 128), shape=(128, 128))
    product = boxed(isa.nc_matmul, (columns,), (columns, None, None))
    wide, banks = seen((128, 512), "sbuf"), seen((128, 4, 128), "psum")
    got = cost(product, banks, wide, tile, REGISTER, REGISTER, REGISTER)
    whole = cost(isa.nc_matmul, bank, tile, tile, REGISTER)
    assert got.lead_cycles and whole.moved_bytes is None
    assert dataclasses.replace(got, moved_bytes=None) == whole
    nbytes = 128 * 128 * 4
    # A bank that may be added to is read.
    assert got.moved_bytes == {
        "sbuf_read": 2 * nbytes,
        "psum_read": nbytes,
        "psum_write": nbytes,
    }


RUNS = {
    "rows of columns": (Box((4096, 2048), (128, 512)), False, 512),
    "whole rows": (Box((4096, 2048), (128, 2048)), False, 128 * 2048),
    "one row of a tile": (PLACE, True, 512),
    "some of each row": (Box((128, 8, 512), (128, 4, 64)), True, 64),
    "rows behind each other": (Box((128, 8, 512), (128, 4, 512)), True, 2048),
    "a column": (Box((128, 512, 4), (128, 512, 1), shape=(128, 512)), True, 1),
    "every second": (Box((128, 512), (128, 512), steps=(1, 2)), True, 1),
    "turned": (Box((64, 512), (64, 512), order=(1, 0)), False, 1),
    "repeated": (
        Box((128, 1, 512), (128, 1, 512), repeat=(1, 4, 1), shape=(128, 2048)),
        True,
        512,
    ),
    "windows": (Pattern(((1, 6), (1, 3)), partitions=128), True, 3),
    "all": (Box((128, 512), (128, 512)), False, 128 * 512),
}


@pytest.mark.parametrize("name", RUNS)
def test_elements_that_lie_one_behind_the_other(name):
    region, partitioned, run = RUNS[name]
    assert region.run(partitioned) == run


def moving(name, queue, number, nbytes=128 * 512 * 4):
    """The cost of as many equal descriptors from or to 128 partitions."""
    what = Descriptors(
        number=number, nbytes=nbytes / number, partitions=128, hbm_bytes=nbytes
    )
    return dma_cost(TRN2.at(), name, queue, what)


TABLE = seen((4096, 2048), "hbm")
TILE, WIDE = seen((128, 512), "sbuf"), seen((128, 8, 512), "sbuf")
FOURS = Box((8192, 128, 8), (512, 128, 1), order=(1, 0, 2), shape=(128, 512))
# name: (instruction, part written, part read, operands, contiguous pieces, bytes)
CUTS = {
    "into a place": (
        dma_load,
        PLACE,
        None,
        (WIDE, seen((128, 512), "hbm")),
        128,
        2**18,
    ),
    "columns": (
        dma_load,
        None,
        Box((4096, 2048), (128, 512)),
        (TILE, TABLE),
        128,
        2**18,
    ),
    "by element": (dma_load, None, FOURS, (TILE, TABLE), 2**16, 2**18),
    "some of each row": (
        dma_load,
        Box((128, 8, 512), (128, 8, 64)),
        None,
        (WIDE, seen((128, 8, 64), "hbm")),
        1024,
        2**18,
    ),
    "into a slice": (
        dma_store,
        Box((8, 128, 512), (1, 128, 512), shape=(128, 512)),
        None,
        (seen((8, 128, 512), "hbm"), TILE),
        128,
        2**18,
    ),
    "into pieces of 128": (
        dma_store,
        Box((128, 4, 2, 128), (128, 4, 1, 128), shape=(128, 512)),
        None,
        (seen((128, 1024), "hbm"), TILE),
        512,
        2**18,
    ),
    "tiles": (
        dma_load_tiles,
        None,
        Box((4, 128, 512), (4, 128, 64)),
        (seen((128, 4, 64), "sbuf"), seen((4, 128, 512), "hbm")),
        512,
        2**17,
    ),
    "pieces of tiles": (
        dma_load_tiles,
        None,
        Box((4, 128, 2, 64), (4, 128, 2, 32), shape=(4, 128, 64)),
        (seen((128, 4, 64), "sbuf"), seen((4, 128, 128), "hbm")),
        1024,
        2**17,
    ),
}


@pytest.mark.parametrize("name", CUTS)
def test_a_copy_is_cut_where_either_side_is(name):
    inst, write, read_, operands, number, nbytes = CUTS[name]
    part = boxed(inst, (write,), (read_,))
    registers = [REGISTER] * (len(part.reads) - 1)
    queue = "store_queue" if inst is dma_store else "load_queue"
    got = cost(part, *operands, *registers)
    wanted = moving(inst.name, queue, number, nbytes)
    assert got.busy_cycles == wanted.busy_cycles
    assert got.latency_cycles == wanted.latency_cycles
    spaces = (
        ("sbuf_read", "hbm_write") if inst is dma_store else ("hbm_read", "sbuf_write")
    )
    assert got.moved_bytes == dict.fromkeys(spaces, nbytes)


def test_cuts_on_both_sides():
    """Of 192 elements cut at each 64 and each 96, the end is the only cut that they share."""
    rows = seen((1, 3, 64), "sbuf", run=64)
    assert pieces(rows, seen((2, 96), "hbm", run=96)) == 3 + 2 - 1
    assert pieces(rows, seen((6, 32), "hbm", run=32)) == 6
    assert pieces(rows, seen((192,), "hbm", run=192)) == pieces(rows) == 3


# --- the clock ---


def program(kernel):
    return Program(kernel, {"core": 1}, ((),))


def read(kernel, *shapes, device=TRN2.at(), **options):
    avals = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes]
    return program(kernel).read(device, *avals, **options)


def filled(x):
    tile = dma_load(sbuf(128, 512), x)
    out = sbuf(128, 4, 512)
    for i in range(4):
        out = isa.tensor_copy.at[:, i](out, tile)
    return dma_store(out)


def test_a_program_is_run_and_read():
    x = np.random.default_rng(0).standard_normal((128, 512)).astype(np.float32)
    (found,) = program(filled).run(jnp.asarray(x))
    np.testing.assert_array_equal(found, np.stack([x] * 4, axis=1))
    clock = read(filled, (128, 512), trace_core=(0,))
    copies = [event for event in clock.events if event.name == "trn.tensor_copy"]
    # Partial writes do not wait for each other: each starts when the engine is free.
    assert [event.start for event in copies[1:]] == [e.end for e in copies[:-1]]
    tile = seen((128, 512), "sbuf")
    whole = cost(isa.tensor_copy, tile, tile)
    busy = whole.busy_cycles * TRN2.at().ticks_per_cycle["vector"]
    assert {event.end - event.start for event in copies} == {math.ceil(busy)}
    assert clock.tally.by("count")["trn.tensor_copy"] == 4


def test_a_write_to_all_of_a_tile_is_no_partial_one():
    everything = Box((128, 4, 512), (128, 4, 512), shape=(128, 2048))
    assert not boxed(isa.tensor_copy, (everything,), (None,)).partial
    assert boxed(isa.tensor_copy, (PLACE,), (None,)).partial


def test_a_partial_write_waits_for_readers():
    def kernel(x):
        tile = dma_load(sbuf(128, 512), x)
        both = isa.tensor_copy.at[:, 0](sbuf(128, 2, 512), tile)
        both = isa.tensor_copy.at[:, 1](both, tile)
        # A slow reader on another engine, then a write to a part.
        total = isa.tensor_copy(sbuf(128, 2, 512), both, engine="gpsimd")
        both = isa.tensor_copy.at[:, 0](both, tile)
        return dma_store(total), dma_store(both)

    clock = read(kernel, (128, 512), trace_core=(0,))
    copies = [event for event in clock.events if event.name == "trn.tensor_copy"]
    assert copies[3].start >= copies[2].end


def accumulated(loops, inner):
    def kernel(x):
        tile = dma_load(sbuf(128, 512), x)
        out = isa.memset(sbuf(128, 4, 512), value=0.0)

        def turn(out, i):
            for _ in range(inner):
                out = isa.tensor_tensor.at[:, i % 4](out, old, tile, op="add")
            return out, None

        out, _ = lax.scan(turn, out, jnp.arange(loops))
        return dma_store(out)

    return kernel


def test_the_old_content_is_added_to():
    x = np.random.default_rng(0).standard_normal((128, 512)).astype(np.float32)
    (found,) = program(accumulated(6, 1)).run(jnp.asarray(x))
    wanted = np.stack([x + x, x + x, x, x], axis=1)
    np.testing.assert_array_equal(found, wanted)


def test_jumped_as_stepped():
    kernel = accumulated(500, 2)
    jumped = read(kernel, (128, 512))
    stepped = read(kernel, (128, 512), jump=False)
    assert jumped.end_ticks == stepped.end_ticks
    assert jumped.tally.sums == stepped.tally.sums
    assert jumped.stepped < stepped.stepped / 4


def test_parameters_are_changed_by_the_instructions_name():
    def kernel(x):
        tile = dma_load.at[:, 0](sbuf(128, 2, 512), x)
        return dma_store(dma_load.at[:, 1](tile, x))

    def second_queue(eqn):
        named = eqn.primitive.name == "trn.dma_load"
        return {"queue": "load_queue2"} if named else {}

    avals = jax.ShapeDtypeStruct((128, 512), jnp.float32)
    clock = program(kernel).read(TRN2.at(), avals, change=second_queue, trace_core=(0,))
    queues = [event.engine for event in clock.events if event.name == "trn.dma_load"]
    assert queues == ["load_queue2"] * 2


def test_the_exact_reading():
    x = np.random.default_rng(0).standard_normal((128, 512))

    def kernel(x):
        tile = dma_load(sbuf(128, 512, dtype="bfloat16"), x)
        both = isa.tensor_tensor.at[:, 1](
            isa.memset(sbuf(128, 2, 512), value=0.5), tile, tile, op="multiply"
        )
        return dma_store.at[0](hbm(2, 128, 2, 512), both)

    (found,) = program(kernel).exact(jnp.asarray(x, jnp.bfloat16))
    wide = np.asarray(jnp.asarray(x, jnp.bfloat16)).astype(np.float64)
    assert found.dtype == np.float64
    np.testing.assert_allclose(found[0, :, 1], wide * wide, rtol=1e-15)


def test_they_are_in_no_list_of_instructions():
    boxed(isa.tensor_copy, (PLACE,), (None,))
    names = [inst.name for inst in registered()]
    assert len(names) == len(set(names))
    assert boxed(isa.tensor_copy, (PLACE,), (None,)) is boxed(
        isa.tensor_copy, (PLACE,), (None,)
    )


# --- what is refused ---


def load(x):
    return dma_load(sbuf(*x.shape), x)


REFUSED = {
    "a start between quadrants": (
        lambda x: dma_store(
            isa.tensor_copy.at[ds(16, 32)](
                isa.memset(sbuf(128, 512), value=0.0), load(x[:32])
            )
        ),
        LimitExceeded,
        "operand 0 is 32 partitions from partition 16",
    ),
    "every second partition": (
        lambda x: dma_store(isa.tensor_copy.at[0:64:2](load(x), load(x[:32]))),
        LimitExceeded,
        "operand 0 is every 2. partition",
    ),
    "partitions that move": (
        lambda x: dma_store(
            boxed(
                isa.tensor_copy,
                (None,),
                (Box((128, 4, 128), (128, 1, 128), order=(2, 1, 0), shape=(128, 128)),),
            )(sbuf(128, 128), load(x), 0)
        ),
        LimitExceeded,
        "operand 1, in sbuf, keeps its partitions",
    ),
    "beyond the end": (
        lambda x: dma_store(isa.tensor_copy.at[:, 2](sbuf(128, 2, 512), load(x))),
        LimitExceeded,
        "1 from 2 on leave dimension 1 of .128, 2, 512., must begin at 0 to 1",
    ),
    "beyond the end, by a loop": (
        lambda x: dma_store(
            lax.fori_loop(
                0,
                2,
                lambda i, t: isa.tensor_copy.at[:, i + 3](t, load(x)),
                sbuf(128, 2, 512),
            )
        ),
        LimitExceeded,
        "1 from 3 on leave dimension 1",
    ),
    "an unwritten source": (
        lambda x: dma_store(
            isa.tensor_copy.at[:, 0](sbuf(128, 2, 512), sbuf(128, 512))
        ),
        UnwrittenTile,
        "nobody has written operand 1",
    ),
    "a sum with nothing": (
        lambda x: dma_store(
            isa.tensor_tensor.at[:, 0](sbuf(128, 2, 512), old, load(x), op="add")
        ),
        UnwrittenTile,
        "adds to a tile in sbuf that nobody has written",
    ),
    "another memory": (
        lambda x: dma_store(isa.tensor_copy.at[:, 0](sbuf(128, 2, 512), x)),
        WrongSpace,
        "operand 1 is in hbm",
    ),
    "another shape": (
        lambda x: dma_store(isa.tensor_copy.at[:, 0](sbuf(128, 2, 256), load(x))),
        LimitExceeded,
        "destination 0 is float32.128, 256.",
    ),
    "operands that do not go together": (
        lambda x: dma_store(
            isa.tensor_tensor.at[:, 0](
                sbuf(128, 2, 512), load(x), load(x)[:, :1], op="add"
            )
        ),
        WrongShape,
        "trn.tensor_tensor: cannot take float32.128, 512., float32.128, 1., must be of one shape",
    ),
    "a fresh buffer's shape": (
        lambda x: dma_store.at[1](hbm(2, 128, 256), load(x)),
        LimitExceeded,
        "part of the destination is float32.128, 256.",
    ),
    "a slice of a traced number": (
        lambda x: lax.fori_loop(
            0,
            2,
            lambda i, t: isa.tensor_copy.at[:, i : i + 1](t, load(x)),
            sbuf(128, 2, 512),
        ),
        LimitExceeded,
        r"a slice of known integers is ds\(start, size\)",
    ),
    "one operand too few": (
        lambda x: dma_store(isa.tensor_copy.at[:, 0](sbuf(128, 2, 512))),
        LimitExceeded,
        "operand",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused_with_the_kernels_line(name):
    kernel, error, message = REFUSED[name]
    x = jax.ShapeDtypeStruct((128, 512), jnp.float32)
    with pytest.raises(error, match=message) as caught:
        rules.check(jx.trace(kernel, [x], {"core": 1}), TRN2.at())
    assert "(test_boxes.py:" in str(caught.value)


def test_a_dma_takes_any_partition():
    def kernel(x):
        return dma_store(dma_load.at[3:128:5](isa.memset(sbuf(128, 512), value=0.0), x))

    x = jax.ShapeDtypeStruct((25, 512), jnp.float32)
    rules.check(jx.trace(kernel, [x], {"core": 1}), TRN2.at())
    (found,) = program(kernel).run(jnp.ones((25, 512)))
    assert found.sum() == 25 * 512 and found[3::5].all()


BOXES = {
    "a step": lambda: Box((4,), (5,)),
    "an order": lambda: Box((4, 4), (4, 4), order=(0, 0)),
    "a repeat": lambda: Box((4, 4), (4, 4), repeat=(1, 2)),
    "a shape": lambda: Box((4, 4), (4, 2), shape=(4, 4)),
    "a length": lambda: Box((4, 4), (4,)),
    "too many reads": lambda: boxed(isa.tensor_copy, (None,), (None, None)),
    "a count of 0": lambda: Pattern(((-1, 0),)),
}


@pytest.mark.parametrize("name", BOXES)
def test_what_is_no_box(name):
    with pytest.raises(LimitExceeded):
        BOXES[name]()


def test_it_looks_like_its_instruction():
    part = boxed(isa.tensor_copy, (PLACE,), (None,))
    assert isinstance(part, Instruction) and part.name == "trn.tensor_copy"
    assert dataclasses.fields(part) and repr(part) == repr(isa.tensor_copy)
    with pytest.raises(LimitExceeded, match="no parameter 'speed'"):
        part(sbuf(128, 8, 512), sbuf(128, 512), 0, speed=2)
