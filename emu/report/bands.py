"""What reports say of a reading: bands, what bounds a program, and when each engine was busy."""

import dataclasses
import math
from collections.abc import Callable
from typing import TypeVar

import numpy as np

from emu.clock.reading import Event, Reading
from emu.datasheet import BANDS
from emu.report.critical_path import instructions

T = TypeVar("T")

SHADES = " ░▒▓█"  # busy for none, some, half, most and all of a column


def banded(value: Callable[[str], T]) -> dict[str, T]:
    """`{"low": ..., "nominal": ..., "high": ...}` of a function of the band."""
    return {band: value(band) for band in BANDS}


@dataclasses.dataclass(frozen=True)
class Bound:
    """What keeps a program from being faster.

    Attributes:
      what: the busiest engine, or `dependency chain`.
      share: of the program's time that it accounts for by itself.
      engine, engine_share: the busiest engine and its busy share on its busiest core.
      chain_share: the time with unlimited engines and buffers, over the time.
    """

    what: str
    share: float
    engine: str
    engine_share: float
    chain_share: float

    def __str__(self) -> str:
        return f"{self.what} ({self.share:.0%} of the time)"


def bound(clock: Reading, critical: Reading) -> Bound:
    """What bounds a program: the larger of its busiest engine and its chain of dependencies.

    Args:
      clock: the reading.
      critical: the same program read with `contended=False`.
    """
    span = max(1, clock.end_ticks)  # of an empty program every share is 0
    busy_ticks = clock.most_busy_ticks
    engine = max(busy_ticks, key=lambda name: busy_ticks[name])
    busy = busy_ticks[engine] / span
    chain = critical.end_ticks / span
    if chain > busy:
        return Bound("dependency chain", chain, engine, busy, chain)
    return Bound(engine, busy, engine, busy, chain)


def busy_share(events: list[Event], engine: str, edges: np.ndarray) -> np.ndarray:
    """The share of each time bin in which an engine was busy.

    Args:
      events: of one core.
      engine: which engine.
      edges: ascending bin edges in ticks, `[bins + 1]`.

    Returns:
      float64 `[bins]`, 0 to 1.
    """
    own = [event for event in events if event.engine == engine]
    if not own:
        return np.zeros(len(edges) - 1)
    starts = np.array([event.start for event in own], np.float64)
    ends = np.array([event.end for event in own], np.float64)
    order = np.argsort(starts)
    starts = starts[order]
    ends = ends[order]
    # Busy time up to each edge is that of all events which began before it, less what the last of
    # them has still to give. Example: of events 0 to 4 and 6 to 10, at edge 8 two have begun, 8
    # ticks in all, of which 2 lie beyond: 6.
    begun = np.searchsorted(starts, edges, side="right")
    of_first = np.concatenate([[0.0], np.cumsum(ends - starts)])
    end_of_last = ends[np.maximum(begun - 1, 0)]
    beyond = np.where(begun > 0, np.maximum(0.0, end_of_last - edges), 0.0)
    busy_until = of_first[begun] - beyond
    return np.diff(busy_until) / np.diff(edges)


def _shade(share: float) -> str:
    # Rounded up, so that whatever works at all is seen; but not for a float's last bit.
    return SHADES[math.ceil(round(share * 4, 6))]


def drawn(clock: Reading, columns: int = 64) -> str:
    """A program's timeline in text: a line per engine, a character per share of the time.

    Below them stand the time, and of what machine and how many of its cores it is.

    Args:
      clock: read with `trace_core`.
      columns: characters a line.
    """
    end = clock.end_ticks
    edges = np.linspace(0, end, columns + 1)
    # Each once, in the order in which they first work.
    engines = dict.fromkeys(event.engine for event in instructions(clock.events))
    width = max(map(len, engines))
    lines: list[str] = []
    for engine in engines:
        shares = busy_share(clock.events, engine, edges)
        bar = "".join(_shade(share) for share in shares)
        lines.append(f"{engine:<{width}} {bar} {np.mean(shares):4.0%}")
    microseconds = end / clock.device.tick_hz * 1e6
    scale = f"{'0':<{columns - 12}}{microseconds:>9,.2f} us"
    return "\n".join([*lines, " " * width + " " + scale, clock.machine])
