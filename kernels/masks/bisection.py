"""Decides tiles that a mask allows in part, maybe: looks at corners, then bisects."""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from kernels.masks.catalogue import Mask
from kernels.masks.grids import (
    INNER_COUNT,
    INNER_STEP,
    OUTER_COUNT,
    OUTER_STEP,
    START,
    Columns,
)
from kernels.masks.strided import Bools, Ints, Strided
from kernels.masks.traced_mask import TracedMask

DEAD = 0
PARTIAL = 1
FULL = 2

CHUNK = 1 << 15  # boxes read at a time: their int64 columns stay in a core's cache


class MaskOfTokens:
    """A mask among the real tokens: nothing at or beyond `tokens` attends or is attended to."""

    def __init__(self, mask: Mask, tokens: int):
        self._mask = TracedMask(mask)
        self.tokens = tokens
        self.relative = self._mask.relative  # away from padding

    def points(self, q: Ints, k: Ints) -> Bools:
        """Whether `q` attends to `k`; integer arrays that broadcast against each other."""
        real = (q < self.tokens) & (k < self.tokens)
        return self._mask.points(q, k) & real

    def boxes(self, q: Strided, k: Strided) -> tuple[Bools, Bools]:
        """Whether all pairs of each box are allowed, and whether any may be."""
        real_q = self._without_padding(q)
        real_k = self._without_padding(k)
        # The traced mask knows nothing of padding, so it is asked about real positions only. Of the
        # whole box `every` then holds only if its last position is real too, and `some` only if its
        # first is.
        every, some, _ = self._mask.boxes(real_q, real_k)
        last = np.maximum(q.hi, k.hi)
        first = np.maximum(q.lo, k.lo)
        return every & (last < self.tokens), some & (first < self.tokens)

    def _without_padding(self, positions: Strided) -> Strided:
        """The real ones, where there are any: what is left may be decided."""
        lo, hi, step = positions
        room = self.tokens - 1 - lo
        stride = np.maximum(step, 1)
        # Of 100 tokens {90, 94, ..., 106} keeps {90, 94, 98}: 2 steps fit in the room of 9.
        steps = room // stride
        last_real = lo + steps * stride
        real_hi = np.minimum(hi, last_real)
        # All padding keeps its bounds, lest `hi` fall below `lo`; `boxes` calls it dead by its
        # first position.
        any_real = lo < self.tokens
        return Strided(lo, np.where(any_real, real_hi, hi), step)


def hull(columns: Columns) -> Strided:
    """The least set that holds each grid; columns `[5, n]`."""
    start, outer_step, outer_count, inner_step, inner_count = columns
    outer_extent = outer_step * (outer_count - 1)
    inner_extent = inner_step * (inner_count - 1)
    last = start + outer_extent + inner_extent
    # A level of one position takes no step; 0 leaves the other level's as it is.
    outer = np.where(outer_count > 1, outer_step, 0)
    inner = np.where(inner_count > 1, inner_step, 0)
    step = np.gcd(outer, inner)
    return Strided(start, last, one_if_alike(step))


def one_if_alike(steps: Ints) -> Ints:
    """One step for all where they agree: arithmetic on it is then free."""
    alike = len(steps) and (steps == steps[0]).all()
    return np.asarray(steps[0]) if alike else steps


class _Boxes(NamedTuple):
    """Undecided parts of tile pairs: all queries of a grid with all keys of another.

    Attributes:
      q, k: columns of the two grids, `[5, n]`.
      owner: which tile pair each is a part of, `[n]`.
    """

    q: Columns
    k: Columns
    owner: Ints

    def where(self, kept: Bools) -> "_Boxes":
        return _Boxes(self.q[:, kept], self.k[:, kept], self.owner[kept])

    def chunks(self) -> Iterator["_Boxes"]:
        for start in range(0, len(self.owner), CHUNK):
            part = slice(start, start + CHUNK)
            yield _Boxes(self.q[:, part], self.k[:, part], self.owner[part])


def bisected(
    mask: MaskOfTokens, q: Columns, k: Columns, *, live_only: bool = False
) -> np.ndarray:
    """The status of undecided pairs of grids, columns `[5, n]` each.

    Undecided boxes wait on a stack. A pair is closed as soon as it is known to hold an allowed and
    a forbidden pair of tokens; corners show that for most at once.

    Args:
      mask: among the real tokens.
      q, k: the grids.
      live_only: what is live is called `PARTIAL`; nobody looks whether it is full.
    """
    pairs = q.shape[1]
    allowed = np.zeros(pairs, bool)
    # That a pair is full has to be shown for all of it; that it is live one pair of tokens shows.
    forbidden = np.full(pairs, live_only)
    stack = [_Boxes(q, k, np.arange(pairs))]
    while stack:
        boxes = stack.pop()
        corners = mask.points(*_corners(boxes))
        any_corner = corners.any(axis=(0, 1))
        all_corners = corners.all(axis=(0, 1))
        allowed[boxes.owner[any_corner]] = True
        forbidden[boxes.owner[~all_corners]] = True

        # Of a single pair of tokens the corners said all.
        settled = (allowed & forbidden)[boxes.owner]
        several = _size(boxes.q) * _size(boxes.k) > 1
        undecided = boxes.where(several & ~settled)
        halves, every, some = _split(mask, undecided)
        allowed[halves.owner[every]] = True
        forbidden[halves.owner[~some]] = True
        # Last in, first out: a cut leaves one chunk more at most, so the stack is as high as boxes
        # can be halved. A queue would hold all boxes of one size at a time, at worst every pair of
        # tokens.
        stack += halves.where(some & ~every).chunks()
    of_allowed = np.where(forbidden, PARTIAL, FULL)
    return np.where(allowed, of_allowed, DEAD)


