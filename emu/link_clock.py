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


class Server:
    """One part of a resource, which does one thing after another.

    Attributes:
      free: when it can do the next one, in units.
      busy: for how long it was busy.
    """

    __slots__ = ("busy", "free")

    def __init__(self) -> None:
        self.free = 0
        self.busy = 0

    def take(self, start: int, taken: int) -> int:
        """When it has done what may start then and takes so long."""
        self.free = max(start, self.free) + taken
        self.busy += taken
        return self.free


def take_together(parts: Iterable[tuple[Server, int]], start: int) -> int:
    """When the last of several parts has done what may start then, each taking its own time.

    As `Server.take` of each, of which there are sixty for a message.
    """
    last = start
    for server, taken in parts:
        free = server.free
        done = (start if start > free else free) + taken
        server.free = done
        server.busy += taken
        if done > last:
            last = done
    return last


class Resources:
    """Of each resource, such as the wafers' links, its parts."""

    def __init__(self) -> None:
        self.servers: dict[str, dict[Part, Server]] = {}

    def server(self, resource: str, part: Part) -> Server:
        """That part, made when first asked for."""
        parts = self.servers.setdefault(resource, {})
        if part not in parts:
            parts[part] = Server()
        return parts[part]

    def longest(self, unit: Unit) -> Mapping[str, Fraction]:
        """Of each resource, for how long its busiest part was busy, in seconds."""
        return {
            name: unit.seconds(max(each.busy for each in parts.values()))
            for name, parts in self.servers.items()
        }


__all__ = ["Part", "Resources", "Server", "Unit", "take_together"]
