"""The errors of rings as a table, and as CSV and JSON."""

import dataclasses
from collections.abc import Sequence
from typing import Any

from rich.console import Console
from rich.table import Table

from experiments.ring_precision.earlier import DTYPE, EARLIER, MASK, TOKENS
from experiments.ring_precision.measure import HEAD_DIM, HEADS, Gap, Row
from experiments.ring_precision.oracle import SEED, SIGMA_Q
from experiments.shared.output import Figures

GAPS = ("sums", "output", "drawn")
HEADINGS = ("sums", "result", "drawn")
LEGEND = """\
sums: what the last hop leaves, divided in float64, against float64 on the rounded operands
result: the kernel's, rounded once more to the output's dtype; drawn: against operands not rounded
rms: over the output's rms; max: over its largest value"""
FIELDS = tuple(field.name for field in dataclasses.fields(Gap))
COLUMNS = (
    "dtype",
    "recipe",
    "ranks",
    *(f"{gap}_{field}" for gap in GAPS for field in FIELDS),
    "rms",
    "largest",
)


# --- for people ---


def show(rows: Sequence[Row], tokens: int, mask: str, console: Console) -> None:
    """Prints the errors, and those of an earlier measurement where it was of the same sizes."""
    console.print(_table(rows, tokens, mask))
    console.print(LEGEND, highlight=False, soft_wrap=True)
    if grown := _growth(rows):
        console.print(
            f"rms of sums from the first ring to the last: {grown}", soft_wrap=True
        )
    same = earlier(rows) if (tokens, mask) == (TOKENS, MASK) else []
    if same:
        console.print(_beside(same))


def _table(rows: Sequence[Row], tokens: int, mask: str) -> Table:
    table = Table(title=f"Error of ring attention: {tokens:,} tokens, {mask} mask")
    for name in ("dtype", "recipe"):
        table.add_column(name, no_wrap=True)
    table.add_column("ranks", justify="right")
    for name in HEADINGS:
        table.add_column(f"{name}:\nrms", justify="right")
        table.add_column("\nmax", justify="right")
    ordered = _ordered(rows)
    for number, row in enumerate(ordered):
        last = number + 1 == len(ordered) or (
            ordered[number + 1].dtype,
            ordered[number + 1].recipe,
        ) != _line(row)
        gaps = (getattr(row, gap) for gap in GAPS)
        told = (
            f"{share:.1e}" for gap in gaps for share in (gap.of_rms, gap.of_largest)
        )
        table.add_row(*_line(row), str(row.ranks), *told, end_section=last)
    return table


def _line(row: Row) -> tuple[str, str]:
    return row.dtype, row.recipe


def _ordered(rows: Sequence[Row]) -> list[Row]:
    """Line by line, as first met."""
    lines = list(dict.fromkeys(_line(row) for row in rows))
    return sorted(rows, key=lambda row: (lines.index(_line(row)), row.ranks))


def _growth(rows: Sequence[Row]) -> str:
    """How much each line's error of sums grows from its smallest to its largest ring."""
    told = []
    for line in dict.fromkeys(_line(row) for row in rows):
        own = [row for row in _ordered(rows) if _line(row) == line]
        first, last = own[0], own[-1]
        if last.ranks > first.ranks:
            factor = last.sums.rms / first.sums.rms
            told.append(f"{' '.join(line)} x{factor:.2f}")
    return ", ".join(told)


def earlier(rows: Sequence[Row]) -> list[tuple[Any, Row]]:
    """The points of the earlier measurement that were measured again."""
    found = {(row.recipe, row.ranks): row for row in rows if row.dtype == DTYPE}
    return [
        (before, found[before.recipe, before.ranks])
        for before in EARLIER
        if (before.recipe, before.ranks) in found
    ]


def _beside(pairs: Sequence[tuple[Any, Row]]) -> Table:
    table = Table(
        title=f"{DTYPE}, absolute, beside an earlier measurement of unknown tiling"
    )
    table.add_column("recipe")
    for name in (
        "ranks",
        "rms then",
        "sums now",
        "result now",
        "max then",
        "sums now",
        "result now",
    ):
        table.add_column(name, justify="right")
    for before, row in pairs:
        then = "" if before.largest is None else f"{before.largest:.1e}"
        table.add_row(
            before.recipe,
            str(before.ranks),
            f"{before.rms:.1e}",
            f"{row.sums.rms:.1e}",
            f"{row.output.rms:.1e}",
            then,
            f"{row.sums.largest:.1e}",
            f"{row.output.largest:.1e}",
        )
    return table


# --- for programs ---


def lines(rows: Sequence[Row]) -> list[list[str | int]]:
    """Each ring's values of `COLUMNS`."""
    told = []
    for row in _ordered(rows):
        gaps = [getattr(getattr(row, gap), field) for gap in GAPS for field in FIELDS]
        figures = [f"{value:.6g}" for value in (*gaps, row.rms, row.largest)]
        told.append([row.dtype, row.recipe, row.ranks, *figures])
    return told


def as_json(
    rows: Sequence[Row],
    tokens: int,
    mask: str,
    wall_s: float,
    left_out: str | None = None,
) -> Figures:
    """Sizes, and every figure of every ring; `left_out` says of `--quick` what it leaves out."""
    return {
        "quick_leaves_out": left_out,
        "tokens": tokens,
        "mask": mask,
        "heads": HEADS,
        "head_dim": HEAD_DIM,
        "sigma_q": SIGMA_Q,
        "seed": SEED,
        "wall_s": wall_s,
        "rings": [dataclasses.asdict(row) for row in _ordered(rows)],
    }
