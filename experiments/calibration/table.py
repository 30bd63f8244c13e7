"""Predictions beside measurements: the table, its statistics, the ladder and the CSV file."""

import dataclasses
import statistics
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Sequence
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from experiments.calibration.points import Point
from experiments.shared.output import Figures

MISS_PERCENT = 15
PREDICTED, FITTED = "predicted", "fitted"  # what a point was used for
# Case to the parameters that are the same along a ladder, and the one that differs.
LADDERS = {
    "matmul": (("m", "k", "n", "dtype"), "variant"),
    "decode_layer": (("d_model", "d_ff", "context", "dtype"), "grid"),
}
COLUMNS = "id,device,case,metric,measured,predicted,error_percent,status".split(",")


@dataclasses.dataclass(frozen=True)
class Row:
    """A point and its prediction.

    Attributes:
      point: the measurement.
      predicted: by band, in the point's unit; empty where it is unsupported.
      why: why it is unsupported.
      fitted: some number of the datasheets was fitted to it.
      machine: name of the datasheet, where that is not the device's own of today.
      today: what the device's own says then.
    """

    point: Point
    predicted: dict[str, float] = dataclasses.field(default_factory=dict)
    why: str = ""
    fitted: bool = False
    machine: str = ""
    today: float | None = None

    @property
    def use(self) -> str:
        return FITTED if self.fitted else PREDICTED

    @property
    def error_percent(self) -> float:
        measured = self.point.value
        return (self.predicted["nominal"] - measured) / measured * 100


def _ok(rows: Iterable[Row]) -> list[Row]:
    """Predicted rows, worst first."""
    return sorted(
        (row for row in rows if row.predicted), key=lambda row: -abs(row.error_percent)
    )


# --- for people ---


def show(rows: Sequence[Row], causes: dict[str, str], console: Console) -> None:
    """Prints the table, what is suspected of its misses, the statistics and the ladder."""
    ok = _ok(rows)
    sources = list(dict.fromkeys(row.point.source for row in ok))
    if ok:
        console.print(_table(ok, sources))
        for number, source in enumerate(sources, 1):
            console.print(
                f"[{number}] {source}", markup=False, highlight=False, soft_wrap=True
            )
    for row in misses(ok):
        cause = causes.get(row.point.id, "not known")
        console.print(f"{row.point.id}: suspected cause: {cause}", highlight=False)
    _show_unsupported([row for row in rows if not row.predicted], console)
    for line in [*accuracy_lines(ok), *ladder(ok), *earlier_lines(ok)]:
        console.print(line, highlight=False)


def _table(rows: list[Row], sources: list[str]) -> Table:
    table = Table(
        title="Predicted and measured, worst first; of one core of a chip, or of the PEs that the "
        "parameters name"
    )
    table.add_column("id", overflow="fold")
    table.add_column("machine", no_wrap=True)
    for name in ("case", "parameters"):
        table.add_column(name, overflow="fold")
    for name in ("measured", "predicted", "error", "band"):
        table.add_column(name, justify="right", no_wrap=True)
    for name in ("measurement", "use", "source"):
        table.add_column(name)
    for row in rows:
        point = row.point
        band = row.predicted.values()
        table.add_row(
            point.id,
            point.device,
            point.case,
            short(point.params),
            f"{point.value:.6g} {point.unit}",
            f"{row.predicted['nominal']:.6g}",
            f"{row.error_percent:+.1f} %",
            f"{min(band):.4g} - {max(band):.4g}",
            point.quality,
            row.use,
            f"[{sources.index(point.source) + 1}]",
        )
    return table


def short(params: dict[str, Any]) -> str:
    """Parameters in one line: numbers by name, names as they are."""
    return " ".join(
        str(value) if isinstance(value, str) else f"{key}={value}"
        for key, value in params.items()
    )


def _show_unsupported(rows: list[Row], console: Console) -> None:
    if not rows:
        return
    table = Table(title="Unsupported")
    for name in ("points", "device", "case", "why"):
        table.add_column(name, justify="right" if name == "points" else "left")
    counts = Counter((row.point.device, row.point.case, row.why) for row in rows)
    for told, times in counts.items():
        table.add_row(str(times), *told)
    console.print(table)


# --- figures ---


def accuracy(rows: Iterable[Row]) -> tuple[float, float]:
    """The median over cases of each case's median error, and points' 90th percentile, both in %."""
    # By case first: one with forty points would else outweigh twenty with two, and they are mostly
    # one kernel at other sizes.
    errors = [(row.point.case, abs(row.error_percent)) for row in rows]
    cases = _grouped(errors, lambda e: e[0]).values()
    medians = [statistics.median(error for _, error in case) for case in cases]
    return statistics.median(medians), float(
        np.percentile([error for _, error in errors], 90)
    )


