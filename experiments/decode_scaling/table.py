"""Speeds and causes as tables, and as rows of files."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

from emu.datasheet import BANDS
from experiments.decode_scaling.grids import GridLayer
from experiments.decode_scaling.speeds import Compared, Speed, median_error
from experiments.shared.units import duration

SPEED_HEADING = (
    "model",
    "held",
    "context",
    "users",
    "wafers",
    "pes",
    "fullest_pe_bytes",
    *(f"{band}_cycles" for band in BANDS),
    *(f"{band}_seconds" for band in BANDS),
    *(f"{band}_tokens_per_s" for band in BANDS),
    *(f"{band}_drafted_tokens_per_s" for band in BANDS),
    "drafts_ahead",
    "bottleneck_seconds",
    "host_cycles",
    "crossings",
    "refusal",
)
PUBLISHED_HEADING = (
    "model",
    "published_model",
    "drafts",
    "published_tokens_per_s",
    "published_wafers",
    "plain_tokens_per_s",
    "drafted_tokens_per_s",
    "error",
    "wafers",
    "date",
    "kind",
    "source",
)
GRID_HEADING = ("kernel", "machine", "rows", "columns", "cycles", "published_cycles")
LEGEND = """\
speed: tokens a second of one user, token after token, low / nominal / high time of the datasheets'
numbers; drafted: with draft tokens right four times in five that take a tenth of a token's time
(0.9 and a twentieth, 0.6 and a fifth), as many ahead as is best; fullest PE: its bytes of 48 KiB"""
PUBLISHED_LEGEND = """\
drafts: whether the published speed had draft tokens; where it did, or does not say, the error is of
our drafted speed. No number of ours was fitted to these. Wafers: ours, the fewest that hold the
model; published where the source tells them"""
CAUSES_LEGEND = """\
causes: what each saves where it takes no time and those above it, from hops on, take none either;
wafer to wafer and region to region: beyond what a layer takes whose region touches the last"""


def show_speeds(speeds: Sequence[Speed], console: Console) -> None:
    """Prints each model's speed, and below why some do not fit."""
    table = Table(box=box.SIMPLE_HEAD, title="decode on WSE-3", title_justify="left")
    for name in ("model", "held in"):
        table.add_column(name, no_wrap=True)
    for name in (
        *("context", "users", "wafers", "fullest PE", "cycles", "time a token"),
        *("tokens/s a user", "drafted"),
    ):
        table.add_column(name, justify="right", no_wrap=True)
    for each in speeds:
        table.add_row(*_speed_cells(each))
    console.print(table)
    for each in speeds:
        if each.refusal:
            console.print(f"{each.model.config.name}: {each.refusal}", highlight=False)
    console.print(LEGEND, highlight=False)


def _speed_cells(each: Speed) -> Iterator[str]:
    model = each.model
    yield model.config.name
    yield model.precision.name
    yield f"{model.context:,}"
    yield f"{model.users:,}"
    if each.refusal:
        yield "does not fit"
        return
    yield f"{model.plan.wafers}"
    yield f"{sum(model.plan.layer_bytes.values()):,}"
    yield f"{each.cycles():,}"
    yield duration(each.seconds())
    yield " / ".join(f"{each.tokens_per_s(band):,.0f}" for band in BANDS)
    yield f"{each.drafted().tokens_per_s:,.0f} ({each.drafted().ahead} ahead)"


def speed_lines(speeds: Sequence[Speed]) -> Iterator[list[Any]]:
    """Rows of `decode_scaling.csv`, in the order of `SPEED_HEADING`."""
    for each in speeds:
        model = each.model
        known = [
            *(model.config.name, model.precision.name),
            *(model.context, model.users),
        ]
        if each.refusal:
            unknown = [None] * (len(SPEED_HEADING) - len(known) - 1)
            yield [*known, *unknown, each.refusal]
            continue
        yield [
            *known,
            model.plan.wafers,
            model.plan.pes,
            sum(model.plan.layer_bytes.values()),
            *(each.cycles(band) for band in BANDS),
            *(each.seconds(band) for band in BANDS),
            *(each.tokens_per_s(band) for band in BANDS),
            *(each.drafted(band).tokens_per_s for band in BANDS),
            each.drafted().ahead,
            each.bottleneck_s(),
            each.host_cycles,
            each.crossings,
            "",
        ]


