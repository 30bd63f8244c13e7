"""A floor plan as a table of wafers, and as rows of a file, a region each."""

from collections.abc import Iterator
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

from emu.datasheet import BANDS
from experiments.floor_plan.placed import Placed
from experiments.shared.output import Figures
from experiments.shared.units import count, duration

KINDS_OF_BYTES = ("weights", "cache", "tables", "buffers", "code")
HEADING = (
    "region",
    "wafer",
    "x",
    "y",
    "columns",
    "rows",
    *(f"{kind}_bytes_a_pe" for kind in KINDS_OF_BYTES),
    "bytes_a_pe",
    "cycles",
    "crosses",
)
LEGEND = """\
bytes: of the PEs' SRAM, all in use together; fullest PE: of 48 KiB; cycles: nominal, of the last
token that the context has room for, with its way into each region; crossing: whether the token
comes to the wafer's first region over two wafers' edges; the head's region has embedding and output
head, and the token's first stage is there too"""


def show(placed: Placed, console: Console) -> None:
    """Prints a line for each wafer, and the token's time."""
    plan = placed.plan
    users = f" for each of {plan.users:,} users" if plan.users > 1 else ""
    table = Table(
        title=f"{placed.name} in {placed.held}, a context of {placed.context:,} tokens{users}, on "
        f"{plan.wafers} WSE-3{', regions turned' if plan.turned else ''}",
        title_justify="left",
        box=box.SIMPLE_HEAD,
    )
    for name in ("wafer", "layers"):
        table.add_column(name, no_wrap=True)
    for name in (
        *("PEs in use", "of them", "weights", "cache", "buffers", "code"),
        *("fullest PE", "cycles", "crossing"),
    ):
        table.add_column(name, justify="right", no_wrap=True)
    for cells in _wafer_cells(placed):
        table.add_row(*cells)
    console.print(table)
    times = " / ".join(duration(placed.seconds[band]) for band in BANDS)
    without = " / ".join(duration(placed.wafer_seconds[band]) for band in BANDS)
    console.print(
        f"a token: {times} (low / nominal / high, predicted); without the host {without}",
        highlight=False,
    )
    console.print(LEGEND, highlight=False)


def _wafer_cells(placed: Placed) -> Iterator[list[str]]:
    for use in placed.wafers:
        stages = [x for x in placed.stages if x.wafer == use.wafer and x.name != "host"]
        yield [
            f"{use.wafer}",
            _layers(placed, use.wafer),
            f"{use.pes:,}",
            f"{use.pes / placed.wafer_pes:.0%}",
            *(
                count(use.sram_bytes.get(kind, 0), "B")
                for kind in ("weights", "cache", "buffers", "code")
            ),
            f"{use.peak_bytes:,} B",
            f"{sum(stage.cycles for stage in stages):,}",
            "yes" if any(stage.crosses for stage in stages) else "",
        ]


def _layers(placed: Placed, wafer: int) -> str:
    own = [n for n, each in enumerate(placed.plan.of_wafers) if each == wafer]
    told = []
    if own:
        told.append(f"{own[0]}" if len(own) == 1 else f"{own[0]} to {own[-1]}")
    if wafer == placed.plan.head_wafer:
        told.append("head")
    return ", ".join(told)


def lines(placed: Placed) -> Iterator[list[Any]]:
    """Rows of `floor_plan.csv`, in the order of `HEADING`."""
    cycles: dict[str, int] = {}
    crosses: dict[str, bool] = {}
    for stage in placed.stages:
        name = "head" if stage.name == "embed" else stage.name
        cycles[name] = cycles.get(name, 0) + stage.cycles
        crosses[name] = crosses.get(name, False) or stage.crosses
    for entry in placed.regions:
        region = entry.region
        yield [
            entry.name,
            entry.wafer,
            *(region.x, region.y, region.width, region.height),
            *(entry.pe_bytes.get(kind, 0) for kind in KINDS_OF_BYTES),
            entry.peak_bytes,
            cycles[entry.name],
            crosses[entry.name],
        ]


def figures(placed: Placed) -> Figures:
    """All of it, for `floor_plan.json`."""
    regions = [dict(zip(HEADING, line, strict=True)) for line in lines(placed)]
    wafers = [
        {
            "wafer": use.wafer,
            "regions": use.regions,
            "pes": use.pes,
            "peak_bytes_a_pe": use.peak_bytes,
            "sram_bytes": use.sram_bytes,
        }
        for use in placed.wafers
    ]
    return {
        "model": placed.name,
        "context": placed.context,
        "users": placed.plan.users,
        "held": placed.held,
        "grid": placed.plan.grid,
        "turned": placed.plan.turned,
        "token_s": dict(placed.seconds),
        "token_without_host_s": dict(placed.wafer_seconds),
        "stages": {stage.name: stage.cycles for stage in placed.stages},
        "wafers": wafers,
        "regions": regions,
    }


__all__ = ["HEADING", "LEGEND", "figures", "lines", "show"]
