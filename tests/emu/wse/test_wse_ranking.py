"""Ranks of numbers that are dealt to PEs, and tiles that data choose: values and cycles."""

from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest

from emu import wse
from emu.errors import LimitExceeded, WrongShape
from tests.emu.wse.single_pe import data, read, struct, wide

COMPARE = 10 + 2 * 2 + 6  # a round of a loop: compare, branch, add


def tile(*shape: int) -> Any:
    return wse.sram_tile(shape=shape, dtype=jnp.dtype("float32"))


def numbers(*values: float) -> Any:
    return jnp.asarray(values, jnp.float32)


def test_example_of_the_module() -> None:
    """Six numbers on 2 rows and 3 columns: parts of ranks, and their sums."""
    whole = np.array([4, 9, 1, 9, 0, 7], np.float32)
    ranks = []
    for row in range(2):
        own = jnp.asarray(whole[3 * row : 3 * row + 3])
        total = np.zeros(3)
        for col in range(3):
            others = jnp.asarray(whole[2 * col : 2 * col + 2])
            part = wse.outranked(
                tile(3), own, others, 3 * row, 2 * col, count=6, block=6
            )
            total += np.asarray(part)
        ranks += total.tolist()
    assert ranks == [3, 0, 4, 1, 5, 2]


@pytest.mark.parametrize("block", [1, 3, 4, 12])
def test_outranked_in_blocks(block: int) -> None:
    """Padding behind the twelfth number comes before nothing, and costs nothing."""
    x = np.random.default_rng(0).integers(0, 4, 14).astype(np.float32)
    own, others, first = jnp.asarray(x[2:7]), jnp.asarray(x[5:]), 5
    expected = []
    for n in range(2, 7):
        before = 0
        for other in range(5, 12):
            comes_first = x[other] > x[n] or (x[other] == x[n] and other < n)
            before += comes_first and other // block == n // block
        expected.append(before)

    def call(own: Any, others: Any, a: Any, b: Any) -> Any:
        return wse.outranked(tile(5), own, others, a, b, count=12, block=block)

    assert np.asarray(call(own, others, 2, first)).tolist() == expected
    pairs = sum(
        n // block == other // block for n in range(2, 7) for other in range(5, 12)
    )
    clock = read(call, own, others, 2, first)
    assert clock.end_ticks == pairs * COMPARE and clock.tally.flops == 2 * pairs


@pytest.mark.parametrize(("first", "part"), [(0, 2), (4, 3), (9, 0), (6, 1)])
def test_renumbered_is_zero_elsewhere(first: int, part: int) -> None:
    x = data(0, 4)  # numbers 3 to 6
    whole = np.zeros(20, np.float32)
    whole[3:7] = x
    call = lambda x, a, b: wse.renumbered(tile(5), x, a, b)  # noqa: E731
    assert (np.asarray(call(x, first, 3)) == whole[first : first + 5]).all()
    zeros = 4 + 6 + 2  # one descriptor, an issue, 20 bytes of 16 a cycle
    copied = 2 * 4 + 6 + 1 if part else 0
    assert read(call, x, first, 3).end_ticks == zeros + copied


def test_best_sums_of_blocks() -> None:
    x, rank = numbers(1, 2, 4, 8, 16), numbers(0, 2, 1, 0, 1)  # numbers 2 to 6
    call = lambda x, r, n: wse.best_sums(tile(2), x, r, n, best=2, block=4)  # noqa: E731
    assert np.asarray(call(x, rank, 2)).tolist() == [1, 4 + 8 + 16]
    assert read(call, x, rank, 2).end_ticks == 4 + 6 + 1 + 5 * (10 + 3 * 2 + 6)


def test_numbers_of_the_best_blocks() -> None:
    x, rank = numbers(1, 2, 4, 8, 16), numbers(3, 0, 1)  # numbers 2 to 6
    call = lambda x, r, n: wse.of_best_blocks(tile(5), x, r, n, best=1, block=3)  # noqa: E731
    assert np.asarray(call(x, rank, 2)).tolist() == [*(-np.inf, 2, 4, 8, -np.inf)]
    assert read(call, x, rank, 2).end_ticks == 5 * (10 + 3 * 2 + 6)


def test_list_of_the_best() -> None:
    """Of numbers 4 to 7, of which the last is padding; another PE has the first and third."""
    x, rank = numbers(5, 6, 7, 8), numbers(3, 1, 9, 0)
    call = lambda x, r, n: wse.listed(tile(2, 4), x, r, n, count=7)  # noqa: E731
    assert np.asarray(call(x, rank, 4)).tolist() == [[0, 5, 0, 4], [0, 6, 0, 5]]
    assert read(call, x, rank, 4).end_ticks == 4 + 6 + 2 + 4 * (10 + 5 * 2 + 6)


