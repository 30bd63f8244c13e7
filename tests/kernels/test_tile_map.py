"""The map of live tiles against the whole mask, for every mask, placement and ragged size."""

import jax.numpy as jnp
import numpy as np
import pytest

from kernels import masks
from kernels.masks.grids import Grids
from kernels.masks.tile_map import DEAD, FULL, PARTIAL, patterns, tile_map
from kernels.masks.traced_mask import UnreadableMask
from kernels.tokens.placement import PLACEMENTS, place

SCATTERED = np.repeat([4, 0, 4, 2, -1, 1, 0], [9, 5, 8, 11, 6, 12, 20]).astype(np.int32)


def scattered(b, h, q, k):
    """Documents by a table whose numbers come back and in which -1 belongs to none."""
    q, k = jnp.asarray(SCATTERED)[q], jnp.asarray(SCATTERED)[k]
    return (q == k) & (q >= 0)


def near_in_an_image(b, h, q, k):
    """Of an image of 8 x 8 pixels a square of 3, pushed in at the borders."""
    y, x = jnp.clip(q // 8, 1, 6), jnp.clip(q % 8, 1, 6)
    return (jnp.abs(y - k // 8) <= 1) & (jnp.abs(x - k % 8) <= 1)


MASKS = [
    masks.full,
    masks.causal,
    masks.block_causal(5),
    masks.window(7),
    masks.window(40),
    masks.sinks(3, 6),
    masks.prefix(17),
    masks.chunked(12),
    masks.dilated(4),
    masks.documents([3, 9, 14, 20, 7]),
    masks.or_masks(masks.window(4), masks.negate(masks.dilated(5))),
    scattered,
    near_in_an_image,
]

# tokens, ranks, slots, unit, query tile, key tile
SIZES = [
    (64, 4, 16, 4, 4, 4),
    (61, 4, 16, 2, 4, 8),
    (3, 4, 4, 2, 2, 2),
    (50, 1, 60, 10, 5, 30),
    (53, 3, 24, 6, 3, 12),
]


def brute_force(mask, tokens, q, k):
    """Status of every pair of tiles from every pair of tokens; positions `[tiles, size]`."""
    a, b = q.reshape(-1, 1), k.reshape(1, -1)
    wide = np.broadcast_arrays(a, b)
    allowed = np.asarray(mask(0, 0, *(np.minimum(x, tokens - 1) for x in wide)))
    allowed = allowed & (a < tokens) & (b < tokens)
    tiles = allowed.reshape(len(q), q.shape[1], len(k), k.shape[1])
    some, every = tiles.any(axis=(1, 3)), tiles.all(axis=(1, 3))
    return np.where(every, FULL, np.where(some, PARTIAL, DEAD))


@pytest.mark.parametrize("mask", MASKS, ids=masks.name)
@pytest.mark.parametrize("name", PLACEMENTS)
def test_map_is_exact(mask, name):
    for tokens, ranks, slots, unit, q_tile, k_tile in SIZES:
        placement = place(name, tokens, ranks, slots, unit)
        q, k = placement.grids(q_tile), placement.grids(k_tile)
        found = tile_map(mask, tokens, q, k)
        assert found.dtype == np.int8 and found.shape == (*q.shape, *k.shape)
        positions = placement.positions()
        expected = brute_force(
            mask, tokens, positions.reshape(-1, q_tile), positions.reshape(-1, k_tile)
        )
        np.testing.assert_array_equal(found, expected.reshape(found.shape))


@pytest.mark.parametrize("mask", MASKS, ids=masks.name)
def test_irregular_grids_are_exact(mask):
    """Tiles of unlike steps and counts, which no placement makes, in any order."""
    rng, n = np.random.default_rng(0), 30
    sides = []
    for _ in range(2):
        outer_count, inner_count = rng.integers(1, 4, n), rng.integers(1, 4, n)
        outer_step, inner_step = rng.integers(0, 9, n), rng.integers(0, 5, n)
        grids = Grids(
            rng.integers(0, 45, n), outer_step, outer_count, inner_step, inner_count
        )
        sides.append(grids)
    found = tile_map(mask, 60, *sides)
    q, k = (
        [Grids(*column).positions() for column in side.columns().T] for side in sides
    )
    a, b = np.meshgrid(np.concatenate(q), np.concatenate(k), indexing="ij")
    allowed = np.asarray(mask(0, 0, a, b)) & (a < 60) & (b < 60)
    starts = [np.cumsum([0, *map(len, side[:-1])]) for side in (q, k)]
    share = np.add.reduceat(
        np.add.reduceat(allowed.astype(int), starts[0], 0), starts[1], 1
    )
    whole = np.outer([len(x) for x in q], [len(x) for x in k])
    expected = np.where(share == whole, FULL, np.where(share > 0, PARTIAL, DEAD))
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("mask", MASKS, ids=masks.name)
@pytest.mark.parametrize("name", PLACEMENTS)
def test_live_tiles_are_the_same_when_only_they_are_asked_for(mask, name):
    tokens, ranks, slots, unit, q_tile, k_tile = SIZES[1]
    placement = place(name, tokens, ranks, slots, unit)
    q, k = placement.grids(q_tile), placement.grids(k_tile)
    whole = tile_map(mask, tokens, q, k)
    live = tile_map(mask, tokens, q, k, live_only=True)
    np.testing.assert_array_equal(live != DEAD, whole != DEAD)


def test_padding_is_never_full():
    placement = place("contiguous", 6, 1, 8)
    found = tile_map(masks.full, 6, placement.grids(4), placement.grids(4))[0, :, 0]
    assert found.tolist() == [[FULL, PARTIAL], [PARTIAL, PARTIAL]]
    beyond = Grids(np.array([8]), 0, 1, 1, 4)
    assert tile_map(masks.full, 6, beyond, beyond).tolist() == [[DEAD]]


@pytest.mark.parametrize("name", PLACEMENTS)
def test_counts_of_causal_tiles_at_scale(name):
    """A million tokens on 144 ranks: diagonal tiles partial, one half full (closed form)."""
    ranks, tile, tiles = 144, 256, 28  # 1,032,192 tokens, nothing padded
    tokens = ranks * tile * tiles
    grids = place(name, tokens, ranks, tile * tiles, tile).grids(tile)
    found = np.bincount(
        tile_map(masks.causal, tokens, grids, grids).reshape(-1), minlength=3
    )
    n = ranks * tiles
    below, diagonal = n * (n - 1) // 2, n
    if name == "striped":  # a tile spans all ranks' tiles of its number
        below, diagonal = ranks**2 * tiles * (tiles - 1) // 2, ranks**2 * tiles
    assert found.tolist() == [n * n - below - diagonal, diagonal, below]


def test_patterns_are_the_mask_and_each_comes_once():
    rng = np.random.default_rng(0)
    placement = place("tile-cyclic", 61, 4, 16, 4)
    tiles = placement.positions().reshape(-1, 4)
    row, column = rng.integers(0, len(tiles), (2, 300))
    for mask in (masks.causal, masks.documents([30, 20]), masks.dilated(3)):
        a, b = tiles[row][:, :, None], tiles[column][:, None]
        truth = np.asarray(mask(0, 0, *np.broadcast_arrays(a, b))) & (a < 61) & (b < 61)
        unique, index = patterns(mask, 61, tiles[row], tiles[column])
        np.testing.assert_array_equal(unique[index], truth)
        assert len(unique) == len(np.unique(truth.reshape(300, -1), axis=0))
    none, index = patterns(masks.causal, 61, tiles[:0], tiles[:0])
    assert none.shape == (0, 4, 4) and index.shape == (0,)


def test_a_mask_of_heads_is_refused():
    grids = place("contiguous", 8, 1, 8).grids(4)
    with pytest.raises(UnreadableMask, match="mask <lambda>: depends on b or h"):
        tile_map(lambda b, h, q, k: k <= q + h, 8, grids, grids)
