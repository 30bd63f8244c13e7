"""Which keys the newest query attends to: the range to go through, and whether it has gaps.

A decode step has one query, at the last position. Under `window(4096)` it attends to the last 4,096
keys whatever the context is, so a PE need not look at its other slots; under `dilated(8)` to every
eighth of all of them, which takes a mask on the PE.
"""

import dataclasses

import numpy as np

from emu import lower
from emu.lower import CannotLower, Elementwise, Input
from emu.tracing.scalar import defined_at
from kernels.masks import Mask

MASK_INPUTS = (
    Input("b", frozenset(), np.int32),
    Input("h", frozenset(), np.int32),
    Input("q", frozenset({"q"}), np.int32),
    Input("k", frozenset({"k"}), np.int32),
)


@dataclasses.dataclass(frozen=True, eq=False)
class Attended:
    """The keys of the newest query.

    Attributes:
      low, high: `[1]` or `[batch * kv_heads]`, positions `[low, high)` beyond which no query of
        that key/value head attends to any key; one for all where they agree.
      gap: positions `[from, to)`, the longest stretch within the range that nobody attends to where
        the range begins at 0, such as that between sinks and a window; None: there is none.
      gaps: whether a query leaves out keys within its range.
      nothing: whether some query attends to no key.
    """

    low: np.ndarray
    high: np.ndarray
    gap: tuple[int, int] | None
    gaps: bool
    nothing: bool


def read_mask(mask: Mask, name: str) -> Elementwise:
    """A mask as a line of operations.

    Raises:
      CannotLower: JAX cannot trace it, or it gives anything but one Boolean.
    """
    function = lower.read(mask, MASK_INPUTS, f"mask of {name}")
    if function.dtype_of(function.result).kind != "b":
        raise CannotLower(
            f"mask of {name}: gives {function.dtype_of(function.result)}, must give True or "
            "False",
            defined_at(mask),
        )
    return function


def attended(
    mask: Elementwise | None,
    batch: int,
    heads: int,
    kv_heads: int,
    context: int,
    query: int,
) -> Attended:
    """The keys of one query.

    Args:
      mask: of `b, h, q, k`; None: all.
      batch, heads, kv_heads: how many there are of each.
      context: keys in the cache.
      query: position of the query.
    """
    if mask is None:
        return Attended(np.array([0]), np.array([context]), None, False, False)
    allowed = _allowed(mask, batch, heads, context, query)
    batches, all_heads, _ = allowed.shape
    if all_heads > 1:
        allowed = allowed.reshape(batches, kv_heads, heads // kv_heads, context)
    else:
        allowed = allowed[:, None]
    of_group = np.any(allowed, axis=2)  # any query of a group
    counts = np.sum(of_group, axis=-1)
    low = np.where(counts, np.argmax(of_group, axis=-1), 0)
    backwards = np.flip(of_group, axis=-1)
    high = np.where(counts, context - np.argmax(backwards, axis=-1), 0)
    first = allowed[:, :, :1]
    alike = np.array_equal(allowed, np.broadcast_to(first, allowed.shape))
    gaps = not alike or not np.array_equal(counts, high - low)
    if of_group.size > context:
        low = np.broadcast_to(low, (batch, kv_heads))
        high = np.broadcast_to(high, (batch, kv_heads))
    low, high = low.reshape(-1), high.reshape(-1)
    if (low == low[0]).all() and (high == high[0]).all():
        low, high = low[:1], high[:1]
    nothing = not bool(np.all(np.any(allowed, axis=-1)))
    gap = _longest_gap(np.any(of_group, axis=(0, 1))) if gaps else None
    return Attended(low, high, gap, gaps, nothing)


def _longest_gap(attended: np.ndarray) -> tuple[int, int] | None:
    """Between two attended positions, if the first of all is 0."""
    positions = np.flatnonzero(attended)
    if len(positions) < 2 or positions[0] != 0:
        return None
    place = int(np.argmax(np.diff(positions)))
    before, after = int(positions[place]), int(positions[place + 1])
    return (before + 1, after) if after > before + 1 else None


def _allowed(
    mask: Elementwise, batch: int, heads: int, context: int, query: int
) -> np.ndarray:
    """Whether each key is attended to, `[batch or 1, heads or 1, context]`."""
    along = {
        "b": np.arange(batch),
        "h": np.arange(heads),
        "q": np.array([query]),
        "k": np.arange(context),
    }
    used = {
        name: values
        for name, values in along.items()
        if mask.depends_on(mask.result, name)
    }
    found = np.asarray(mask.over(mask.result, used))
    sizes = [len(along[name]) if name in used else 1 for name in ("b", "h", "k")]
    return np.broadcast_to(found.reshape(sizes), (*sizes[:2], context))


__all__ = ["Attended", "MASK_INPUTS", "attended", "read_mask"]
