"""Times that are others, so many ticks later: an array that nobody has to write.

What tells the cores of a wafer apart is an exchange, after which each has its result at another
time. Until the next one they all do the same. Of two cores that are free in ticks 700 and 900, an
instruction of 30 ticks ends at 730 and 930, and the next one, of 50, at 780 and 980. A `Skew` holds
`[700, 900]`, and each `Shifted` that skew and a number: 0, 30 and 80. An addition is one of two
numbers, however many cores there are, and so is a comparison of two times of one skew.

Times of two skews are told apart by what is known of those. Cores that began a collective at
`[780, 980]`, 80 ticks after that skew, and are done with it at `[1150, 1160]`, are so 180 ticks
later at least: the new skew is 260 ticks behind the old one, and whatever was ready by 240 ticks
after the old one makes nobody wait any more. Only where that does not decide are arrays compared.
"""

import dataclasses
import weakref
from collections.abc import Mapping
from typing import TypeAlias

import numpy as np

PerCore: TypeAlias = int | np.ndarray
"""An integer of each core: one number where all agree, else an array broadcastable to the mesh."""

FAR = 1 << 60
"""Ticks between two times of which nothing is known."""


class Skew:
    """How far apart cores are.

    Attributes:
      times: of each core; nobody changes them.
      since: other skews to the ticks by which these times are later, on every core at least. Of
        skews that nobody uses any more there is nothing to know.
    """

    __slots__ = ("__weakref__", "since", "times")

    def __init__(
        self, times: np.ndarray, since: "Mapping[Skew, int] | None" = None
    ) -> None:
        self.times = times
        self.since: weakref.WeakKeyDictionary[Skew, int]
        self.since = weakref.WeakKeyDictionary(since or {})


AGREED = Skew(np.zeros((), np.int64))
"""That of cores which agree: tick 700 of all of them is 700 ticks after it."""


@dataclasses.dataclass(eq=False, frozen=True, slots=True)
class Shifted:
    """The times of a skew, so many ticks later."""

    skew: Skew
    ticks: int

    def __array__(
        self, dtype: np.dtype | None = None, copy: bool | None = None
    ) -> np.ndarray:
        times = self.skew.times
        if self.ticks or copy:
            times = np.asarray(times + self.ticks)
        return times if dtype is None else times.astype(dtype, copy=False)

    def __add__(self, other: "PerCore | Shifted") -> "Shifted":
        if isinstance(other, int):
            return Shifted(self.skew, self.ticks + other)
        if isinstance(other, Shifted):
            times = self.skew.times + other.skew.times
            return Shifted(Skew(times), self.ticks + other.ticks)
        least = int(np.min(other))
        since = {skew: ticks + least for skew, ticks in self.skew.since.items()}
        since[self.skew] = least
        return Shifted(Skew(self.skew.times + other, since), self.ticks)

    __radd__ = __add__

    def __sub__(self, other: "PerCore | Shifted") -> "int | Shifted":
        if isinstance(other, int):
            return Shifted(self.skew, self.ticks - other)
        other = _shifted(other)
        ticks = self.ticks - other.ticks
        if other.skew is self.skew:
            return ticks
        return Shifted(Skew(self.skew.times - other.skew.times), ticks)

    def __rsub__(self, other: PerCore) -> "int | Shifted":
        return _shifted(other) - self


AnyTimes: TypeAlias = PerCore | Shifted


def settled(times: AnyTimes) -> PerCore:
    """The same as a number or an array."""
    return np.asarray(times) if isinstance(times, Shifted) else times


def following(times: np.ndarray, start: AnyTimes) -> Shifted:
    """Times of an array, as those of what began at others."""
    before = _shifted(start)
    least = int(np.min(times - before.skew.times)) - before.ticks
    since = {skew: ticks + least for skew, ticks in _known_before(before).items()}
    return Shifted(Skew(times, since), 0)


def latest(first: AnyTimes, second: AnyTimes) -> AnyTimes:
    """The later of two times, core by core."""
    one, other = _shifted(first), _shifted(second)
    least, most = _apart(one, other)
    if least < 0 < most:
        least, most = _measured(one, other)
    if least >= 0:
        return first
    if most <= 0:
        return second
    since = _known_before(one)
    for skew, ticks in _known_before(other).items():
        since[skew] = max(ticks, since.get(skew, ticks))
    return Shifted(Skew(np.maximum(one, other), since), 0)


def chosen(mask: np.ndarray, new: AnyTimes, old: AnyTimes) -> AnyTimes:
    """`new` on the cores in `mask`, `old` elsewhere."""
    one, other = _shifted(new), _shifted(old)
    if one.skew is other.skew:
        if one.ticks == other.ticks:
            return new
        return Shifted(one.skew, 0) + np.where(mask, one.ticks, other.ticks)
    ones, others = _known_before(one), _known_before(other)
    since = {skew: min(ones[skew], others[skew]) for skew in ones if skew in others}
    return Shifted(Skew(np.where(mask, one, other), since), 0)


def no_earlier(first: AnyTimes, second: AnyTimes) -> bool | np.ndarray:
    """On which cores the first time is as late as the second."""
    one, other = _shifted(first), _shifted(second)
    least, most = _apart(one, other)
    if least < 0 <= most:
        least, most = _measured(one, other)
    if least >= 0:
        return True
    if most < 0:
        return False
    return np.asarray(one) >= np.asarray(other)


def equal(first: AnyTimes, second: AnyTimes) -> bool | np.ndarray:
    """On which cores two times are the same."""
    one, other = _shifted(first), _shifted(second)
    least, most = _apart(one, other)
    if least <= 0 <= most:
        least, most = _measured(one, other)
    if least > 0 or most < 0:
        return False
    if least == most:
        return True
    return np.asarray(one) == np.asarray(other)


def _shifted(times: AnyTimes) -> Shifted:
    if isinstance(times, Shifted):
        return times
    if isinstance(times, int):
        return Shifted(AGREED, times)
    return Shifted(Skew(times), 0)


def _known_before(time: Shifted) -> dict[Skew, int]:
    """Skews to the ticks by which a time is later than theirs, at least."""
    since = {skew: ticks + time.ticks for skew, ticks in time.skew.since.items()}
    since[time.skew] = time.ticks
    return since


def _apart(first: Shifted, second: Shifted) -> tuple[int, int]:
    """By how many ticks the first time is later than the second, at least and at most."""
    ticks = first.ticks - second.ticks
    if first.skew is second.skew:
        return ticks, ticks
    least = first.skew.since.get(second.skew, -FAR)
    most = -second.skew.since.get(first.skew, -FAR)
    return least + ticks, most + ticks


def _measured(first: Shifted, second: Shifted) -> tuple[int, int]:
    """The same, of their skews' arrays."""
    one, other = first.skew, second.skew
    # A bound both ways is known of what was measured before alone.
    if one is not other and not (other in one.since and one in other.since):
        apart = one.times - other.times
        one.since[other] = int(apart.min())
        other.since[one] = -int(apart.max())
    return _apart(first, second)


__all__ = [
    "AnyTimes",
    "PerCore",
    "Shifted",
    "Skew",
    "chosen",
    "equal",
    "following",
    "latest",
    "no_earlier",
    "settled",
]
