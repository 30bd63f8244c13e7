"""Peak bytes of a core, counted by hand."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from emu import Known, Program
from emu.errors import LimitExceeded, OutOfMemory
from emu.trainium import TRN2, dma_load, dma_store, isa, psum, sbuf
from tests.helpers import F32, TILE_BYTES, TOY, accumulate, add, load, mul, store, tile

LENGTH = 7


def peak(kernel, *args):
    return Program(kernel, {"r": 2}, ((),) * len(args)).memory(TOY, *args)


def test_tiles_die_with_their_last_use():
    def kernel(x):
        a = load(tile(), x)
        b = mul(tile(), a, a)  # a and b
        c = add(tile(), b, b)  # b and c: a is dead
        return store(c)

    assert peak(kernel, F32) == {"sbuf": 2 * TILE_BYTES, "hbm": 2 * TILE_BYTES}


def test_views_and_results_in_place_share_storage():
    def kernel(x):
        a = load(tile(), x)
        return store(accumulate(a.reshape(3, 2), a.reshape(3, 2)))

    assert peak(kernel, F32)["sbuf"] == TILE_BYTES


def test_ring_and_tile_declared_in_a_loop_count_once():
    def kernel(x):
        def body(carry, _):
            ring, acc = carry
            new = load(ring[0], x)
            acc = accumulate(acc, mul(tile(), new, new))
            return ((*ring[1:], new), acc), None

        ring = tuple(tile() for _ in range(3))
        (_, acc), _ = lax.scan(body, (ring, load(tile(), x)), None, length=LENGTH)
        return store(acc)

    assert peak(kernel, F32)["sbuf"] == (3 + 1 + 1) * TILE_BYTES


def test_a_loop_early_in_a_kernel_does_not_keep_its_tiles():
    """Inner and outer equations are numbered apart."""

    def kernel(x):
        a = load(tile(), x)

        def body(acc, _):
            for _ in range(20):
                acc = accumulate(acc, a)
            return acc, None

        acc, _ = lax.scan(body, load(tile(), x), None, length=LENGTH)  # a and acc
        b = mul(tile(), acc, acc)  # acc and b: a is dead
        return store(mul(tile(), b, b))

    assert peak(kernel, F32)["sbuf"] == 2 * TILE_BYTES


def test_stacked_outputs_live_from_the_first_iteration():
    def kernel(x):
        def body(acc, _):
            return accumulate(acc, acc), store(acc)

        return lax.scan(body, load(tile(), x), None, length=LENGTH)[1]

    assert peak(kernel, F32)["hbm"] == (1 + LENGTH) * TILE_BYTES


def test_branches_take_the_larger():
    def kernel(x):
        a = load(tile(), x)
        large = lambda t: mul(t, add(tile(), a, a), add(tile(), a, a))  # noqa: E731
        small = lambda t: mul(t, a, a)  # noqa: E731
        return store(
            lax.cond(lax.axis_index("r") == 0, large, small, load(tile(), a_of(x)))
        )

    def a_of(x):
        return x

    assert peak(kernel, F32)["sbuf"] == 4 * TILE_BYTES


def test_arguments_and_constants_are_at_home():
    table = jnp.ones((2, 3))
    other = jax.ShapeDtypeStruct((100,), jnp.bfloat16)

    def kernel(x, unused):
        return load(tile(), x), load(tile(), table)

    assert peak(kernel, F32, other)["hbm"] == 2 * TILE_BYTES + 200


@pytest.mark.parametrize("first", [True, False])
def test_a_branch_that_makes_a_tile_counts_whichever_is_written_first(first):
    """One branch makes a tile, the other passes its input on: both may be needed at once."""

    def kernel(x, n):
        a = load(tile(), x)
        branches = (lambda a: mul(tile(), a, a), lambda a: a)
        taken = lax.cond(n > 0, *(branches if first else branches[::-1]), a)
        b = add(tile(), taken, taken)  # `a`, or the branch's tile and `a`; and b
        return store(add(tile(), b, taken))

    known = Known(np.int32(1))
    assert peak(kernel, F32, known)["sbuf"] == 4 * TILE_BYTES


def test_an_input_that_a_branch_passes_on_lives_as_long_as_its_result():
    def kernel(x, n):
        a, b = load(tile(), x), load(tile(), x)
        taken = lax.cond(n > 0, lambda a, b: a, lambda a, b: b, a, b)
        others = [mul(tile(), taken, taken) for _ in range(3)]
        return store(taken), [store(other) for other in others]

    assert peak(kernel, F32, Known(np.int32(1)))["sbuf"] == 5 * TILE_BYTES


def test_a_ring_that_a_loop_carries_out_is_one_tile_outside():
    def kernel(x):
        def body(last, _):
            return load(tile(buffers=20), x), None

        last, _ = lax.scan(body, load(tile(), x), None, length=LENGTH)
        others = [load(tile(), x) for _ in range(30)]
        total = last
        for other in others:
            total = add(tile(), total, other)
        return store(total)

    # Outside: the carried tile, thirty others and a sum; inside only 20 and what is carried in.
    assert peak(kernel, F32)["sbuf"] == (1 + 30 + 1) * TILE_BYTES


# --- PSUM's banks, and partitions ---

PARTITIONS = 128
BANK_BYTES = 2048


def on_chip(kernel):
    """Peaks of a kernel of one `[128, 128]` argument on Trainium2, in bytes of a partition."""
    x = jax.ShapeDtypeStruct((PARTITIONS, 128), jnp.float32)
    found = Program(kernel, {"core": 1}, ((),)).memory(TRN2.at(), x)
    return {space: nbytes // PARTITIONS for space, nbytes in found.items()}


def transposes(x, count, bank):
    """So many tiles of 512 bytes a partition, all in use at once."""
    loaded = dma_load(sbuf(128, 128), x)
    tiles = [isa.nc_transpose(psum(128, 128, bank=bank), loaded) for _ in range(count)]
    return [dma_store(isa.tensor_copy(sbuf(128, 128), tile)) for tile in tiles]


def test_a_named_bank_is_taken_whole():
    """Tiles of 512 bytes share it; one in a bank of its own takes another."""
    assert on_chip(lambda x: transposes(x, 1, 3))["psum"] == BANK_BYTES
    assert on_chip(lambda x: transposes(x, 4, 3))["psum"] == BANK_BYTES
    both = on_chip(lambda x: (transposes(x, 4, 3), transposes(x, 2, None)))
    assert (
        both["psum"] == 2 * BANK_BYTES
    )  # those of their own are gone one after another


@pytest.mark.parametrize(
    ("columns", "count", "nbytes"),
    [
        (128, 4, 2048),  # 512 bytes each
        (128, 5, 2048 + 512),
        (100, 4, 2048),  # of 400 bytes each takes 512
        (300, 2, 4096),  # 1,200 bytes: two would cross a bank
        (512, 2, 4096),
    ],
)
def test_tiles_that_share_banks_take_powers_of_two(columns, count, nbytes):
    """Of whatever sizes they are, they then fill banks without a gap, and none lies across two."""

    def kernel(x):
        tiles = [psum(128, columns, shares=True) for _ in range(count)]
        tiles = [isa.memset(tile, value=0.0) for tile in tiles]
        copies = [isa.tensor_copy(sbuf(128, columns), tile) for tile in tiles]
        return [dma_store(copy) for copy in copies]

    assert on_chip(kernel)["psum"] == nbytes


def test_a_ring_of_tiles_that_share_has_eight_in_two_banks():
    def kernel(x):
        loaded = dma_load(sbuf(128, 128), x)

        def body(_, __):
            turned = isa.nc_transpose(psum(128, 128, buffers=8, shares=True), loaded)
            return (), dma_store(isa.tensor_copy(sbuf(128, 128), turned))

        return lax.scan(body, (), None, length=16)[1]

    assert on_chip(kernel)["psum"] == 2 * BANK_BYTES


def test_a_named_bank_holds_no_more_than_it_has():
    with pytest.raises(OutOfMemory, match="bank 3 of psum take 327,680 bytes, a bank"):
        on_chip(lambda x: transposes(x, 5, 3))


def test_banks_in_a_loop_and_around_it_add_up():
    """Two of 512 bytes around a loop, three in it: 2,560 of a bank's 2,048."""

    def kernel(x, bank):
        loaded = dma_load(sbuf(128, 128), x)
        held = [isa.nc_transpose(psum(128, 128, bank=1), loaded) for _ in range(2)]

        def body(_, __):
            tiles = [
                isa.nc_transpose(psum(128, 128, bank=bank), loaded) for _ in range(3)
            ]
            copies = [isa.tensor_copy(sbuf(128, 128), tile) for tile in tiles]
            return (), [dma_store(copy) for copy in copies]

        _, stored = lax.scan(body, (), None, length=2)
        return stored, [dma_store(isa.tensor_copy(sbuf(128, 128), t)) for t in held]

    assert on_chip(lambda x: kernel(x, 0))["psum"] == 2 * BANK_BYTES
    with pytest.raises(OutOfMemory, match="bank 1 of psum take 327,680 bytes"):
        on_chip(lambda x: kernel(x, 1))


