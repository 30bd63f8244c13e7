"""Whole kernels that somebody timed: the rows of a file, and whether their order is kept."""

import csv
import dataclasses
import io
import math
import pathlib
import re
import statistics
from collections.abc import Sequence

from experiments.calibration.points import DATA
from experiments.shared.errors import UsageError
from models.errors import ModelError
from models.loading.untrusted import read_bytes

KERNELS = DATA / "kernels.csv"
COLUMNS = ("id", "device", "source_file", "shapes", "dtype", "metric", "value", "unit")
# Of a second; every latency is told in milliseconds.
UNITS = {"ns": 1e-9, "us": 1e-6, "ms": 1e-3, "s": 1.0}
PREDICTED = "predicted"
STEP = re.compile(r"(.+)-(\d+)")  # T1-AC-ATT-3 is step 3 of the ladder T1-AC-ATT


@dataclasses.dataclass(frozen=True)
class Measured:
    """A kernel's measured latency.

    Attributes:
      id, device: such as `T1-AC-ATT-3` and `trn1`.
      source_file: repository and path of the kernel, `owner/name path` or `owner/name:path`; the
        path may have `*`.
      shapes, dtype: of its arguments, in the source's words.
      latency_ms: as published.
      use: `fitted` where constants were fitted to it, else `predicted`.
      hbm_read_mb, hbm_write_mb: counted by the profiler, where published.
      source: of the measurement.
    """

    id: str
    device: str
    source_file: str
    shapes: str
    dtype: str
    latency_ms: float
    use: str = PREDICTED
    hbm_read_mb: float | None = None
    hbm_write_mb: float | None = None
    source: str = ""

    @property
    def ladder(self) -> str | None:
        """The row of steps that it is one of, by its id; None where it stands alone."""
        found = STEP.fullmatch(self.id)
        return None if found is None else found[1]


@dataclasses.dataclass(frozen=True)
class Predicted:
    """A measured kernel and what the clock says.

    Attributes:
      measured: the row.
      compiled_ms, literal_ms: latency by band, of either reading; empty where it cannot be read,
        as where a kernel does not fit as it is written.
      hbm_read_mb, hbm_write_mb: of the compiled reading.
      why: why it cannot be read.
    """

    measured: Measured
    compiled_ms: dict[str, float] = dataclasses.field(default_factory=dict)
    literal_ms: dict[str, float] = dataclasses.field(default_factory=dict)
    hbm_read_mb: float = 0.0
    hbm_write_mb: float = 0.0
    why: str = ""

    @property
    def error_percent(self) -> float:
        """Of the compiled reading's nominal latency."""
        return _error_percent(self.compiled_ms, self.measured)

    @property
    def literal_error_percent(self) -> float:
        """Of the literal reading's."""
        return _error_percent(self.literal_ms, self.measured)

    @property
    def is_inside(self) -> bool:
        """Whether the measured latency lies in the compiled reading's band."""
        low, high = self.compiled_ms["low"], self.compiled_ms["high"]
        return low <= self.measured.latency_ms <= high


def _error_percent(predicted_ms: dict[str, float], measured: Measured) -> float:
    return (predicted_ms["nominal"] / measured.latency_ms - 1) * 100


# --- the file ---


def read_kernels(path: pathlib.Path) -> list[Measured]:
    """The rows of a CSV file with the columns `COLUMNS` and more.

    Raises:
      UsageError: the file cannot be read, or a row breaks the schema.
    """
    remedy = "name a CSV file"
    try:
        text = read_bytes(path, remedy).decode("utf-8-sig")
        reader = csv.DictReader(io.StringIO(text, newline=""), strict=True)
        columns = reader.fieldnames or ()
        lacking = [column for column in COLUMNS if column not in columns]
        if lacking:
            raise UsageError(
                f"{path}: no column {', '.join(lacking)}, must have {','.join(COLUMNS)}"
            )
        rows = [_measured(row, f"{path}, line {reader.line_num}") for row in reader]
    except ModelError as error:
        raise UsageError(f"--kernels {error}") from None
    except (UnicodeDecodeError, csv.Error) as error:
        raise UsageError(
            f"--kernels {path}: cannot be read ({error}); {remedy}"
        ) from None
    if not rows:
        raise UsageError(f"{path}: no kernels, must have at least one row")
    return rows


def _measured(row: dict[str, str | None], where: str) -> Measured:
    def cell(column: str) -> str:
        return (row.get(column) or "").strip()

    if lacking := [
        column for column in COLUMNS if not cell(column) and column != "dtype"
    ]:
        raise UsageError(f"{where}: no {', '.join(lacking)}")
    if cell("metric") != "latency" or cell("unit") not in UNITS:
        raise UsageError(
            f"{where}: {cell('metric')} in {cell('unit')}, must be latency in "
            f"{', '.join(UNITS)}"
        )
    value = _number(cell("value"))
    if value is None or not 0 < value < math.inf:
        raise UsageError(
            f"{where}: value is {cell('value')!r}, must be a number above 0"
        )
    return Measured(
        id=cell("id"),
        device=cell("device"),
        source_file=cell("source_file"),
        shapes=cell("shapes"),
        dtype=cell("dtype"),
        latency_ms=round(value * UNITS[cell("unit")] * 1e3, 9),
        use=cell("use") or PREDICTED,
        hbm_read_mb=_number(cell("hbm_read_mb")),
        hbm_write_mb=_number(cell("hbm_write_mb")),
        source=cell("source"),
    )


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


# --- figures ---


def median_error_percent(rows: Sequence[Predicted], *, literal: bool = False) -> float:
    """Of the absolute errors."""
    if literal:
        errors = [row.literal_error_percent for row in rows if row.literal_ms]
    else:
        errors = [row.error_percent for row in rows]
    return statistics.median(map(abs, errors)) if errors else math.nan


def share_inside(rows: Sequence[Predicted]) -> float:
    """Of the rows whose measured latency lies in the band."""
    return sum(row.is_inside for row in rows) / len(rows)


def swaps(rows: Sequence[Predicted]) -> dict[str, list[tuple[str, str]]]:
    """By ladder, the neighbours in measured order that are not predicted in that order.

    Example: steps measured at 3.1, 2.9 and 1.6 ms that are predicted at 3.0, 3.2 and 1.5 ms have
    one swap, of the first two.
    """
    ladders: dict[str, list[Predicted]] = {}
    for row in rows:
        ladder = row.measured.ladder
        if ladder is not None:
            ladders.setdefault(ladder, []).append(row)
    found: dict[str, list[tuple[str, str]]] = {}
    for ladder, steps in ladders.items():
        if len(steps) < 2:
            continue
        steps.sort(key=lambda row: -row.measured.latency_ms)
        found[ladder] = [
            (slower.measured.id, faster.measured.id)
            for slower, faster in zip(steps, steps[1:], strict=False)
            if slower.compiled_ms["nominal"] < faster.compiled_ms["nominal"]
        ]
    return found


__all__ = [
    "KERNELS",
    "Measured",
    "Predicted",
    "median_error_percent",
    "read_kernels",
    "share_inside",
    "swaps",
]