def show_published(compared: Sequence[Compared], console: Console) -> None:
    """Prints what was published beside what the clock says, and the errors' medians."""
    table = Table(box=box.SIMPLE_HEAD, title="published speeds", title_justify="left")
    for name in ("model", "drafts"):
        table.add_column(name, no_wrap=True)
    for name in (
        "published",
        "plain",
        "drafted",
        "error",
        "wafers",
        "published wafers",
    ):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("source")
    for each in compared:
        error, told, speed = each.error, each.published, each.speed
        plain = drafted = wafers = "does not fit"
        if not speed.refusal:
            plain = f"{speed.tokens_per_s():,.0f}"
            drafted = f"{speed.drafted().tokens_per_s:,.0f}"
            wafers = f"{speed.model.plan.wafers}"
        table.add_row(
            told.published_model,
            told.drafts,
            f"{told.tokens_per_s:,.0f}",
            plain,
            drafted,
            "" if error is None else f"{error:+.0%}",
            wafers,
            "" if told.wafers is None else f"{told.wafers}",
            f"{told.date}, {told.source}",
        )
    console.print(table)
    for drafts, words in ((("no",), "without drafts"), (("yes", "unsaid"), "others")):
        error = median_error(compared, drafts)
        if error is not None:
            console.print(f"median error, {words}: {error:.0%}", highlight=False)
    console.print(PUBLISHED_LEGEND, highlight=False)


def published_lines(compared: Sequence[Compared]) -> Iterator[list[Any]]:
    """Rows of `decode_scaling_published.csv`, in the order of `PUBLISHED_HEADING`."""
    for each in compared:
        told, speed = each.published, each.speed
        ours: list[float | int | None] = [None, None, None, None]
        if not speed.refusal:
            plain, drafted = speed.tokens_per_s(), speed.drafted().tokens_per_s
            ours = [plain, drafted, each.error, speed.model.plan.wafers]
        yield [
            told.model,
            told.published_model,
            told.drafts,
            told.tokens_per_s,
            told.wafers,
            *ours,
            told.date,
            told.kind,
            told.source,
        ]


def show_causes(causes: Mapping[str, Mapping[str, int]], console: Console) -> None:
    """Prints where each model's cycles of a token go."""
    table = Table(
        box=box.SIMPLE_HEAD,
        title="a token's cycles by cause",
        title_justify="left",
    )
    table.add_column("cause", no_wrap=True)
    for model in causes:
        table.add_column(model, justify="right", no_wrap=True)
    names = dict.fromkeys(name for each in causes.values() for name in each)
    for name in names:
        cells = []
        for each in causes.values():
            share = each[name] / sum(each.values())
            cells.append(f"{each[name]:,} ({share:.0%})")
        table.add_row(name, *cells)
    totals = [f"{sum(each.values()):,}" for each in causes.values()]
    table.add_row("all", *totals)
    console.print(table)
    console.print(CAUSES_LEGEND, highlight=False)


def show_grids(layers: Sequence[GridLayer], console: Console) -> None:
    """Prints layers over sizes of their grid."""
    table = Table(box=box.SIMPLE_HEAD, title="a layer over grids", title_justify="left")
    for name in ("kernel", "machine"):
        table.add_column(name, no_wrap=True)
    for name in ("PEs", "cycles", "published", "error"):
        table.add_column(name, justify="right", no_wrap=True)
    for each in layers:
        published = each.published_cycles
        table.add_row(
            each.kernel,
            each.machine,
            f"{each.rows:,} x {each.cols:,}",
            f"{each.cycles:,}",
            "" if published is None else f"{published:,}",
            "" if published is None else f"{each.cycles / published - 1:+.1%}",
        )
    console.print(table)


def grid_lines(layers: Sequence[GridLayer]) -> Iterator[list[Any]]:
    """Rows of `decode_scaling_grids.csv`, in the order of `GRID_HEADING`."""
    for each in layers:
        yield [
            *(each.kernel, each.machine, each.rows, each.cols),
            *(each.cycles, each.published_cycles),
        ]


__all__ = [
    "GRID_HEADING",
    "PUBLISHED_HEADING",
    "SPEED_HEADING",
    "grid_lines",
    "published_lines",
    "show_causes",
    "show_grids",
    "show_published",
    "show_speeds",
    "speed_lines",
]
