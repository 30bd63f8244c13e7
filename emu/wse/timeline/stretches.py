"""Maxima over stretches of a line: who is latest among those that a PE has to wait for."""

import numpy as np

from emu.wse.timeline.times import Times

NEVER = np.int64(-(1 << 60))
"""Earlier than any time: what a PE that waits for nobody waits for."""


def latest(times: Times, start: np.ndarray) -> Times:
    """`max(times[..., start[i] : i + 1, :])` for each i: maxima over stretches that end at i.

    A stretch is covered by two of the largest power of two that fits, which may overlap. `doubled`
    holds the maxima of the 2^k entries that end at each place, for one k after the other. Of times
    3 1 4 1 5 the stretch from place 1 to 3 has three entries, so k is 1: of two entries ending at
    2 the maximum is 4, of those ending at 3 it is 4 too.

    Args:
      times: `[..., n, lines]`.
      start: `[..., n]`, the same leading sizes or 1; `0 <= start[i] <= i`.
    """
    places = times.shape[-2]
    entries = np.arange(places) - start + 1
    # Exact: `log2` of a power of two is a whole number, and 2^20 - 1 entries, more than a wafer has
    # PEs, still give 19.9999986.
    level = np.log2(entries).astype(int)
    found = np.empty_like(times)
    doubled = times
    highest = int(level.max(initial=0))
    for k in range(highest + 1):
        length = 1 << k
        if k:
            doubled = _doubled(doubled, length // 2)
        this_long = level == k
        # Of stretches of another level it is no end, and may lie beyond the last place.
        first_end = np.minimum(start + length - 1, places - 1)
        first_end = np.broadcast_to(first_end[..., None], times.shape)
        first_half = np.take_along_axis(doubled, first_end, axis=-2)
        both_halves = np.maximum(doubled, first_half)
        np.copyto(found, both_halves, where=this_long[..., None])
    return found


def _doubled(maxima: Times, half: int) -> Times:
    """Maxima of twice as many entries, from those of the `half` that end at each place."""
    # Places with fewer entries before them keep shorter maxima, which no stretch asks for: it would
    # have to start before place 0.
    ends_here = maxima[..., half:, :]
    ends_before = maxima[..., :-half, :]
    both = np.maximum(ends_here, ends_before)
    return np.concatenate([maxima[..., :half, :], both], axis=-2)


__all__ = ["NEVER", "latest"]
