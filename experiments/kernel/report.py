"""The tables that `experiments.kernel` prints: of one run, of two, of a search."""

from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.table import Table

from emu import BANDS, Sheet
from emu.report.attribution import active_ticks
from emu.report.explain import NAMES, in_words
from experiments.kernel.figures import BOUNDS
from experiments.kernel.run import Run, title
from experiments.kernel.search import Search
from experiments.shared.units import count, duration
from kernels.trainium.catalogue import Entry

PATH_LINES = 8  # source lines of the critical path that are printed


def show_catalogue(entries: Mapping[str, Entry], console: Console) -> None:
    """Prints the kernels there are, with their sizes and what may be tuned."""
    for entry in entries.values():
        sizes = " ".join(f"{k}={v}" for k, v in entry.sizes.items())
        console.print(f"[bold]{entry.name}[/bold]: {entry.summary}", highlight=False)
        console.print(
            f"  {sizes}; to tune: {', '.join(entry.tunable)}", highlight=False
        )


def show(run: Run, console: Console) -> None:
    """Prints the report of one run."""
    cores = "one core" if run.cores == 1 else f"{run.cores} cores"
    console.print(
        f"\n{run.title} on {run.sheet.name}, {cores}", markup=False, highlight=False
    )
    console.print(_headline(run), highlight=False)
    for table in (_engines(run), _bounds(run), _split(run)):
        console.print(table)
    for i, reason in enumerate(run.reasons, 1):
        console.print(f"{i}. {reason.sentence}", highlight=False)
    console.print(_path(run))


def show_pair(a: Run, b: Run, console: Console) -> None:
    """Prints two runs side by side, and the second's change over the first."""
    runs = (a, b)
    for letter, run in zip("AB", runs, strict=True):
        console.print(f"{letter}: {run.title} on {run.sheet.name}", highlight=False)
    table = _table("Side by side (nominal; predicted)", "", "A", "B", "B over A")
    for name, x, y, form in compared(a, b):
        ratio = f"{y / x:.2f}x" if x else "-"
        table.add_row(name, form(x), form(y), ratio)
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
        f"{title(entry, given)} on {sheet.name}",
        *names,
        "us",
        "over the best",
        "why not",
    )
    best = found.best
    for t in found.ranked():
        values = map(str, t.setting.values())
        if t.ticks is None or best is None or best.ticks is None:
            table.add_row(*values, "-", "-", t.reason)
        else:
            us = t.ticks / sheet.at().tick_hz * 1e6
            table.add_row(*values, f"{us:,.1f}", f"{t.ticks / best.ticks:.2f}x", "")
    console.print(table)
    how = "the whole grid" if found.exhaustive else "one parameter at a time"
    if best is None:
        console.print(f"none of {len(found.tried)} settings can run")
        return
    chosen = " ".join(f"{k}={v}" for k, v in best.setting.items())
    console.print(
        f"best of {len(found.tried)} settings ({how}): {chosen}", highlight=False
    )


def compared(a: Run, b: Run) -> list[tuple[str, float, float, Any]]:
    """`(figure, of A, of B, its form)`: seconds, shares of a peak, bytes."""
    percent = lambda x: f"{x:.1%}"  # noqa: E731
    nbytes = lambda x: count(x, "B")  # noqa: E731
    out: list[tuple[str, float, float, Any]] = [
        ("time", a.clock.seconds, b.clock.seconds, duration),
        ("time as written", a.as_written_s, b.as_written_s, duration),
    ]
    pick = lambda name: (getattr(a.bounds, name), getattr(b.bounds, name))  # noqa: E731
    out += [(name, *pick(name), duration) for name in BOUNDS]
    gaps = a.bounds.gaps(), b.bounds.gaps()
    out += [(f"gap: {name}", s, gaps[1][name], duration) for name, s in gaps[0].items()]
    for name in ("mfu", "hfu", "mbu"):
        out.append(
            (name, getattr(a.utilisation, name), getattr(b.utilisation, name), percent)
        )
    moved = a.quantities.hbm_bytes, b.quantities.hbm_bytes
    out.append(("HBM bytes", *moved, nbytes))
    out += [
        (f"peak {s.upper()}", a.peak_bytes.get(s, 0), b.peak_bytes.get(s, 0), nbytes)
        for s in ("sbuf", "psum")
    ]
    for engine in a.spent:
        x, y = (
            active_ticks(r.spent.get(engine, {})) / r.clock.device.tick_hz
            for r in (a, b)
        )
        if x or y:
            out.append((f"{NAMES.get(engine, engine)} active", x, y, duration))
    return out


