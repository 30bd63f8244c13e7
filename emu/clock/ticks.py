"""Times over a mesh: a Python int where every core agrees, else an `int64` array of its rank.

Arrays are broadcastable to the mesh, each dimension of full size or 1. Cores agree until a
collective or a branch tells them apart, and an int costs a tenth of the smallest array. Where all
instructions of a core follow one another, times are held as others shifted (`emu.clock.skew`).

On a mesh of 2 x 3 cores `700` is tick 700 on all six, `[[700], [900]]` has the second row 200 ticks
later, and `later(800, [[700], [900]])` is `[[800], [900]]`.
"""

from collections.abc import Sequence
from typing import TypeAlias, overload

import numpy as np

from emu.clock import skew
from emu.clock.skew import PerCore, Shifted, settled

Ticks: TypeAlias = PerCore | Shifted
"""A time in ticks, or any other integer that may differ between cores."""

Flags: TypeAlias = bool | np.ndarray
"""Whether something holds: on all cores alike, or core by core."""

Active: TypeAlias = np.ndarray | None
"""The cores that take part, as booleans broadcastable to the mesh; None for all."""


LATE = 1 << 56
"""In place of a time that is later than all else of one core: see `emu.loops.late`."""


@overload
def is_late(time: int) -> bool: ...
@overload
def is_late(time: np.ndarray) -> np.ndarray: ...
def is_late(time: PerCore) -> Flags:
    """Whether a time of one core is `LATE` or follows from it."""
    # No kernel takes 2**55 ticks, and nothing that follows from `LATE` is so much earlier.
    return time >= LATE >> 1


def later(first: Ticks, second: Ticks) -> Ticks:
    """The later of two times, core by core."""
    # Two clocks set by one instruction hold one array: its maximum with itself needs no new one.
    if first is second:
        return first
    if type(first) is int and type(second) is int:
        return first if first >= second else second
    if isinstance(first, Shifted) or isinstance(second, Shifted):
        return skew.latest(first, second)
    return np.maximum(first, second)


def select(active: Active, new: Ticks, old: Ticks) -> Ticks:
    """`new` on the active cores, `old` elsewhere."""
    if active is None or new is old:
        return new
    if type(new) is int and type(old) is int and new == old:
        return new
    if isinstance(new, Shifted) or isinstance(old, Shifted):
        return skew.chosen(active, new, old)
    return np.where(active, new, old)


def folded(times: np.ndarray, but: int) -> np.ndarray:
    """Times with dimensions of size 1 where they agree along them, all `but` one looked at.

    Of cores in 3 x 2 whose times are `[[5, 5], [7, 7], [9, 9]]` the two columns are told by
    `[[5], [7], [9]]`.
    """
    for dimension in range(times.ndim):
        if dimension == but or times.shape[dimension] == 1:
            continue
        all_before = (slice(None),) * dimension
        first = times[*all_before, slice(1)]
        last = times[*all_before, slice(-1, None)]
        # Where they differ the two ends do, nearly always.
        if (last == first).all() and (times == first).all():
            times = first
    return times


def no_earlier(first: Ticks, second: Ticks) -> Flags:
    """On which cores the first time is as late as the second."""
    if isinstance(first, Shifted) or isinstance(second, Shifted):
        return skew.no_earlier(first, second)
    return first >= second


def equal(first: Ticks, second: Ticks) -> Flags:
    """On which cores two times are the same."""
    if isinstance(first, Shifted) or isinstance(second, Shifted):
        return skew.equal(first, second)
    return first == second


def same(first: Ticks, second: Ticks) -> bool:
    """Whether two times are equal on every core."""
    if type(first) is int and type(second) is int:
        return first == second
    # Broadcast: 700 and `[[700], [700]]` are the same time on every core.
    return first is second or bool(np.all(equal(first, second)))


def anywhere(condition: Flags) -> bool:
    """Whether a comparison of times holds on some core."""
    if type(condition) is bool:
        return condition
    return bool(np.any(condition))


def on_core(time: Ticks, grid: tuple[int, ...], core: tuple[int, ...]) -> int:
    """One core's time."""
    if type(time) is int:
        return time
    if isinstance(time, Shifted):
        return on_core(time.skew.times, grid, core) + time.ticks
    everywhere = np.broadcast_to(time, grid)
    return int(everywhere[core])


def plain(time: Ticks) -> int:
    """A time of a mesh of one core."""
    return time if type(time) is int else int(np.max(time))


def flat(times: Sequence[Ticks]) -> np.ndarray:
    """Times one after another in one array."""
    if all(type(time) is int for time in times):
        return np.array(times, np.int64)
    # Their shapes are lost here; those who compare compare them apart (`Snapshot.form`).
    each = [np.asarray(time, np.int64).ravel() for time in times]
    return np.concatenate(each)


__all__ = [
    "Active",
    "Flags",
    "LATE",
    "PerCore",
    "Shifted",
    "Ticks",
    "anywhere",
    "equal",
    "flat",
    "folded",
    "is_late",
    "later",
    "no_earlier",
    "on_core",
    "plain",
    "same",
    "select",
    "settled",
]
