"""The tables that `experiments.fabric` prints of one run."""

from collections.abc import Sized

from rich.console import Console
from rich.table import Table

from emu.datasheet import BANDS, Device
from emu.wse.fabric.directions import DIRECTIONS
from emu.wse.fabric.phases import Phase
from emu.wse.fabric.result import Run
from emu.wse.fabric.views import summary
from emu.wse.fabric.views.drawing import drawn
from experiments.fabric.run import Report
from experiments.shared.units import duration

PHASES, COLORS = 16, 12  # that are printed
TRAINS = "trains (nobody waits for a shared link or a full queue)"


def show(title: str, report: Report, console: Console) -> None:
    """Prints the report of one run."""
    run, encoded = report.run, report.run.encoded
    height, width = run.ends.shape
    head = f"\n{title} on {encoded.device.name}, {width:,} x {height:,} PEs"
    console.print(head, highlight=False, markup=False)
    console.print(clocked(run.cycles, encoded.device), highlight=False)
    console.print(_path(report), highlight=False)
    console.print(_phases(summary.merged(run.phases)))
    if run.profile:
        console.print(_states(run))
    if summary.links(run):
        console.print(_links(run))
        console.print(_hops(run), highlight=False)
        if len(colors := summary.hops_by_color(run)) > 1:
            console.print(_colors(colors))
    if stamps := summary.stamps(run):
        console.print(_stamps(stamps))
    if report.log is not None:
        console.print(
            drawn(encoded, report.log), highlight=False, markup=False, soft_wrap=True
        )


def clocked(cycles: int, device: Device) -> str:
    """Cycles, and what they take at the three clocks of the datasheet."""
    clocks = [device.sheet.at(band).clock_hz for band in BANDS]
    low, nominal, high = (duration(cycles / hz) for hz in clocks)
    band = f"; {low} to {high} at {clocks[0] / 1e9:g} to {clocks[2] / 1e9:g} GHz"
    return (
        f"{cycles:,} cycles, {nominal} at {clocks[1] / 1e9:g} GHz (nominal{band}; predicted, "
        "not measured)"
    )


def _path(report: Report) -> str:
    if not report.trains:
        return f"path: cycles ({report.why})"
    if report.why:
        return f"path: {TRAINS}; PEs were not stepped: {report.why}"
    return f"path: {TRAINS}; stepped too, to see what PEs do: the same cycles"


def _phases(phases: tuple[Phase, ...]) -> Table:
    several = len({phase.task for phase in phases}) > 1
    table = _table(
        "Phases",
        *["task"] * several,
        "operation",
        "times",
        "first",
        "last",
        "datapath",
        "PE-cycles",
    )
    shown = sorted(phases, key=lambda phase: -phase.spent_cycles)[:PHASES]
    for phase in phases:
        if phase in shown:
            on = f" (microthread {phase.thread})" if phase.thread else ""
            numbers = (
                phase.times,
                phase.first_cycle,
                phase.last_cycle,
                phase.datapath_cycles,
                phase.spent_cycles,
            )
            table.add_row(
                *[phase.task] * several,
                phase.what + on,
                *(f"{number:,}" for number in numbers),
            )
    if rest := [phase for phase in phases if phase not in shown]:
        times, datapath, spent = (
            sum(getattr(phase, name) for phase in rest)
            for name in ("times", "datapath_cycles", "spent_cycles")
        )
        table.add_row(
            *[""] * several,
            _others(rest),
            f"{times:,}",
            "",
            "",
            f"{datapath:,}",
            f"{spent:,}",
        )
    return table


def _others(rest: Sized) -> str:
    return "1 other" if len(rest) == 1 else f"{len(rest)} others"


def _states(run: Run) -> Table:
    table = _table("What PEs did", "", "PE-cycles", "share")
    total = run.cycles * run.ends.size
    for state, cycles in summary.pe_cycles(run).items():
        table.add_row(state, f"{cycles:,}", f"{cycles / max(1, total):.1%}")
    table.add_row("sum", f"{total:,}", "100.0%", end_section=True)
    for name, cycles in summary.stalls(run).items():
        if cycles:
            table.add_row(
                f"within these: {name}", f"{cycles:,}", f"{cycles / total:.1%}"
            )
    return table


def _links(run: Run) -> Table:
    table = _table("Links", "to", "wavelets", "links", "mean use", "busiest", "at")
    for link in summary.links(run):
        use = link.wavelets / (link.links * run.cycles)
        table.add_row(
            "PE (ramp)" if link.direction == "ramp" else link.direction,
            f"{link.wavelets:,}",
            f"{link.links:,}",
            f"{use:.1%}",
            f"{link.most / run.cycles:.1%}",
            f"x={link.x}, y={link.y}",
        )
    return table


def _hops(run: Run) -> str:
    told = f"{summary.wavelet_hops(run):,} wavelet-hops"
    longest = summary.longest_route(run)
    if longest is None:
        return told
    hops, color = longest
    return (
        f"{told}; longest fixed route {hops:,} hop{'s' * (hops != 1)}, color '{color}'"
    )


def _colors(colors: dict[str, dict[str, int]]) -> Table:
    ways = [
        direction
        for direction in DIRECTIONS
        if any(direction in hops for hops in colors.values())
    ]
    table = _table("Wavelet-hops by color", "", *ways)
    most = sorted(colors, key=lambda color: -sum(colors[color].values()))[:COLORS]
    for name in (color for color in colors if color in most):
        table.add_row(
            name, *(f"{colors[name].get(direction, 0):,}" for direction in ways)
        )
    if rest := [hops for color, hops in colors.items() if color not in most]:
        table.add_row(
            _others(rest),
            *(f"{sum(of.get(direction, 0) for of in rest):,}" for direction in ways),
        )
    return table


def _stamps(stamps: dict[str, dict[str, int]]) -> Table:
    table = _table("Stamps", "name", "first cycle", "last cycle")
    for name, read in stamps.items():
        table.add_row(name, f"{read['first']:,}", f"{read['last']:,}")
    return table


def _table(title: str, *headings: str) -> Table:
    """A table with words on the left and numbers on the right."""
    table = Table(title=title, title_justify="left")
    for heading in headings:
        words = heading in ("", "task", "operation", "to", "at", "name")
        justify = "left" if words else "right"
        table.add_column(heading, justify=justify, no_wrap=not words, overflow="fold")
    return table