def _headline(run: Run) -> str:
    times = " / ".join(duration(run.time_s[b]) for b in BANDS)
    u = run.utilisation
    peak = run.peak_bytes
    capacity = run.clock.device.capacity_bytes
    memory = ", ".join(
        f"{s.upper()} {count(peak.get(s, 0), 'B')} of {count(capacity[s], 'B')}"
        for s in ("sbuf", "psum")
    )
    most = f"at most {u.mfu_max_achievable:.1%} at this traffic"
    flops = f"MFU {u.mfu:.1%} ({most}), HFU {u.hfu:.1%}, "
    return (
        f"time {times} (predicted; low / nominal / high)\n"
        f"as written, every ring one buffer: {duration(run.as_written_s)}\n"
        f"{flops if run.quantities.hardware_flops else ''}MBU {u.mbu:.1%}\npeak {memory}"
    )


def _engines(run: Run) -> Table:
    table = _table("Engine use", "", "active", "cycles", "share", "largest wait")
    total = run.clock.end_ticks or 1
    for engine, spent in run.spent.items():
        active = active_ticks(spent)
        if not active:
            continue
        waits = {
            w.removeprefix("wait:"): t
            for w, t in spent.items()
            if w.startswith("wait:")
        }
        worst = max(waits, key=lambda w: waits[w], default="")
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


def _bounds(run: Run) -> Table:
    b = run.bounds
    table = _table(
        "Bounds, as AWS names them", "", "time", "of the total", "speedup, at most"
    )
    for name in BOUNDS:
        seconds = getattr(b, name)
        # The Tensor Engine has no part in it.
        if not seconds and name.startswith("compute"):
            continue
        told = f"{name} ({b.bottleneck_engine})" if name == "perfect_pipeline" else name
        cap = f"{b.speedup_cap[name]:.2f}x"
        table.add_row(told, duration(seconds), f"{seconds / b.total_time:.1%}", cap)
    table.add_row("total_time", duration(b.total_time), "100.0%", "")
    return table


def _split(run: Run) -> Table:
    s = run.split
    title = f"Where the time of the {NAMES.get(s.engine, s.engine)} went"
    table = _table(title, "", "", "ticks", "us", "share")
    for part in s.parts:
        us = f"{run.us(part.ticks):,.2f}"
        words, _ = in_words(s.engine, part)
        table.add_row(part.kind, words, f"{part.ticks:,}", us, f"{s.share(part):.1%}")
    table.add_row(
        "sum", "", f"{s.end_ticks:,}", f"{run.us(s.end_ticks):,.2f}", "100.0%"
    )
    return table


def _path(run: Run) -> Table:
    table = _table(
        "Critical path by source line", "", "", "times", "us", "share", "busy"
    )
    table.columns[0].no_wrap = True
    total, lines = run.clock.end_ticks or 1, run.path_lines
    for x in lines[:PATH_LINES]:
        what = f"{x.name.rpartition('.')[2]}, {NAMES.get(x.engine, x.engine)}"
        table.add_row(
            x.where,
            what,
            f"{x.count:,}",
            f"{run.us(x.ticks):,.2f}",
            f"{x.ticks / total:.1%}",
            f"{x.busy / max(1, x.ticks):.0%}",
        )
    if rest := lines[PATH_LINES:]:
        ticks = sum(x.ticks for x in rest)
        times = sum(x.count for x in rest)
        us = f"{run.us(ticks):,.2f}"
        share = f"{ticks / total:.1%}"
        table.add_row(f"{len(rest)} others", "", f"{times:,}", us, share, "")
    return table


def _table(title: str, *headings: str) -> Table:
    """A table whose first columns without a heading, and those of words, are left-aligned."""
    table = Table(title=title, title_justify="left")
    for i, heading in enumerate(headings):
        words = i == 0 or heading in (
            "",
            "what it does",
            "sizes",
            "tunable",
            "largest wait",
            "why not",
        )
        table.add_column(heading, justify="left" if words else "right")
    return table
