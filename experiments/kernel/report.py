"""The tables that `experiments.kernel` prints: of one run, of two, of a search."""

from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

from rich.console import Console
from rich.table import Table

from emu import BANDS, Sheet
from emu.report.attribution import active_ticks
from emu.report.explain import NAMES, in_words
from emu.trainium.timed import Timed
from experiments.kernel.figures import BOUNDS
from experiments.kernel.run import title
from experiments.kernel.search import Search
from experiments.shared.units import count, duration
from kernels.trainium.catalogue import Entry

PATH_LINES = 8  # source lines of the critical path that are printed


def show_catalogue(entries: Mapping[str, Entry], console: Console) -> None:
    """Prints the kernels there are, with their sizes and what may be tuned."""
    for entry in entries.values():
        sizes = " ".join(f"{key}={value}" for key, value in entry.sizes.items())
        console.print(f"[bold]{entry.name}[/bold]: {entry.summary}", highlight=False)
        console.print(
            f"  {sizes}; to tune: {', '.join(entry.tunable)}", highlight=False
        )


def show(run: Timed, console: Console) -> None:
    """Prints the report of one run."""
    console.print(f"\n{run.title} on {run.machine}", markup=False, highlight=False)
    console.print(_headline(run), highlight=False)
    engines, bounds, split, path = details(run)
    for table in (engines, bounds, split):
        console.print(table)
    for number, reason in enumerate(run.reasons, 1):
        console.print(f"{number}. {reason.sentence}", highlight=False)
    console.print(path)


def details(run: Timed) -> tuple[Table, Table, Table, Table]:
    """Tables of engine use, of bounds, of where the time went and of the critical path."""
    return _engines(run), _bounds(run), _split(run), _path(run)


def show_pair(first: Timed, second: Timed, console: Console) -> None:
    """Prints two runs side by side, and the second's change over the first."""
    runs = (first, second)
    for letter, run in zip("AB", runs, strict=True):
        console.print(f"{letter}: {run.title} on {run.machine}", highlight=False)
    table = _table("Side by side (nominal; predicted)", "", "A", "B", "B over A")
    for name, left, right, form in compared(first, second):
        ratio = f"{right / left:.2f}x" if left else "-"
        table.add_row(name, form(left), form(right), ratio)
    console.print(table)
    for letter, run in zip("AB", runs, strict=True):
        for reason in run.reasons:
            console.print(f"{letter}: {reason.sentence}", highlight=False)


def show_search(
    entry: Entry, given: dict[str, Any], found: Search, sheet: Sheet, console: Console
) -> None:
    """Prints every setting of a search, fastest first, and the best."""
    names = list(found.tried[0].setting)
    table = _table(
        f"{title(entry, given)} on {sheet.name}, {sheet.deployed} (nominal; predicted)",
        *names,
        "us",
        "over the best",
        "why not",
    )
    best = found.best
    assert best is not None and best.ticks is not None  # or it was refused
    for tried in found.ranked():
        values = map(str, tried.setting.values())
        if tried.ticks is None:
            table.add_row(*values, "-", "-", tried.reason)
        else:
            us = tried.ticks / sheet.at().tick_hz * 1e6
            table.add_row(*values, f"{us:,.1f}", f"{tried.ticks / best.ticks:.2f}x", "")
    console.print(table)
    how = "the whole grid" if found.exhaustive else "one parameter at a time"
    chosen = " ".join(f"{key}={value}" for key, value in best.setting.items())
    console.print(
        f"best of {len(found.tried)} settings ({how}): {chosen}", highlight=False
    )


Compared: TypeAlias = tuple[str, float, float, Callable[[float], str]]
"""A figure's name, its value in either run, and how it is printed."""


def compared(first: Timed, second: Timed) -> list[Compared]:
    """Every figure that two runs are compared by: seconds, shares of a peak, bytes."""
    runs = (first, second)
    lines: list[Compared] = []

    def line(
        name: str, form: Callable[[float], str], value: Callable[[Timed], float]
    ) -> None:
        left, right = map(value, runs)
        lines.append((name, left, right, form))

    line("time", duration, lambda run: run.clock.seconds)
    line("time as written", duration, lambda run: run.as_written_s)
    for name in BOUNDS:
        line(name, duration, lambda run: getattr(run.bounds, name))
    for name in first.bounds.gaps():
        line(f"gap: {name}", duration, lambda run: run.bounds.gaps()[name])
    for name in ("mfu", "hfu", "mbu"):
        line(name, "{:.1%}".format, lambda run: getattr(run.utilisation, name))
    line("HBM bytes", _bytes, lambda run: run.quantities.hbm_bytes)
    for space in ("sbuf", "psum"):
        peak = f"peak {space.upper()}"
        line(peak, _bytes, lambda run: run.peak_bytes.get(space, 0))
    for engine in first.spent:
        active_s = [_active_s(run, engine) for run in runs]
        if any(active_s):
            name = f"{NAMES.get(engine, engine)} active"
            lines.append((name, active_s[0], active_s[1], duration))
    return lines


