"""When NICs, links and the streams behind them are free, in whole numbers of one unit of time.

Times of a hand-off are exact fractions of a second. All of one are multiples of one fraction, in
which they are counted: `1/10 s` and `1/4 s` are 2 and 5 units of `1/20 s`. Sums and maxima of whole
numbers take a twentieth of the time that those of fractions do, and are as exact.
"""

import math
from collections.abc import Iterable, Mapping
from fractions import Fraction

Part = tuple[int, ...]
"""Which of a resource's parts: a chip's NIC, a wafer's link, a stream behind it."""


class Unit:
    """A fraction of a second of which all given times are multiples.

    Attributes:
      per_second: how many of it a second has.
    """

    def __init__(self, times: Iterable[Fraction]) -> None:
        self.per_second = math.lcm(*{time.denominator for time in times})

    def count(self, time_s: Fraction) -> int:
        """A time in this unit."""
        return time_s.numerator * (self.per_second // time_s.denominator)

    def seconds(self, count: int) -> Fraction:
        """The time of so many."""
        return Fraction(count, self.per_second)


class Resources:
    """Of each part of each resource, when it is free and for how long it was busy."""

    def __init__(self) -> None:
        self.free: dict[tuple[str, Part], int] = {}
        self.busy: dict[str, dict[Part, int]] = {}

    def take(self, resource: str, part: Part, start: int, taken: int) -> int:
        """When a part that serves in turn has done what may start then and takes so long."""
        key = resource, part
        self.free[key] = max(start, self.free.get(key, start)) + taken
        self.note(resource, part, taken)
        return self.free[key]

    def note(self, resource: str, part: Part, taken: int) -> None:
        """Counts what a part takes."""
        parts = self.busy.setdefault(resource, {})
        parts[part] = parts.get(part, 0) + taken

    def longest(self, unit: Unit) -> Mapping[str, Fraction]:
        """Of each resource, what its busiest part took, in seconds."""
        return {
            name: unit.seconds(max(parts.values())) for name, parts in self.busy.items()
        }


__all__ = ["Part", "Resources", "Unit"]
