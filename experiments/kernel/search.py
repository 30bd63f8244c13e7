"""A search over tile, block and buffer sizes for the setting with the shortest emulated time."""

import dataclasses
import itertools
import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from emu import EmulationError

Setting = dict[str, Any]
EXHAUSTIVE = 64  # settings up to which all are tried


@dataclasses.dataclass(frozen=True)
class Tried:
    """One setting and its time, or why it cannot run."""

    setting: Setting
    ticks: int | None
    reason: str = ""


@dataclasses.dataclass
class Search:
    """What was tried, in order.

    Attributes:
      tried: every setting once.
      exhaustive: whether that is the whole grid.
    """

    tried: list[Tried]
    exhaustive: bool

    @property
    def best(self) -> Tried | None:
        """The fastest setting, the first of several; None if none can run."""
        timed = [tried for tried in self.tried if tried.ticks is not None]
        return min(timed, key=lambda tried: tried.ticks or 0, default=None)

    def ranked(self) -> list[Tried]:
        """Fastest first, those that cannot run last."""
        return sorted(
            self.tried,
            key=lambda tried: math.inf if tried.ticks is None else tried.ticks,
        )


def search(
    time_ticks: Callable[[Setting], int],
    grid: Mapping[str, tuple[Any, ...]],
    tell: Callable[[int, int | None, Tried], None] = lambda *_: None,
    limit: int = EXHAUSTIVE,
) -> Search:
    """Tries all settings of a small grid; descends one parameter at a time in a large one.

    The same grid gives the same search: the order is the grid's own and ties go to the first.

    Args:
      time_ticks: the time of a setting; a setting that cannot run raises `EmulationError` or
        `ValueError`, whose message is kept as the reason.
      grid: parameter to its candidate values.
      tell: called as `(tried so far, of how many or None, the last)`.
      limit: settings up to which the grid is small.
    """
    size = math.prod(map(len, grid.values()))
    done: dict[tuple[Any, ...], Tried] = {}

    def attempt(setting: Setting) -> Tried:
        key = tuple(setting.values())
        if key not in done:
            done[key] = _time(time_ticks, setting)
            tell(len(done), size if size <= limit else None, done[key])
        return done[key]

    if size <= limit:
        for setting in _settings(grid):
            attempt(setting)
    else:
        _descend(attempt, grid)
    return Search(list(done.values()), len(done) == size)


def _settings(grid: Mapping[str, tuple[Any, ...]]) -> Iterator[Setting]:
    for values in itertools.product(*grid.values()):
        yield dict(zip(grid, values, strict=True))


def _time(time_ticks: Callable[[Setting], int], setting: Setting) -> Tried:
    try:
        return Tried(setting, time_ticks(setting))
    except (EmulationError, ValueError) as error:
        return Tried(setting, None, " ".join(str(error).split()))


def _descend(
    attempt: Callable[[Setting], Tried], grid: Mapping[str, tuple[Any, ...]]
) -> None:
    """Coordinate descent from the middle of the grid, or the first setting that can run."""
    middle = {name: values[len(values) // 2] for name, values in grid.items()}
    best = attempt(middle)
    if best.ticks is None:
        best = next(
            (
                tried
                for setting in _settings(grid)
                if (tried := attempt(setting)).ticks is not None
            ),
            best,
        )
    improved = best.ticks is not None
    while improved:
        improved = False
        for name, values in grid.items():
            line = [attempt({**best.setting, name: value}) for value in values]
            fastest = min(
                line, key=lambda tried: math.inf if tried.ticks is None else tried.ticks
            )
            if fastest.ticks is not None and fastest.ticks < (best.ticks or 0):
                best, improved = fastest, True
