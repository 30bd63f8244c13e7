"""Which keys a decoder's token attends to at every position, against the mask written out."""

import numpy as np
import pytest

from kernels import masks
from kernels.attention.keys_by_position import keys_by_position

HEADS = 3
MASKS = {
    "window": masks.window(4),
    "wide": masks.window(200),
    "sinks": masks.sinks(7, 3),
    "dilated": masks.dilated(3),
    "chunked": masks.chunked(50),
    "documents": masks.documents([3, 50, 60]),
    "prefix": masks.prefix(20),
    "full": masks.full,
    "ahead": lambda b, h, q, k: q - k < 3 * (h + 1),
    "not itself": lambda b, h, q, k: (k < q) & (q - k < 7),
    "by head": lambda b, h, q, k: (q - k < 3 * (h + 1)) | (k < 2 * h),
}


@pytest.mark.parametrize("context", [1, 5, 130, 300])
@pytest.mark.parametrize("name", MASKS)
def test_ranges_are_those_of_the_mask_written_out(name: str, context: int) -> None:
    mask = MASKS[name]
    h, q, k = np.indices((HEADS, context, context))
    attended = np.broadcast_to(np.asarray(mask(0 * h, h, q, k)), h.shape) & (k <= q)
    of_any = attended.any(0)
    some = of_any.any(-1)
    found = keys_by_position(mask, HEADS, context)
    np.testing.assert_array_equal(found.low, np.where(some, of_any.argmax(-1), 0))
    high = np.where(some, context - of_any[:, ::-1].argmax(-1), 0)
    np.testing.assert_array_equal(found.high, high)
    counts = attended.sum(-1)
    assert found.gaps == bool((counts != found.high - found.low).any())
    assert found.nothing == bool((counts == 0).any())
    last = of_any[-1]
    first_gap = int(last.argmin())
    sinks = first_gap if not last.all() and last[first_gap:].any() else 0
    assert found.sinks == sinks
    of_any[:, :sinks] = False
    behind = np.where(of_any.any(-1), of_any.argmax(-1), high)
    if sinks:
        np.testing.assert_array_equal(found.behind, behind)


def test_without_a_mask_all_keys_so_far_are_attended_to() -> None:
    found = keys_by_position(None, HEADS, 5)
    assert found.high.tolist() == [1, 2, 3, 4, 5] and not found.low.any()
    assert not (found.gaps or found.nothing or found.skips)


def test_a_long_context_takes_no_pair_of_tokens_in_hand() -> None:
    """Of 8.6 billion pairs of tokens only those of tiles at the window's ends are looked into."""
    found = keys_by_position(masks.window(4096), HEADS, 131_072)
    assert found.most == 4096 and not found.gaps and found.skips
