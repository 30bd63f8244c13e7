"""Rings, thresholds and schemes as CSV and JSON."""

import dataclasses
from collections.abc import Sequence

from experiments.ring_scaling.cases import MACHINES, Point
from experiments.ring_scaling.measure import Row, as_dict
from experiments.ring_scaling.schemes import closed_bytes, winner
from experiments.ring_scaling.threshold import Threshold
from experiments.shared.output import Figures

COLUMNS = (
    "part",
    *(field.name for field in dataclasses.fields(Point)),
    "tokens",
    *(field.name for field in dataclasses.fields(Row) if field.name != "point"),
    "exposed_s",
    "closed_form_bytes",
    "fastest",
)


def records(sweep: Sequence[Row], groups: Sequence[list[Row]]) -> list[Figures]:
    """Every reading by column."""
    told = [{"part": "sweep"} | as_dict(row) for row in sweep]
    for group in groups:
        best = winner(group)
        for row in group:
            more = {
                "closed_form_bytes": closed_bytes(row.point),
                "fastest": row is best,
            }
            told.append({"part": "schemes"} | as_dict(row) | more)
    return told


def as_json(
    told: Sequence[Figures],
    thresholds: Sequence[Threshold],
    wall_s: float,
    cpu_s: float,
    left_out: str | None = None,
) -> Figures:
    """Every figure; `left_out` says of `--quick` what it leaves out."""
    return {
        "machines": {
            name: machine.sheet.deployed for name, machine in MACHINES.items()
        },
        "quick_leaves_out": left_out,
        "wall_s": wall_s,
        "cpu_s": cpu_s,
        "readings": list(told),
        "thresholds": [dataclasses.asdict(threshold) for threshold in thresholds],
    }
