"""What reports say of a reading: bands, what bounds a program, and when each engine was busy."""

import dataclasses
import math
from collections.abc import Callable
from typing import TypeVar

import numpy as np

from emu.clock.reading import IN_USE, THROTTLE, Event, Reading
from emu.datasheet import BANDS

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
    span = max(1, clock.end_ticks)
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
    # Busy time up to each edge: every event adds the part of it that lies before the edge.
    order = np.argsort(starts)
    starts, ends = starts[order], ends[order]
    total = np.concatenate([[0.0], np.cumsum(ends - starts)])
    done = np.searchsorted(starts, edges, side="right")
    # An event that goes on past the edge has not given all of its time yet.
    beyond = np.maximum(0.0, ends[np.maximum(done - 1, 0)] - edges)
    last = np.where(done > 0, beyond, 0.0)
    return np.diff(total[done] - last) / np.diff(edges)


def drawn(clock: Reading, columns: int = 64) -> str:
    """A program's timeline in text: a line per engine, a character per share of the time.

    Args:
      clock: read with `trace_core`.
      columns: characters a line.
    """
    end = clock.end_ticks
    edges = np.linspace(0, end, columns + 1)
    names = dict.fromkeys(event.engine for event in clock.events)
    engines = [name for name in names if name != THROTTLE and not name.endswith(IN_USE)]
    width = max(map(len, engines))
    lines: list[str] = []
    for engine in engines:
        shares = busy_share(clock.events, engine, edges)
        shades = [math.ceil(round(share * 4, 6)) for share in shares]
        bar = "".join(SHADES[shade] for shade in shades)
        lines.append(f"{engine:<{width}} {bar} {np.mean(shares):4.0%}")
    microseconds = end / clock.device.tick_hz * 1e6
    scale = f"{'0':<{columns - 12}}{microseconds:>9,.2f} us"
    return "\n".join([*lines, " " * width + " " + scale])
