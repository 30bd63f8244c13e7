"""Which placement suits which mask: figures of sixteen ranks, and brute force at small size."""

import numpy as np
import pytest

from kernels import masks
from kernels.tokens.choose import Slots, choose
from kernels.tokens.placement import PLACEMENTS, place

# 16 ranks of 1024 tokens in tiles of 64: for each mask the winner when a hop's transfer takes as
# long as 20 tiles, then sync, inflation and hops of each placement. They come from a separate
# count of live tiles on every pair of tokens; None where that count did not say.
RANKS, SLOTS, TILE = 16, 1024, 64
FIGURES = {
    "full": (
        "contiguous",
        [(1.0, 1.0, 16), (1.0, 1.0, 16), (1.0, 1.0, 16), (1.0, 1.0, 16)],
    ),
    "causal": (
        "zigzag",
        [(1.93, 1.0, 16), (1.0, 1.0, 16), (1.0, 1.06, 16), (1.06, 1.0, 16)],
    ),
    "block_causal(512)": (
        "zigzag",
        [(1.91, 1.0, 16), (1.0, 1.0, 16), (1.0, 1.03, 16), (1.03, 1.0, 16)],
    ),
    "window(1024)": (
        "contiguous",
        [(1.03, 1.0, 2), (1.55, 1.0, 5), (1.0, 1.88, 16), (1.03, 1.0, 16)],
    ),
    "window(8192)": (
        "tile-cyclic",
        [(1.33, 1.0, 9), (1.33, 1.0, 16), (1.0, 1.12, 16), (1.04, 1.0, 16)],
    ),
    "sinks(4, 1024)": (
        "tile-cyclic",
        [(1.84, 1.0, 16), (2.15, 1.0, 16), (1.3, 1.98, 16), (1.83, 1.0, 16)],
    ),
    "prefix(4096)": (
        "striped",
        [(1.88, 1.0, 16), (1.16, 1.0, 16), (1.0, 1.04, 16), (1.04, 1.0, 16)],
    ),
    "chunked(8192)": (
        "zigzag",
        [(1.87, 1.0, 8), (1.0, 1.0, 16), (1.0, 1.12, 16), (1.12, 1.0, 16)],
    ),
    "dilated(64)": (
        "striped",
        [(1.93, 15.1, 16), (1.0, 15.1, 16), (1.0, 1.0, 1), (1.06, 15.1, 16)],
    ),
    "documents": (
        "tile-cyclic",
        [(2.8, 1.0, 5), (2.97, 1.0, None), (1.04, 2.59, 16), (1.15, 1.0, 16)],
    ),
}


def random_documents():
    cuts = np.sort(np.random.default_rng(0).choice(RANKS * SLOTS, 15, replace=False))
    return masks.documents([int(n) for n in np.diff([0, *cuts, RANKS * SLOTS])])


MASKS = {
    "full": masks.full,
    "causal": masks.causal,
    "documents": random_documents(),
    **{
        mask.__name__: mask
        for mask in (
            masks.block_causal(512),
            masks.window(1024),
            masks.window(8192),
            masks.sinks(4, 1024),
            masks.prefix(4096),
            masks.chunked(8192),
            masks.dilated(64),
        )
    },
}


def synchronous(found):
    """The busiest rank's work at each hop, over the even share: 1 is perfect balance."""
    return found.work.max(axis=1).sum() * found.placement.ranks / found.tiles


@pytest.mark.parametrize("name", FIGURES)
def test_figures_of_sixteen_ranks(name):
    winner, figures = FIGURES[name]
    choice = choose(
        MASKS[name],
        RANKS * SLOTS,
        RANKS,
        slots_of=lambda _: Slots(SLOTS, TILE, TILE, TILE),
        hop_tiles=20,
    )
    assert tuple(choice.scores) == PLACEMENTS
    fewest = min(found.tiles for found in choice.scores.values())
    for placement, (sync, inflation, hops) in zip(PLACEMENTS, figures, strict=True):
        found = choice.scores[placement]
        digits = 1 if inflation > 10 else 2
        assert round(synchronous(found), 2) == sync, placement
        assert round(found.tiles / fewest, digits) == inflation, placement
        assert len(found.live) == hops or hops is None, placement
    assert choice.name == winner


def counted(mask, placement, tile):
    """Live tiles `[hops, ranks]`, one tile at a time."""
    work = np.zeros((placement.ranks, placement.ranks), int)
    tiles = placement.positions().reshape(placement.ranks, -1, tile)
    for rank, hop in np.ndindex(work.shape):
        for q in tiles[rank]:
            for k in tiles[(rank - hop) % placement.ranks]:
                a, b = (x[(x < placement.tokens)] for x in (q, k))
                pairs = np.meshgrid(a, b, indexing="ij")
                work[hop, rank] += bool(np.asarray(mask(0, 0, *pairs)).any())
    return work


@pytest.mark.parametrize("hop_tiles", [0.0, 3.5])
@pytest.mark.parametrize(
    "mask",
    [masks.causal, masks.window(9), masks.chunked(16), masks.dilated(4)],
    ids=masks.name,
)
def test_figures_are_what_counting_gives(mask, hop_tiles):
    tokens, ranks, slots, tile = 59, 4, 16, 4
    choice = choose(
        mask,
        tokens,
        ranks,
        slots_of=lambda _: Slots(slots, tile, tile, tile),
        hop_tiles=hop_tiles,
    )
    works = {
        name: counted(mask, place(name, tokens, ranks, slots, tile), tile)
        for name in PLACEMENTS
    }
    scores = {}
    for name, work in works.items():
        found = choice.scores[name]
        np.testing.assert_array_equal(found.work, work)
        live = [d for d in range(ranks) if work[d].any()]
        scores[name] = sum(max(work[d].max(), hop_tiles) for d in live)
        assert (found.live, found.tiles, found.score) == (
            tuple(live),
            work.sum(),
            scores[name],
        )
    assert scores[choice.name] == min(scores.values())
    assert choice.placement is choice.scores[choice.name].placement


def test_ties_go_to_the_first():
    choice = choose(masks.full, 64, 4, slots_of=lambda _: Slots(16, 4, 4, 4))
    assert len({found.score for found in choice.scores.values()}) == 1
    assert choice.name == "contiguous"


def test_larger_tiles_count_for_more():
    """Four times the area, a quarter of the tiles: the same work under a full mask."""

    def slots_of(name):
        return Slots(16, 4, *(4, 4) if name == "contiguous" else (8, 8))

    choice = choose(masks.full, 64, 4, slots_of=slots_of)
    assert [found.tiles for found in choice.scores.values()] == [256.0] * 4


def test_a_mask_without_any_pair_needs_no_hop():
    choice = choose(
        masks.negate(masks.full), 8, 2, slots_of=lambda _: Slots(4, 2, 2, 2)
    )
    for found in choice.scores.values():
        assert (found.score, found.live, found.tiles) == (0, (), 0)


def test_of_equal_scores_the_one_with_less_work_is_taken():
    """Eight tiles on four ranks whose hops take as long as a contiguous tile, whatever the work."""
    choice = choose(
        masks.causal,
        8 * TILE,
        4,
        slots_of=lambda name: Slots(2 * TILE, TILE, TILE, TILE),
        hop_tiles=4,
    )
    scores = {name: choice.scores[name].score for name in ("contiguous", "zigzag")}
    assert scores["contiguous"] == scores["zigzag"]
    assert choice.name == "zigzag"
