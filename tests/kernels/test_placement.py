"""Placements: every token once, whatever divides what; grids are the positions of the tiles."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from emu.errors import EmulationError
from kernels.tokens.placement import PLACEMENTS, place

# tokens, ranks, slots, unit
SIZES = [
    (24, 4, 6, 3),
    (23, 4, 6, 2),
    (3, 4, 2, 1),
    (7, 1, 8, 4),
    (1, 1, 2, 2),
    (100, 3, 36, 12),
]


def test_positions_by_hand():
    """Two ranks of four slots, in pairs."""
    rows = {name: place(name, 8, 2, 4, 2).positions().tolist() for name in PLACEMENTS}
    assert rows == {
        "contiguous": [[0, 1, 2, 3], [4, 5, 6, 7]],
        "zigzag": [[0, 1, 6, 7], [2, 3, 4, 5]],
        "striped": [[0, 2, 4, 6], [1, 3, 5, 7]],
        "tile-cyclic": [[0, 1, 4, 5], [2, 3, 6, 7]],
    }


@pytest.mark.parametrize("name", PLACEMENTS)
@pytest.mark.parametrize("sizes", SIZES)
def test_every_position_is_dealt_once(name, sizes):
    placement = place(name, *sizes)
    positions = placement.positions()
    assert positions.dtype == np.int32 and positions.shape == (
        placement.ranks,
        placement.slots,
    )
    assert sorted(positions.reshape(-1)) == list(
        range(placement.ranks * placement.slots)
    )


@pytest.mark.parametrize("name", PLACEMENTS)
@pytest.mark.parametrize("sizes", SIZES)
@pytest.mark.parametrize("axis", [0, 1, -1])
def test_collect_undoes_spread(name, sizes, axis):
    placement = place(name, *sizes)
    shape = [2, 3, 4]
    shape[axis] = placement.tokens
    x = 1 + np.arange(np.prod(shape), dtype=np.float32).reshape(shape)
    dealt = placement.spread(x, axis)
    shape[axis] = placement.slots
    assert dealt.shape == (placement.ranks, *shape)
    np.testing.assert_array_equal(placement.collect(dealt, axis), x)
    rows = np.moveaxis(dealt, axis + 1 if axis >= 0 else axis, 1)
    positions = placement.positions()
    source = np.moveaxis(x, axis, 0)
    for rank, slot in np.ndindex(positions.shape):
        at = positions[rank, slot]
        expected = source[at] if at < placement.tokens else 0
        np.testing.assert_array_equal(rows[rank, slot], expected)


def test_spread_of_jax_arrays_is_traced():
    placement = place("zigzag", 7, 2, 4)
    x = jnp.arange(14, dtype=jnp.bfloat16).reshape(7, 2)
    dealt = jax.jit(placement.spread)(x)
    assert dealt.dtype == jnp.bfloat16
    np.testing.assert_array_equal(dealt, placement.spread(np.asarray(x)))
    np.testing.assert_array_equal(jax.jit(placement.collect)(dealt), x)


@pytest.mark.parametrize("name", PLACEMENTS)
@pytest.mark.parametrize(
    ("slots", "unit", "size"),
    [(24, 4, 4), (24, 2, 6), (24, 6, 3), (24, 12, 12), (24, 3, 1)],
)
def test_grids_are_the_positions_of_tiles(name, slots, unit, size):
    placement = place(name, 60, 3, slots, unit)
    grids = placement.grids(size)
    assert grids.shape == (3, slots // size)
    tiles = placement.positions().reshape(3, slots // size, size)
    np.testing.assert_array_equal(grids.positions(), tiles)
    start, outer_step, outer_count, inner_step, inner_count = grids.columns()
    assert (outer_count * inner_count == size).all() and (start.dtype == np.int64)
    last = start + outer_step * (outer_count - 1) + inner_step * (inner_count - 1)
    np.testing.assert_array_equal(last, tiles.max(axis=-1).reshape(-1))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: place("random", 8, 2, 4), "placement is 'random', must be one of"),
        (
            lambda: place("striped", 9, 2, 4),
            "2 ranks of 4 slots hold 8 of 9.*at least 5 slots",
        ),
        (
            lambda: place("zigzag", 9, 2, 5),
            "zigzag: 5 slots are not two equal chunks; give 6",
        ),
        (
            lambda: place("tile-cyclic", 9, 2, 5, 2),
            "5 slots are no multiple of the unit 2.*give 6",
        ),
        (lambda: place("contiguous", 0, 2, 5), "at least 1"),
        (lambda: place("contiguous", 1, 2**16, 2**15), "more than int32"),
        (
            lambda: place("contiguous", 9, 2, 5).grids(3),
            "5 slots are not whole tiles of 3; give 6",
        ),
        (
            lambda: place("zigzag", 9, 2, 6).grids(2),
            "spans two chunks of 3.*multiple of 4.* 8 ",
        ),
        (
            lambda: place("tile-cyclic", 9, 2, 12, 4).grids(6),
            "tiles of 6 and a unit of 4",
        ),
        (
            lambda: place("zigzag", 8, 2, 4).spread(np.zeros((2, 7)), 1),
            "axis 1 of .* 8 tokens",
        ),
        (
            lambda: place("zigzag", 8, 2, 4).collect(np.zeros((2, 7))),
            "2 ranks first and 4 slots",
        ),
        (
            lambda: place("zigzag", 8, 2, 4).spread(np.zeros(8), 1),
            "axis 1 of an array of 1",
        ),
    ],
)
def test_errors_name_the_numbers_and_the_remedy(make, message):
    with pytest.raises(EmulationError, match=message):
        make()
