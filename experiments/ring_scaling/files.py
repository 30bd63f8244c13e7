"""Rings, thresholds and schemes as CSV and JSON."""

import csv
import dataclasses
import pathlib
from collections.abc import Sequence
from typing import Any

from experiments.ring_scaling.cases import Point
from experiments.ring_scaling.measure import Row, as_dict
from experiments.ring_scaling.schemes import closed_bytes, winner
from experiments.ring_scaling.threshold import Threshold
from experiments.shared.errors import UsageError

COLUMNS = (
    "part",
    *(f.name for f in dataclasses.fields(Point)),
    "tokens",
    *(f.name for f in dataclasses.fields(Row) if f.name != "point"),
    "exposed_s",
    "closed_form_bytes",
    "fastest",
)


def records(sweep: Sequence[Row], groups: Sequence[list[Row]]) -> list[dict[str, Any]]:
    """Every reading by column."""
    told = [{"part": "sweep"} | as_dict(r) for r in sweep]
    for group in groups:
        best = winner(group)
        for r in group:
            more = {"closed_form_bytes": closed_bytes(r.point), "fastest": r is best}
            told.append({"part": "schemes"} | as_dict(r) | more)
    return told


def write_csv(told: Sequence[dict[str, Any]], path: pathlib.Path) -> None:
    """Writes a line per reading; thresholds are in the JSON file only.

    Raises:
      UsageError: the file cannot be written.
    """
    try:
        with path.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, COLUMNS)
            writer.writeheader()
            writer.writerows(told)
    except OSError as e:
        raise UsageError(f"{path}: cannot be written ({e.strerror or e})") from None


def as_json(
    told: Sequence[dict[str, Any]],
    thresholds: Sequence[Threshold],
    wall_s: float,
    cpu_s: float,
) -> dict[str, Any]:
    """Every figure."""
    return {
        "wall_s": wall_s,
        "cpu_s": cpu_s,
        "readings": list(told),
        "thresholds": [dataclasses.asdict(t) for t in thresholds],
    }
