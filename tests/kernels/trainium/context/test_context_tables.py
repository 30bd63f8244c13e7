"""The tables of a ring: those that `work` and `hops` work through in numbers, by hand."""

from typing import Any

import numpy as np

from kernels import masks
from kernels.masks.tile_map import DEAD, FULL, PARTIAL
from kernels.trainium.context.hops import Hops
from tests.kernels.trainium.context.oracle import context, unwrapped

# Four ranks of four tokens, in query tiles and key tiles of two; a block is one query tile.
SIZES: dict[str, Any] = dict(
    tokens=16, ranks=4, columns=2, lanes=1, placement="contiguous"
)


def ring(mask, **sizes: Any) -> tuple[Hops, Any]:
    """The hops, and the known integers by rank."""
    a = context(mask, **(SIZES | sizes))
    return a.hops, unwrapped(a.built.known(with_masks=True))


def test_a_window():
    """Three tokens back: of the keys before a rank's own, the last key tile."""
    hops, work = ring(masks.window(3))
    source, rank = work.hops.source, 1
    assert hops.distances == (0, 1)
    np.testing.assert_array_equal(source.needed[rank], [1, 1])
    np.testing.assert_array_equal(source.block_needed[rank], [[1, 1], [1, 0]])
    own = [[PARTIAL, DEAD], [PARTIAL, PARTIAL]]
    before = [[DEAD, PARTIAL], [DEAD, DEAD]]
    np.testing.assert_array_equal(source.status[rank], [own, before])
    patterns, _ = hops.tables.masks
    diagonal, end = [[1, 0], [1, 1]], [[1, 1], [0, 1]]
    np.testing.assert_array_equal(patterns, [diagonal, end])
    partial = source.status[rank] == PARTIAL
    which = source.pattern[rank]
    np.testing.assert_array_equal(which[0][partial[0]], [0, 1, 0])
    np.testing.assert_array_equal(which[1][partial[1]], [1])
    np.testing.assert_array_equal(work.hops.shift[rank], [1, 0])
    np.testing.assert_array_equal(work.hops.sends[:, 0], [1, 1, 1, 0])


def test_distances_that_no_rank_needs_are_passed_over():
    """Ranks attend to their own tokens and to those of the rank two before."""

    def own_and_two_before(b, h, q, k):
        apart = q // 4 - k // 4
        return (apart == 0) | (apart == 2)

    hops, work = ring(own_and_two_before)
    assert hops.distances == (0, 2)
    np.testing.assert_array_equal(work.hops.shift, [[2, 0]] * 4)
    np.testing.assert_array_equal(work.hops.sends[:, 0], [1, 1, 0, 0])
    np.testing.assert_array_equal(
        work.hops.source.needed, [[1, 0], [1, 0], [1, 1], [1, 1]]
    )
    assert set(np.unique(work.hops.source.status)) == {DEAD, FULL}


def test_causal_blocks_are_sent_as_far_as_they_are_used():
    hops, _ = ring(masks.causal, tokens=12, ranks=3)
    np.testing.assert_array_equal(hops.sends, [[1, 0, 0], [1, 1, 0], [0, 0, 0]])
