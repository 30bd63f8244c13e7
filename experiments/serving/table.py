"""Users' speeds as a table, and as rows of a file."""

from collections.abc import Iterator, Sequence
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

from emu.datasheet import BANDS
from experiments.serving.acceptance import Acceptance
from experiments.serving.measure import Served
from experiments.serving.pipelines import Piped
from experiments.shared.units import count, duration

HEADING = (
    *("model", "context", "wafers", "slots", "users", "draft", "ahead", "rate"),
    *(f"{band}_user_tokens_per_s" for band in BANDS),
    *(f"{band}_tokens_per_s" for band in BANDS),
    *(f"{band}_token_seconds" for band in BANDS),
    *("way_cycles", "bottleneck", "bottleneck_cycles", "at_work", "tokens_a_round"),
)
MEASURED_HEADING = (
    *("model", "draft", "ahead", "tokens", "proposed", "accepted", "rate"),
    *("rounds", "tokens_a_round"),
)
LEGEND = """\
a user: tokens a second of one user, low / nominal / high of the datasheet's numbers (low: the
shortest time); all: of all users; bottleneck: of the busiest region, the share of the time at work;
round: tokens that one trip of the last known token and the draft tokens behind it gives; right: the
probability that a draft token is the model's own, assumed"""
MEASURED_LEGEND = """\
right: of the draft tokens, those that are the model's own, measured: greedy text of the plain
float32 model, whose draft is itself with weights in codes, or a lookup in the text so far"""


def show(target: Piped, draft: Piped, rows: Sequence[Served], console: Console) -> None:
    """Prints a row for each number of users and each way of drafting."""
    plan = target.plan
    table = Table(
        title=f"{target.config.name} on {plan.wafers} WSE-3, {plan.users} slots of "
        f"{target.position + 1:,} tokens, all full; drafts by {draft.config.name} on "
        f"{draft.plan.wafers} more (predicted, not measured)",
        title_justify="left",
        box=box.SIMPLE_HEAD,
    )
    table.add_column("draft tokens", no_wrap=True)
    for name in ("users", "a user", "all", "a token", "bottleneck", "round"):
        table.add_column(name, justify="right", no_wrap=True)
    for row in rows:
        nominal = row.speeds["nominal"]
        told = "none" if row.rate is None else f"{row.ahead}, {row.rate:.0%} right"
        speeds = (f"{row.user_tokens_per_s(band):,.0f}" for band in BANDS)
        table.add_row(
            *(told, f"{row.users:,}", " / ".join(speeds)),
            count(row.tokens_per_s("nominal"), "tok/s"),
            " / ".join(duration(row.seconds[band]) for band in BANDS),
            f"{nominal.bottleneck} {nominal.at_work:.0%}",
            f"{nominal.tokens_a_round:.2f}",
        )
    console.print(table)


def lines(target: Piped, draft: Piped, rows: Sequence[Served]) -> Iterator[list[Any]]:
    """Rows of `serving.csv`, in the order of `HEADING`."""
    plan = target.plan
    for row in rows:
        nominal = row.speeds["nominal"]
        yield [
            *(target.config.name, target.position + 1, plan.wafers, plan.users),
            *(row.users, None if row.rate is None else draft.config.name),
            *(row.ahead, row.rate),
            *(row.user_tokens_per_s(band) for band in BANDS),
            *(row.tokens_per_s(band) for band in BANDS),
            *(row.seconds[band] for band in BANDS),
            *(nominal.way_cycles, nominal.bottleneck, nominal.bottleneck_cycles),
            *(nominal.at_work, nominal.tokens_a_round),
        ]


def show_measured(rows: Sequence[Acceptance], console: Console) -> None:
    """Prints what drafts were right in."""
    table = Table(
        title=f"{rows[0].model}: drafts measured on numbers",
        title_justify="left",
        box=box.SIMPLE_HEAD,
    )
    table.add_column("draft", no_wrap=True)
    for name in ("ahead", "tokens", "proposed", "right", "round"):
        table.add_column(name, justify="right", no_wrap=True)
    for row in rows:
        table.add_row(
            *(row.draft, str(row.ahead), str(row.tokens), str(row.proposed)),
            f"{row.rate:.0%}" if row.proposed else "-",
            f"{row.tokens_a_round:.2f}",
        )
    console.print(table)


def measured_lines(rows: Sequence[Acceptance]) -> Iterator[list[Any]]:
    """Rows of `serving_acceptance.csv`, in the order of `MEASURED_HEADING`."""
    for row in rows:
        yield [
            *(row.model, row.draft, row.ahead, row.tokens, row.proposed),
            *(row.accepted, row.rate, row.rounds, row.tokens_a_round),
        ]


__all__ = [
    "HEADING",
    "LEGEND",
    "MEASURED_HEADING",
    "MEASURED_LEGEND",
    "lines",
    "measured_lines",
    "show",
    "show_measured",
]
