"""Live tiles over the sequence and over chips, against masks looked at pair by pair."""

from typing import Any

import numpy as np
import pytest

from kernels import PLACEMENTS, Variant, attention, masks, variants
from kernels.attention.live_tiles import DEAD, FULL, PARTIAL, LiveTiles, live_tiles

TOKENS = 1024
SIZES: dict[str, Any] = dict(tokens=TOKENS, heads=2, kv_heads=2, head_dim=32)


def of(variant: Variant, **options: Any) -> LiveTiles:
    return live_tiles(variant.reading, **SIZES, **options)


@pytest.mark.parametrize("most", [8, 3])
def test_over_the_sequence_every_pair_decides(most: int) -> None:
    """With at most 3 tiles they are of 384 tokens, and the last has 256."""
    found = of(variants.sinks_window(4, 300), most=most)
    assert found.tile == {8: 128, 3: 384}[most]
    q, k = np.indices((TOKENS, TOKENS))
    live = (k <= q) & ((q - k < 300) | (k < 4))
    wanted = np.zeros_like(found.over_sequence)
    for row, column in np.ndindex(*wanted.shape):
        own = live[found.tile * row :, found.tile * column :]
        share = own[: found.tile, : found.tile].mean()
        wanted[row, column] = DEAD if not share else FULL if share == 1 else PARTIAL
    np.testing.assert_array_equal(found.over_sequence, wanted)


def test_over_chips_of_a_causal_ring() -> None:
    """Four chips of two tiles: contiguous ones have their own keys, and all of chips before."""
    found = of(variants.causal(), chips=4, placement="contiguous", columns=128)
    np.testing.assert_array_equal(found.owner, [0, 0, 1, 1, 2, 2, 3, 3])
    live = found.whole + found.cut
    assert not found.cut[1:].any() and found.cut[0].all()
    for hop, chip in np.ndindex(4, 4):
        assert bool(live[hop, chip]) == (hop <= chip)


@pytest.mark.parametrize("placement", PLACEMENTS)
def test_chips_work_on_what_is_live(placement: str) -> None:
    """Of full attention all is, wherever tokens stand; chips have as much."""
    found = of(variants.full(), chips=4, placement=placement)
    assert found.placed == placement and not found.cut.any()
    assert len(np.unique(found.whole)) == 1 and found.whole.min() > 0
    assert set(found.owner) <= set(range(4))


def test_masks_of_heads_are_counted() -> None:
    by_head = attention(lambda b, h, q, k: (k <= q) & (q - k < 128 * (h + 1)))
    assert (of(by_head).masks, of(attention(masks.causal)).masks) == (2, 1)