def _bytes(number: float) -> str:
    return count(number, "B")


def _active_s(run: Timed, engine: str) -> float:
    ticks = active_ticks(run.spent.get(engine, {}))
    return ticks / run.clock.device.tick_hz


def _headline(run: Timed) -> str:
    times = " / ".join(duration(run.time_s[band]) for band in BANDS)
    use = run.utilisation
    peak = run.peak_bytes
    capacity = run.clock.device.capacity_bytes
    memory = ", ".join(
        f"{space.upper()} {count(peak.get(space, 0), 'B')} of {count(capacity[space], 'B')}"
        for space in ("sbuf", "psum")
    )
    most = f"at most {use.mfu_max_achievable:.1%} at this traffic"
    flops = f"MFU {use.mfu:.1%} ({most}), HFU {use.hfu:.1%}, "
    return (
        f"time {times} (predicted; low / nominal / high)\n"
        f"as written, every ring one buffer: {duration(run.as_written_s)}\n"
        f"{flops if run.quantities.hardware_flops else ''}MBU {use.mbu:.1%}\npeak {memory}"
    )


def _engines(run: Timed) -> Table:
    table = _table("Engine use", "", "active", "cycles", "share", "largest wait")
    total = run.clock.end_ticks or 1
    for engine, spent in run.spent.items():
        active = active_ticks(spent)
        if not active:
            continue
        waits = {
            what.removeprefix("wait:"): ticks
            for what, ticks in spent.items()
            if what.startswith("wait:")
        }
        worst = max(waits, key=lambda what: waits[what], default="")
        told = f"{worst} {waits[worst] / total:.0%}" if worst else ""
        clocked = run.sheet.engines.get(engine)
        cycles = (
            f"{active // run.clock.device.ticks_per_cycle[engine]:,}" if clocked else ""
        )
        table.add_row(
            NAMES.get(engine, engine),
            duration(run.us(active) * 1e-6),
            cycles,
            f"{active / total:.1%}",
            told,
        )
    return table


def _bounds(run: Timed) -> Table:
    bounds = run.bounds
    table = _table(
        "Bounds, as AWS names them", "", "time", "of the total", "speedup, at most"
    )
    for name in BOUNDS:
        seconds = getattr(bounds, name)
        # The Tensor Engine has no part in it.
        if not seconds and name.startswith("compute"):
            continue
        told = (
            f"{name} ({bounds.bottleneck_engine})"
            if name == "perfect_pipeline"
            else name
        )
        cap = f"{bounds.speedup_cap[name]:.2f}x"
        table.add_row(
            told, duration(seconds), f"{seconds / bounds.total_time:.1%}", cap
        )
    table.add_row("total_time", duration(bounds.total_time), "100.0%", "")
    return table


def _split(run: Timed) -> Table:
    split = run.split
    title = f"Where the time of the {NAMES.get(split.engine, split.engine)} went"
    table = _table(title, "", "", "ticks", "us", "share")
    for part in split.parts:
        us = f"{run.us(part.ticks):,.2f}"
        words, _ = in_words(split.engine, part)
        table.add_row(
            part.kind, words, f"{part.ticks:,}", us, f"{split.share(part):.1%}"
        )
    table.add_row(
        "sum", "", f"{split.end_ticks:,}", f"{run.us(split.end_ticks):,.2f}", "100.0%"
    )
    return table


def _path(run: Timed) -> Table:
    table = _table(
        "Critical path by source line", "", "", "times", "us", "share", "busy"
    )
    table.columns[0].no_wrap = True
    total, lines = run.clock.end_ticks or 1, run.path_lines
    for line in lines[:PATH_LINES]:
        what = f"{line.name.rpartition('.')[2]}, {NAMES.get(line.engine, line.engine)}"
        table.add_row(
            line.where,
            what,
            f"{line.count:,}",
            f"{run.us(line.ticks):,.2f}",
            f"{line.ticks / total:.1%}",
            f"{line.busy / max(1, line.ticks):.0%}",
        )
    if rest := lines[PATH_LINES:]:
        ticks = sum(line.ticks for line in rest)
        times = sum(line.count for line in rest)
        us = f"{run.us(ticks):,.2f}"
        share = f"{ticks / total:.1%}"
        table.add_row(f"{len(rest)} others", "", f"{times:,}", us, share, "")
    return table


def _table(title: str, *headings: str) -> Table:
    """A table whose first columns without a heading, and those of words, are left-aligned."""
    table = Table(title=title, title_justify="left")
    for column, heading in enumerate(headings):
        words = column == 0 or heading in (
            "",
            "what it does",
            "sizes",
            "tunable",
            "largest wait",
            "why not",
        )
        table.add_column(heading, justify="left" if words else "right")
    return table