def test_a_stack_on_chip_takes_its_partitions():
    """Of 5 tiles `[1, 128]`, each takes 512 bytes of every partition."""

    def kernel(x):
        def body(_, __):
            return (), dma_load(sbuf(1, 128), x[:1])

        _, stack = lax.scan(body, (), None, length=5)
        return [dma_store(stack[i]) for i in range(5)]

    assert on_chip(kernel)["sbuf"] >= 5 * 512


@pytest.mark.parametrize("bank", [8, 99, -1])
def test_there_are_eight_banks(bank):
    with pytest.raises(LimitExceeded, match=rf"bank is {bank}, psum has banks 0 to 7"):
        x = jax.ShapeDtypeStruct((PARTITIONS, 128), jnp.float32)
        kernel = functools.partial(transposes, count=1, bank=bank)
        Program(kernel, {"core": 1}, ((),)).read(TRN2.at(), x)


@pytest.mark.parametrize(
    "shape, options, what",
    [
        ((0, 512), {}, "dimension 0 is 0"),
        ((128, -1), {}, "dimension 1 is -1"),
        ((128, 2.0), {}, "dimension 1 is 2.0"),
        ((128, 512), {"buffers": 0}, "buffers is 0"),
        ((128, 512), {"buffers": -1}, "buffers is -1"),
        ((128, 512), {"buffers": True}, "buffers is True"),
    ],
)
@pytest.mark.parametrize("make", [sbuf, psum])
def test_no_tile_is_of_such_a_size(make, shape, options, what):
    with pytest.raises(LimitExceeded, match=rf"{what}.*test_memory.py:\d+"):
        make(*shape, **options)


def test_the_clock_refuses_what_does_not_fit():
    """Of 10**8 buffers too, before any of them is made."""

    def kernel(x):
        return dma_store(dma_load(sbuf(128, 128, buffers=10**8), x))

    x = jax.ShapeDtypeStruct((PARTITIONS, 128), jnp.float32)
    program = Program(kernel, {"core": 1}, ((),))
    for read in (program.read, lambda *args: program.read_bands(TRN2, x)):
        with pytest.raises(OutOfMemory, match="bytes of sbuf, has"):
            read(TRN2.at(), x)


def test_the_clock_may_be_asked_all_the_same():
    def kernel(x):
        return dma_store(dma_load(sbuf(128, 128, buffers=1000), x))

    x = jax.ShapeDtypeStruct((PARTITIONS, 128), jnp.float32)
    program = Program(kernel, {"core": 1}, ((),))
    assert program.read(TRN2.at(), x, check_memory=False).seconds > 0