def _size(columns: Columns) -> Ints:
    """Positions of each grid."""
    return columns[OUTER_COUNT] * columns[INNER_COUNT]


def _corners(boxes: _Boxes) -> tuple[Ints, Ints]:
    """First and last position of both sides, `[2, 1, n]` and `[1, 2, n]`."""
    # A hull may hold positions that the grid does not, but both its ends are the grid's own:
    # corners are true examples, never bounds.
    of_q = hull(boxes.q)
    of_k = hull(boxes.k)
    q_ends = np.stack([of_q.lo, of_q.hi])
    k_ends = np.stack([of_k.lo, of_k.hi])
    return q_ends[:, None], k_ends[None]


def _split(mask: MaskOfTokens, boxes: _Boxes) -> tuple[_Boxes, Bools, Bools]:
    """Halves every box across the side whose halves say more, else across the longer.

    Returns:
      Twice the boxes, first halves first; whether all their pairs are allowed, and whether any
      may be.
    """
    q, k, owner = boxes
    owners = np.tile(owner, 2)
    q_size = _size(q)
    k_size = _size(k)
    q_halves = _halves(q, q_size > 1)
    k_halves = _halves(k, k_size > 1)
    # Both ways are asked: of queries 0..7 and keys 3..4, causal, the later half of the queries is
    # decided, every pair allowed, but neither key is.
    cut_q = _Boxes(q_halves, np.tile(k, 2), owners)
    cut_k = _Boxes(np.tile(q, 2), k_halves, owners)
    across_q = _Halves.of(mask, cut_q, q_size > 1)
    across_k = _Halves.of(mask, cut_k, k_size > 1)
    q_says_more = across_q.decided > across_k.decided
    say_as_much = across_q.decided == across_k.decided
    q_is_longer = q_size >= k_size
    pick_q = q_says_more | (say_as_much & q_is_longer)
    pick_q = np.tile(pick_q, 2)
    picked = _Boxes(
        np.where(pick_q, cut_q.q, cut_k.q),
        np.where(pick_q, cut_q.k, cut_k.k),
        owners,
    )
    every = np.where(pick_q, across_q.every, across_k.every)
    some = np.where(pick_q, across_q.some, across_k.some)
    return picked, every, some


class _Halves(NamedTuple):
    """Boxes cut across one side, first halves first, and what the mask says of them.

    Attributes:
      boxes: `[2 n]` of them.
      every, some: whether all pairs of each are allowed, and whether any may be.
      decided: `[n]`, how many of a box's two halves are decided; −1 where it cannot be cut.
    """

    boxes: _Boxes
    every: Bools
    some: Bools
    decided: Ints

    @staticmethod
    def of(mask: MaskOfTokens, boxes: _Boxes, possible: Bools) -> "_Halves":
        every, some = mask.boxes(hull(boxes.q), hull(boxes.k))
        decided = every | ~some
        of_two = decided.reshape(2, -1).sum(axis=0)
        return _Halves(boxes, every, some, np.where(possible, of_two, -1))


def _halves(columns: Columns, cut: Bools) -> Columns:
    """First halves, then second, of the outer steps while there are several, else of the inner.

    A tile of 3 × 4 positions becomes 1 × 4 and 2 × 4; of 1 × 4 it becomes 1 × 2 and 1 × 2.

    Args:
      columns: `[5, n]`.
      cut: where to cut; elsewhere a grid comes back twice.

    Returns:
      `[5, 2 n]`.
    """
    first = columns.copy()
    second = columns.copy()

    # A grid is cut only where it has several positions, so neither half is empty: 5 become 2 and 3.
    def cut_level(step: int, count: int, where: Bools) -> None:
        half = columns[count] // 2
        rest = columns[count] - half
        moved = columns[step] * half
        first[count] = np.where(where, half, first[count])
        second[count] = np.where(where, rest, second[count])
        second[START] += np.where(where, moved, 0)

    one_outer = columns[OUTER_COUNT] == 1
    cut_level(OUTER_STEP, OUTER_COUNT, cut & ~one_outer)
    cut_level(INNER_STEP, INNER_COUNT, cut & one_outer)
    return np.concatenate([first, second], axis=1)