@pytest.mark.parametrize("dtype", ["int32", "float32"])
def test_chosen_map_reads_the_chosen_tiles(dtype: str) -> None:
    w, x, at = data(0, 6, 5, 3), data(1, 5), np.array([4, 0, 4])
    start = data(2, 3, 3)
    got = wse.chosen_map(start, w, x, jnp.asarray(at, dtype))
    expected = wide(start) + np.einsum("k,jkn->jn", wide(x), wide(w)[at])
    np.testing.assert_allclose(got, expected, rtol=2e-6, atol=1e-6)
    # Each: its address, three descriptors and an issue, five callbacks of 3 with 6 between.
    shapes = struct((3, 3)), struct((6, 5, 3)), struct((5,)), struct((3,), dtype)
    clock = read(lambda *a: wse.chosen_map(*a), *shapes)
    address = (4 + (dtype == "float32")) * 2
    assert clock.end_ticks == 3 * (address + 3 * 4 + 6 + 5 * 3 + 4 * 6)
    assert clock.tally.flops == 2 * 3 * 5 * 3
    assert clock.tally.by("bytes")["sram_read"] == 4 * (3 * 5 * 3 + 5 + 3)


def test_chosen_map_adds_all_to_one() -> None:
    w, x, at = data(0, 6, 2, 5), data(1, 3, 2), np.array([1, 5, 1])
    got = wse.chosen_map(jnp.zeros(5), w, x, jnp.asarray(at, jnp.int32))
    expected = np.einsum("jk,jkn->n", wide(x), wide(w)[at])
    np.testing.assert_allclose(got, expected, rtol=2e-6, atol=1e-6)
    shapes = struct((5,)), struct((6, 2, 5)), struct((3, 2)), struct((3,), "int32")
    clock = read(lambda *a: wse.chosen_map(*a), *shapes)
    assert clock.end_ticks == 3 * (4 * 2 + 3 * 4 + 6 + 2 * 5 + 6)


def test_shapes_that_do_not_go_together() -> None:
    with pytest.raises(WrongShape, match=r"must be \[m, n\], \[tiles, k, n\]"):
        wse.chosen_map(tile(3, 4), data(0, 6, 5, 4), data(1, 4), numbers(1, 2, 3))


@pytest.mark.parametrize("dtype", ["int8", "float8_e8m0fnu", "uint16", "float32"])
def test_chosen_tiles_are_copied(dtype: str) -> None:
    """One below the other, or side by side; each at the cost of a copy, and its address."""
    bits = np.arange(6 * 3 * 4, dtype=np.uint8).reshape(6, 3, 4)
    x = jnp.asarray(bits.view(jnp.dtype(dtype)) if dtype[-2:] == "nu" else bits, dtype)
    at = numbers(4, 0, 4)
    wanted = np.asarray(x)[[4, 0, 4]]
    below = wse.sram_tile(shape=(9, 4), dtype=jnp.dtype(dtype))
    beside = wse.sram_tile(shape=(3, 12), dtype=jnp.dtype(dtype))
    got = np.asarray(wse.copy_chosen(below, x, at, axis=0))
    assert (got == np.concatenate(wanted, axis=0)).all()
    got = np.asarray(wse.copy_chosen(beside, x, at, axis=1))
    assert (got == np.concatenate(wanted, axis=1)).all()

    def call(x: Any, at: Any) -> Any:
        dst = wse.sram_tile(shape=(9, 4), dtype=jnp.dtype(dtype))
        return wse.copy_chosen(dst, x, at, axis=0)

    clock = read(call, struct((6, 3, 4), dtype), struct((3,)))
    # Two descriptors of 4 cycles, an issue of 6, 16 bytes a cycle.
    copied = 2 * 4 + 6 + -(-12 * x.dtype.itemsize // 16)
    assert clock.end_ticks == 3 * (5 * 2 + copied)
    read_bytes = clock.tally.by("bytes")["sram_read"]
    assert read_bytes == 3 * 12 * x.dtype.itemsize + 3 * 4


def test_what_cannot_be_copied_is_refused() -> None:
    codes, at = jnp.zeros((6, 3, 4), jnp.int8), numbers(4, 0)
    dst = wse.sram_tile(shape=(6, 4), dtype=jnp.dtype("int8"))
    with pytest.raises(WrongShape, match=r"must be \[m \* k, n\] or"):
        wse.copy_chosen(dst, codes, at, axis=1)
    with pytest.raises(WrongShape, match="the first two of one dtype"):
        wse.copy_chosen(dst, codes.astype("uint8"), at, axis=0)
    dst = wse.sram_tile(shape=(6, 3), dtype=jnp.dtype("int8"))
    with pytest.raises(WrongShape, match="whole words of 2 bytes"):
        wse.copy_chosen(dst, codes[:, :, :3], at, axis=0)


@pytest.mark.parametrize("first", [0, 3, 9, 13])
def test_cost_of_ranks_counts_pairs_of_a_block(first: int) -> None:
    """As a count one by one does, for numbers that begin anywhere, padding included."""
    own, others = struct((4,)), struct((6,))
    for block in (1, 2, 5, 11):

        def call(own: Any, others: Any, a: Any, b: Any, block: int = block) -> Any:
            return wse.outranked(tile(4), own, others, a, b, count=11, block=block)

        pairs = sum(
            a // block == b // block
            for a in range(first, first + 4)
            for b in range(2, 8)
        )
        assert read(call, own, others, first, 2).end_ticks == pairs * COMPARE


@pytest.mark.parametrize("block", [0, -1, 2.5])
def test_no_blocks_are_refused(block: Any) -> None:
    with pytest.raises(LimitExceeded, match="wse.outranked: block is .*, must be"):
        wse.outranked(tile(3), numbers(1, 2, 3), numbers(1), 0, 0, count=3, block=block)
