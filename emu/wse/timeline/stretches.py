"""Maxima over stretches of a line: who is latest among those that a PE has to wait for."""

import numpy as np

NEVER = np.int64(-(1 << 60))
"""Earlier than any time: what a PE that waits for nobody waits for."""


def latest(times: np.ndarray, start: np.ndarray) -> np.ndarray:
    """`max(times[..., start[i] : i + 1, :])` for each i: maxima over stretches that end at i.

    A stretch is covered by two of the largest power of two that fits, which may overlap. `doubled`
    holds the maxima of the 2^k entries that end at each place, for one k after the other. Of times
    3 1 4 1 5 the stretch from place 1 to 3 has three entries, so k is 1: of two entries ending at
    2 the maximum is 4, of those ending at 3 it is 4 too.

    Args:
      times: `[..., n, lines]`.
      start: `[..., n]`, the same leading sizes or 1; `0 <= start[i] <= i`.
    """
    n = times.shape[-2]
    end = np.arange(n)
    level = np.log2(end - start + 1).astype(int)
    found = np.empty_like(times)
    doubled = times
    for k in range(int(level.max(initial=0)) + 1):
        if k:
            half = 1 << (k - 1)
            both = np.maximum(doubled[..., half:, :], doubled[..., :-half, :])
            doubled = np.concatenate([doubled[..., :half, :], both], axis=-2)
        here = np.broadcast_to((level == k)[..., None], times.shape)
        end_of_first = np.broadcast_to((start + (1 << k) - 1)[..., None], times.shape)
        end_of_first = np.minimum(end_of_first, n - 1)
        first = np.take_along_axis(doubled, end_of_first, axis=-2)
        np.copyto(found, np.maximum(doubled, first), where=here)
    return found


__all__ = ["NEVER", "latest"]