def accuracy_lines(rows: Sequence[Row]) -> list[str]:
    """The accuracy of each device and of all: of what was only predicted, then of what was fitted.

    A fitted point says how well the numbers could be chosen, and only the others how far a
    prediction is to be believed.
    """
    devices = _grouped(rows, lambda row: row.point.device)
    groups = devices | ({"all devices": list(rows)} if len(devices) > 1 else {})
    lines = []
    for name, group in groups.items():
        for use, own in _by_use(group).items():
            median, ninetieth = accuracy(own)
            cases = {row.point.case for row in own}
            worst = max(abs(row.error_percent) for row in own)
            lines.append(
                f"{name}, {use}: median error {median:.1f} % over {_counted(cases, 'case')}, "
                f"90th percentile {ninetieth:.1f} %, worst {worst:.1f} % of "
                f"{_counted(own, 'point')}"
            )
    return lines


def _counted(things: Collection[object], name: str) -> str:
    return f"{len(things)} {name}{'s' * (len(things) != 1)}"


def _by_use(rows: Iterable[Row]) -> dict[str, list[Row]]:
    """The points that were only predicted and those that were fitted to, where there are any."""
    groups = _grouped(rows, lambda row: row.use)
    return {use: groups[use] for use in (PREDICTED, FITTED) if use in groups}


def misses(rows: Iterable[Row]) -> list[Row]:
    """The points further off than `MISS_PERCENT`, worst first."""
    return [row for row in _ok(rows) if abs(row.error_percent) > MISS_PERCENT]


def ladder(rows: Iterable[Row]) -> list[str]:
    """Whether what differs in one parameter on one device is predicted in the measured order."""
    groups = _grouped(
        (row for row in rows if row.point.case in LADDERS),
        lambda row: (
            row.point.device,
            row.point.case,
            *(row.point.params[size] for size in _sizes(row)),
        ),
    )
    lines = []
    for (device, case, *sizes), group in groups.items():
        if len(group) > 1:
            slowest_first = sorted(group, key=lambda row: -row.point.value)
            told = "x".join(str(size) for size in sizes if isinstance(size, int))
            names = " ".join(size for size in sizes if isinstance(size, str))
            order = _order(slowest_first, LADDERS[case][1])
            lines.append(f"ladder of {device} {told} {names}: {order}")
    return lines


def earlier_lines(rows: Iterable[Row]) -> list[str]:
    """What was measured under an earlier release, and how far off today's datasheet is of it.

    Example: `T1-MM-1L is of Trainium1 under SDK 2.21; Trainium1's datasheet of later releases
    predicts 23954.7 us, -53.8 %`.
    """
    lines = []
    for row in sorted(rows, key=lambda row: row.point.id):
        if row.today is not None:
            error = (row.today / row.point.value - 1) * 100
            lines.append(
                f"{row.point.id} is of {row.machine}; the datasheet of later releases predicts "
                f"{row.today:.6g} {row.point.unit}, {error:+.1f} %"
            )
    return lines


def _sizes(row: Row) -> tuple[str, ...]:
    return LADDERS[row.point.case][0]


def _order(rows: list[Row], varied: str) -> str:
    """`rows` are slowest first as measured."""
    # Neighbours suffice: an order that holds between them holds throughout.
    for slower, faster in zip(rows, rows[1:], strict=False):
        if slower.predicted["nominal"] <= faster.predicted["nominal"]:
            return f"not as measured: {faster.point.id} is not faster than {slower.point.id}"
    return (
        "as measured ("
        + " > ".join(str(row.point.params[varied]) for row in rows)
        + ")"
    )


def _grouped(rows: Iterable[Any], key: Callable[[Any], Any]) -> dict[Any, list[Any]]:
    groups: dict[Any, list[Any]] = {}
    for row in rows:
        groups.setdefault(key(row), []).append(row)
    return groups


# --- for programs ---


def as_line(row: Row) -> tuple[str, ...]:
    """A point's values of `COLUMNS`."""
    point = row.point
    found = ("", "", f"unsupported: {row.why}")
    if row.predicted:
        nominal = row.predicted["nominal"]
        found = (f"{nominal:.6g}", f"{row.error_percent:.2f}", "ok")
    measured = f"{point.value:.10g}"
    return (point.id, point.device, point.case, point.metric, measured, *found)


def as_json(rows: Sequence[Row]) -> Figures:
    """Every point with its prediction under each band, and the accuracy by device and use."""
    predicted = _ok(rows)
    devices = _grouped(predicted, lambda row: row.point.device)
    groups = {**devices, "all": predicted} if predicted else {}
    return {
        "points": [
            {
                **dataclasses.asdict(row.point),
                "predicted": row.predicted,
                "error_percent": row.error_percent if row.predicted else None,
                "fitted": row.fitted,
                "machine": row.machine,
                "of_later_releases": row.today,
                "unsupported": row.why,
            }
            for row in rows
        ],
        "accuracy_percent": {
            name: {
                use: dict(zip(("median", "ninetieth"), accuracy(own), strict=True))
                for use, own in _by_use(group).items()
            }
            for name, group in groups.items()
        },
    }
