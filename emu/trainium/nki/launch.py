"""What a kernel gives where its author's own script calls it: values, or a benchmark's latencies.

`NEURON_PLATFORM_TARGET_OVERRIDE` names the machine, as it does for the vendor's tools: `trn1`,
`trn2` (what is meant without it) or `trn3`.
"""

import contextlib
import dataclasses
import os
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from typing import Any

import numpy as np

from emu.datasheet import BANDS
from emu.errors import NkiError
from emu.trainium.nki.report import Report
from emu.trainium.nki.time import nki_time

MACHINE = "NEURON_PLATFORM_TARGET_OVERRIDE"
TIMED = ("benchmark", "profile")
"""Purposes of a decorator for which only the clock is read."""


class Launched(BaseException):
    """Ends a script at its first launch (`first_launch`); no handler of the script's takes it."""


@dataclasses.dataclass(frozen=True)
class Launch:
    """A kernel that a script has called.

    Attributes:
      arguments, keywords: as the script gave them.
      grid: of the launch.
    """

    arguments: tuple[Any, ...]
    keywords: dict[str, Any]
    grid: tuple[int, ...]


_WATCHED: ContextVar[list[Launch] | None] = ContextVar("watched", default=None)


class Latency:
    """`benchmark_result.nc_latency`: the band of the prediction in place of repeated runs.

    There is nothing random about a prediction: the lower half of the percentiles goes from the
    low to the nominal latency, the upper half on to the high one.
    """

    def __init__(self, report: Report):
        self._report = report

    def get_latency_percentile(self, percentile: float) -> float:
        """Microseconds."""
        if not 0 <= percentile <= 100:
            raise NkiError(f"percentile is {percentile}, must be from 0 to 100")
        known = [self._report.latency_us[band] for band in BANDS]
        return float(np.interp(percentile, (0, 50, 100), known))


class BenchmarkResult:
    """What `nki.benchmark` leaves on a kernel."""

    def __init__(self, report: Report):
        self.report = report
        self.nc_latency = Latency(report)
        self.device_latency = self.nc_latency


def machine() -> str:
    """Which Trainium a script's own calls are for."""
    return os.environ.get(MACHINE, "trn2")


def launch(
    kernel: Callable[..., Any],
    purpose: str,
    arguments: tuple[Any, ...],
    keywords: dict[str, Any],
    grid: tuple[int, ...],
) -> tuple[Report, Any]:
    """Times a kernel and, if it is not for its time alone, runs it on the arguments' values.

    Returns:
      The report, and the kernel's results or None.
    """
    watched = _WATCHED.get()
    if watched is not None:
        watched.append(Launch(arguments, keywords, grid))
        raise Launched
    report = nki_time(kernel, arguments, machine(), keywords=keywords, grid=grid)
    if purpose in TIMED:
        return report, None
    arrays = [x for x in (*arguments, *keywords.values()) if hasattr(x, "dtype")]
    return report, report.values(*arrays)


def first_launch(script: Callable[[], object]) -> Launch | None:
    """How a script launches its first kernel; it goes no further. None if it launches none."""
    watched: list[Launch] = []
    with _watching(watched), contextlib.suppress(Launched):
        script()
    return watched[0] if watched else None


@contextlib.contextmanager
def _watching(watched: list[Launch]) -> Iterator[None]:
    token = _WATCHED.set(watched)
    try:
        yield
    finally:
        _WATCHED.reset(token)


__all__ = [
    "BenchmarkResult",
    "Latency",
    "Launch",
    "Launched",
    "first_launch",
    "launch",
    "machine",
]
