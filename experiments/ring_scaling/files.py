"""Rings, thresholds and schemes as CSV and JSON."""

import dataclasses
from collections.abc import Sequence

from experiments.ring_scaling.cases import Point
from experiments.ring_scaling.measure import Row, as_dict
from experiments.ring_scaling.schemes import closed_bytes, winner
from experiments.ring_scaling.threshold import Threshold
from experiments.shared.output import Figures

COLUMNS = (
    "part",
    *(f.name for f in dataclasses.fields(Point)),
    "tokens",
    *(f.name for f in dataclasses.fields(Row) if f.name != "point"),
    "exposed_s",
    "closed_form_bytes",
    "fastest",
)


def records(sweep: Sequence[Row], groups: Sequence[list[Row]]) -> list[Figures]:
    """Every reading by column."""
    told = [{"part": "sweep"} | as_dict(r) for r in sweep]
    for group in groups:
        best = winner(group)
        for r in group:
            more = {"closed_form_bytes": closed_bytes(r.point), "fastest": r is best}
            told.append({"part": "schemes"} | as_dict(r) | more)
    return told


def as_json(
    told: Sequence[Figures],
    thresholds: Sequence[Threshold],
    wall_s: float,
    cpu_s: float,
) -> Figures:
    """Every figure."""
    return {
        "wall_s": wall_s,
        "cpu_s": cpu_s,
        "readings": list(told),
        "thresholds": [dataclasses.asdict(t) for t in thresholds],
    }
