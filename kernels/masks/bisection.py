"""Decides tiles that a mask allows in part, maybe: looks at corners, then bisects."""

from typing import Any, NamedTuple

import numpy as np

from kernels.masks.catalogue import Mask
from kernels.masks.strided import Strided
from kernels.masks.traced_mask import TracedMask

DEAD = 0
PARTIAL = 1
FULL = 2

CHUNK = 1 << 15  # boxes read at a time: their int64 columns stay in a core's cache


class Real:
    """A mask among the real tokens: nothing at or beyond `tokens` attends or is attended to."""

    def __init__(self, mask: Mask, tokens: int):
        self._mask, self.tokens = TracedMask(mask), tokens
        self.relative = self._mask.relative  # away from padding

    def points(self, q: Any, k: Any) -> np.ndarray:
        real = (q < self.tokens) & (k < self.tokens)
        return self._mask.points(q, k) & real

    def boxes(self, q: Strided, k: Strided) -> tuple[np.ndarray, np.ndarray]:
        """Whether all pairs of each box are allowed, and whether any may be."""
        answer = self._mask.boxes(self._clipped(q), self._clipped(k))
        every = (q.hi < self.tokens) & (k.hi < self.tokens)
        some = (q.lo < self.tokens) & (k.lo < self.tokens)
        return answer.lo & every, answer.hi & some

    def _clipped(self, x: Strided) -> Strided:
        """Without the padding, where there is anything else: what is left may be decided."""
        step = np.maximum(x.step, 1)
        last = x.lo + (self.tokens - 1 - x.lo) // step * step
        return Strided(
            x.lo, np.where(x.lo < self.tokens, np.minimum(x.hi, last), x.hi), x.step
        )


def hull(columns: np.ndarray) -> Strided:
    """The least set that holds each grid; columns `[5, n]`."""
    start, outer_step, outer_count, inner_step, inner_count = columns
    last = start + outer_step * (outer_count - 1) + inner_step * (inner_count - 1)
    step = np.gcd(
        np.where(outer_count > 1, outer_step, 0),
        np.where(inner_count > 1, inner_step, 0),
    )
    return Strided(start, last, scalar(step))


def scalar(step: np.ndarray) -> np.ndarray:
    """One step for all where they agree: arithmetic on it is then free."""
    return np.asarray(step[0]) if len(step) and (step == step[0]).all() else step


def bisected(real: Real, q: np.ndarray, k: np.ndarray) -> np.ndarray:
    """The status of undecided pairs of grids, columns `[5, n]` each.

    Undecided boxes wait on a stack. A pair is closed as soon as it is known to hold an allowed and
    a forbidden pair of tokens; corners show that for most at once.
    """
    allowed, forbidden = np.zeros((2, q.shape[1]), bool)
    stack = [(q, k, np.arange(q.shape[1]))]
    while stack:
        q, k, owner = stack.pop()
        corners = real.points(*_corners(q, k))
        allowed[owner[corners.any(axis=(0, 1))]] = True
        forbidden[owner[~corners.all(axis=(0, 1))]] = True
        unsettled = ~(allowed & forbidden)[owner] & (_size(q) * _size(k) > 1)
        q, k, owner, every, some = _split(real, *_kept(unsettled, q, k, owner))
        allowed[owner[every]] = True
        forbidden[owner[~some]] = True
        q, k, owner = _kept(some & ~every, q, k, owner)
        for start in range(0, len(owner), CHUNK):
            part = slice(start, start + CHUNK)
            stack.append((q[:, part], k[:, part], owner[part]))
    return np.where(allowed, np.where(forbidden, PARTIAL, FULL), DEAD)


def _kept(where: np.ndarray, q: np.ndarray, k: np.ndarray, owner: np.ndarray):
    return q[:, where], k[:, where], owner[where]


def _size(columns: np.ndarray) -> np.ndarray:
    return columns[2] * columns[4]


def _corners(q: np.ndarray, k: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """First and last position of both sides, `[2, 1, n]` and `[1, 2, n]`."""
    ends = (np.stack(hull(x)[:2]) for x in (q, k))
    of_q, of_k = ends
    return of_q[:, None], of_k[None]


def _split(real: Real, q: np.ndarray, k: np.ndarray, owner: np.ndarray):
    """Halves every box across the side whose halves say more, else across the longer.

    Returns:
      q, k, owner of twice the boxes; whether all their pairs are allowed, and whether any may be.
    """
    sizes = _size(q), _size(k)
    tall, wide = (
        _Halves.of(real, np.concatenate(a, axis=1), np.concatenate(b, axis=1), size > 1)
        for a, b, size in (
            (_halves(q, sizes[0] > 1), (k, k), sizes[0]),
            ((q, q), _halves(k, sizes[1] > 1), sizes[1]),
        )
    )
    ahead = tall.decided - wide.decided
    pick = np.tile((ahead > 0) | ((ahead == 0) & (sizes[0] >= sizes[1])), 2)
    parts = (np.where(pick, a, b) for a, b in zip(tall[:4], wide[:4], strict=True))
    q, k, every, some = parts
    return q, k, np.tile(owner, 2), every, some


class _Halves(NamedTuple):
    """Boxes cut across one side, first halves first, and how many of each two are decided."""

    q: np.ndarray
    k: np.ndarray
    every: np.ndarray
    some: np.ndarray
    decided: np.ndarray

    @staticmethod
    def of(real: Real, q: np.ndarray, k: np.ndarray, possible: np.ndarray) -> "_Halves":
        every, some = real.boxes(hull(q), hull(k))
        decided = (every | ~some).reshape(2, -1).sum(axis=0)
        return _Halves(q, k, every, some, np.where(possible, decided, -1))


def _halves(columns: np.ndarray, cut: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Both halves, of the outer steps while there are several; itself twice where not cut."""
    start, outer_step, outer_count, inner_step, inner_count = columns
    first, second = columns.copy(), columns.copy()
    for row, step, where in (
        (2, outer_step, cut & (outer_count > 1)),
        (4, inner_step, cut & (outer_count == 1)),
    ):
        half = columns[row] // 2
        first[row] = np.where(where, half, first[row])
        second[row] = np.where(where, columns[row] - half, second[row])
        second[0] += np.where(where, step * half, 0)
    return first, second
